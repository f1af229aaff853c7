"""The folder of a run: its lock, its checkpoint and its metrics."""

from __future__ import annotations

import json
import math
import os
from collections.abc import Iterable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

from torch import Tensor

from pydistill._util.files import WriteError, open_regular, refuse_links, with_remedy, write_text
from pydistill._util.layout import (
    BEST_NAME,
    CHECKPOINT_NAME,
    CONFIG_NAME,
    CONVEXIFIED_NAME,
    LOCK,
    METRICS_NAME,
    OUTCOMES,
    RECIPE_NAME,
    SET_NAME,
    SETTINGS,
    TENSORBOARD_NAME,
    WANDB_ID_NAME,
    WANDB_NAME,
    refuse_experts,
)
from pydistill._util.locking import only_writer
from pydistill._util.tensor_file import read_header, read_tensors, write_tensors
from pydistill.errors import FormatError, InputError, MismatchError, Name

CHECKPOINT_FORMAT = 2
CHECKPOINT_KEY = "pydistill.checkpoint"
CHECKPOINT = (CHECKPOINT_KEY, CHECKPOINT_FORMAT, "a checkpoint")
RESTORE = "restore it from a copy, or start the run again in another folder"

_WRITTEN = (*SETTINGS, METRICS_NAME, CHECKPOINT_NAME, SET_NAME, BEST_NAME, WANDB_ID_NAME)

Checkpoint = tuple[dict[str, Any], dict[str, Tensor]]


class RunFolder:
    """The folder of one distillation.

    A run is continued from two files, which are refused if they are missing or damaged: checkpoint.safetensors, the
    state, and metrics.jsonl, which is cut back to what it held when the checkpoint was written. All other files are
    results, which a continued run writes again and never reads.

    Attributes:
        path: the folder.
        checkpoint_path: the state of the run, replaced atomically.
        metrics_path: iterations, evaluations and guard events in order, one JSON object per line.
        config_path: the resolved configuration.
        recipe_path: the resolved recipe.
    """

    def __init__(self, path: str | os.PathLike[str]) -> None:
        self.path = Path(path)
        self.checkpoint_path = self.path / CHECKPOINT_NAME
        self.metrics_path = self.path / METRICS_NAME
        self.config_path = self.path / CONFIG_NAME
        self.recipe_path = self.path / RECIPE_NAME

    @contextmanager
    def opened(self) -> Iterator[None]:
        """Hold the folder's lock, as its only writer; a new folder that is still empty on an error is removed.

        Raises:
            InputError: the path is a file, or the folder holds experts or is being written by another process.
            WriteError: the folder cannot be written, or a link is in place of a file or folder that the run writes in.
        """
        if self.path.exists() and not self.path.is_dir():
            raise InputError(f"{self.path} is a file, and a run needs a folder; choose another one")
        refuse_experts(self.path)
        refuse_links(self.path, (CONVEXIFIED_NAME, TENSORBOARD_NAME, WANDB_NAME))
        new = not self.path.exists()
        with only_writer(self.path, writes=_WRITTEN):
            try:
                yield
            except BaseException:
                if new and [path.name for path in self.path.glob("*")] == [LOCK]:
                    (self.path / LOCK).unlink()
                    with suppress(OSError):
                        self.path.rmdir()
                raise

    def check_free(self) -> None:
        """Refuse to start a run in a folder that holds one.

        Raises:
            InputError: the folder holds a run, or a file that a run would overwrite.
        """
        if self._started():
            raise InputError(
                f"{self.path} already holds a run; add ", Name("resume"), " to continue it, or choose another folder"
            )

    def checkpoint_to_resume(self, config: dict[str, Any], *, resume: bool, free: Iterable[str]) -> Checkpoint | None:
        """Return the checkpoint to continue from; None if no iteration has been done, so that the run starts at 0.

        Args:
            config: JSON-able nested settings of the run.
            resume: continue the run in the folder, if there is one.
            free: dotted names of settings that may differ from those the run was started with.

        Raises:
            InputError: the folder holds a run and `resume` is false; or results of a run without its checkpoint.
            MismatchError: the run was started with other settings.
            FormatError: the checkpoint is damaged or of another version.
        """
        if not resume:
            self.check_free()
        if not self._started():
            return None
        state, tensors = self.load_checkpoint()
        _check_same(flat(state["config"]), flat(config), set(free), self.path)
        return state, tensors

    def _started(self) -> bool:
        """Return True if an iteration has been done; raise InputError if there are results but no checkpoint."""
        if self.checkpoint_path.exists():
            return bool(self.checkpoint_header()["distiller"]["iteration"] > 0)
        for name in (METRICS_NAME, *OUTCOMES):
            path = self.path / name
            if os.path.lexists(path) and not (name == METRICS_NAME and path.lstat().st_size == 0):
                raise InputError(f"{self.path} holds {name} but no {CHECKPOINT_NAME}; {RESTORE}")
        return False

    def save_checkpoint(self, state: dict[str, Any], tensors: dict[str, Tensor]) -> None:
        """Replace the checkpoint atomically; it records the current length of the metrics.

        Raises:
            WriteError: it cannot be written, or the folder is gone.
        """
        try:
            with open(self.metrics_path, "ab", opener=open_regular) as handle:
                os.fsync(handle.fileno())  # the lines that the checkpoint counts must reach the disk before it
                size = os.fstat(handle.fileno()).st_size
        except OSError as error:
            raise self._metrics_error(error) from error
        header = {**state, "format": CHECKPOINT_FORMAT, "metrics_bytes": size}
        write_tensors(self.checkpoint_path, CHECKPOINT_KEY, header, tensors)

    def load_checkpoint(self) -> Checkpoint:
        """Read the checkpoint.

        Raises:
            FormatError: the file is missing, damaged or of another version.
        """
        with self._checkpoint_errors():
            state, tensors = read_tensors(self.checkpoint_path, *CHECKPOINT)
            return _checked(state, self.checkpoint_path), tensors

    def checkpoint_header(self) -> dict[str, Any]:
        """Read the checkpoint without its tensors; damage to them goes unnoticed.

        Raises:
            FormatError: as `load_checkpoint`.
        """
        with self._checkpoint_errors():
            return _checked(read_header(self.checkpoint_path, *CHECKPOINT), self.checkpoint_path)

    @contextmanager
    def _checkpoint_errors(self) -> Iterator[None]:
        try:
            yield
        except FormatError as error:
            raise FormatError(f"checkpoint {error}; {RESTORE}") from error

    def append_metrics(self, record: dict[str, Any]) -> None:
        """Append one line to the metrics."""
        try:
            with open(self.metrics_path, "a", encoding="utf-8", opener=open_regular) as handle:
                handle.write(json.dumps(record) + "\n")
        except OSError as error:
            raise self._metrics_error(error) from error

    def _metrics_error(self, error: OSError) -> WriteError:
        return WriteError(
            f"cannot write {self.metrics_path}: {with_remedy(error)}; the run can be resumed from its last checkpoint"
        )

    def metrics(self) -> list[dict[str, Any]]:
        """Read the metrics, without a last line that has no end because its writer was killed.

        Raises:
            FormatError: another line is damaged, or the file cannot be read.
        """
        if not self.metrics_path.exists():
            return []
        return self._parsed(self._read_metrics())

    def start_metrics(self) -> None:
        """Start with empty metrics."""
        write_text(self.metrics_path, "")

    def rewind_metrics(self, size: int) -> None:
        """Cut the metrics to the `size` bytes that the checkpoint counts; the resumed run writes the rest again.

        Raises:
            FormatError: the file is missing or shorter, or a line in these bytes is damaged; nothing is cut then.
            WriteError: the file cannot be written.
        """
        content = self._read_metrics()[:size]
        if len(content) < size or (size > 0 and not content.endswith(b"\n")):
            raise FormatError(f"{self.metrics_path} lacks lines that the checkpoint counts; {RESTORE}")
        self._parsed(content)
        try:
            with open(self.metrics_path, "r+b", opener=open_regular) as handle:
                os.ftruncate(handle.fileno(), size)
        except OSError as error:
            raise self._metrics_error(error) from error

    def _read_metrics(self) -> bytes:
        try:
            with open(self.metrics_path, "rb", opener=open_regular) as handle:
                return handle.read()
        except OSError as error:
            raise FormatError(f"{self.metrics_path} cannot be read: {error.strerror}; {RESTORE}") from error

    def _parsed(self, content: bytes) -> list[dict[str, Any]]:
        records: list[dict[str, Any]] = []
        for line in content.splitlines(keepends=True):
            try:
                record = json.loads(line)
            except (ValueError, RecursionError):
                if not line.endswith(b"\n"):
                    break
                record = None
            if not _is_event(record):
                raise FormatError(f"{self.metrics_path} is damaged at line {len(records) + 1}; {RESTORE}")
            records.append(record)
        return records


def _checked(state: dict[str, Any], path: Path) -> dict[str, Any]:
    """Return the header of a checkpoint, if it has the parts that its readers rely on."""
    distiller, seconds = state.get("distiller"), state.get("seconds")
    counts = (distiller.get("iteration") if isinstance(distiller, dict) else None, state.get("metrics_bytes"))
    if (
        not all(isinstance(count, int) and count >= 0 for count in counts)
        or not isinstance(state.get("config"), dict)
        or not isinstance(seconds, int | float)
        or not math.isfinite(seconds)
    ):
        raise FormatError(f"{path} is damaged: its header lacks a part")
    return state


def _is_event(record: Any) -> bool:
    """Return True if a line of the metrics is an event with the numbers that readers need."""

    def is_number(name: str) -> bool:
        return isinstance(record.get(name), int | float) and not isinstance(record[name], bool)

    if not isinstance(record, dict) or not isinstance(record.get("event"), str):
        return False
    iteration = record.get("iteration")
    if type(iteration) is not int or not 0 <= iteration < 2**63:
        return False
    if record["event"] == "iteration":
        has_loss = "loss" in record and (record["loss"] is None or is_number("loss"))
        return has_loss and "step" in record and is_number("lr")
    if record["event"] == "evaluation":
        return is_number("mean") and is_number("std") and isinstance(record.get("runs"), list)
    return True


def flat(settings: dict[str, Any], prefix: str = "") -> dict[str, Any]:
    """Return nested settings by their dotted names."""
    named: dict[str, Any] = {}
    for name, value in settings.items():
        named |= flat(value, f"{prefix}{name}.") if isinstance(value, dict) else {f"{prefix}{name}": value}
    return named


def _check_same(before: dict[str, Any], now: dict[str, Any], free: set[str], path: Path) -> None:
    for name in sorted(before.keys() | now.keys()):
        if name not in free and before.get(name) != now.get(name):
            raise MismatchError(
                f"the run in {path} was started with {name} = {before.get(name)!r}, not {now.get(name)!r}; "
                "resume it with its own settings or choose another folder"
            )
