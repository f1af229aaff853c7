"""A run folder: resolved configuration, metrics as JSON lines, checkpoint, artefact, summary."""

from __future__ import annotations

import json
import logging
import math
import os
from collections.abc import Iterable, Iterator
from contextlib import contextmanager, suppress
from itertools import count
from pathlib import Path
from typing import Any

from torch import Tensor

from pydistill._util.files import WriteError, read_json, remove_leftovers, with_remedy, write_json, write_text
from pydistill._util.layout import (
    BEST_NAME,
    CHECKPOINT_NAME,
    CONFIG_NAME,
    EVALUATIONS_LOCK,
    LOCK,
    LOGS,
    METRICS_NAME,
    OUTCOMES,
    RECIPE_NAME,
    SET_NAME,
    SETTINGS,
    refuse_experts,
)
from pydistill._util.locking import only_writer
from pydistill._util.tensor_file import read_header, read_tensors, write_tensors
from pydistill.errors import FormatError, InputError, MismatchError

_log = logging.getLogger("pydistill")

CHECKPOINT_FORMAT = 1
CHECKPOINT_KEY = "pydistill.checkpoint"
CHECKPOINT = (CHECKPOINT_KEY, CHECKPOINT_FORMAT, "a checkpoint")
CHECKPOINT_PARTS = ("distiller", "judge", "seconds")
MOVING = ".before.tmp"  # what an earlier run left, while it is moved to before-1 (2, 3, …)


class RunFolder:
    """The folder of one distillation.

    `config.json` is the resolved configuration; a run is continued only with the same one, but for the fields named
    free.
    """

    def __init__(self, path: str | os.PathLike[str]) -> None:
        self.path = Path(path)
        self._config: dict[str, Any] | None = None
        self._told_of_copy = False

    @property
    def checkpoint_path(self) -> Path:
        """Where the state of the last whole checkpoint lies."""
        return self.path / CHECKPOINT_NAME

    @property
    def metrics_path(self) -> Path:
        """One JSON object per line: iterations, evaluations and guard events, in order."""
        return self.path / METRICS_NAME

    @property
    def config_path(self) -> Path:
        """The resolved configuration."""
        return self.path / CONFIG_NAME

    @property
    def recipe_path(self) -> Path:
        """The resolved recipe, which `--config` reads again."""
        return self.path / RECIPE_NAME

    @contextmanager
    def opened(self) -> Iterator[None]:
        """Write the folder as the only process that does; one that was made for it and stays empty is removed again.

        Raises:
            InputError: it is a file, holds experts, or is being written by another process.
            WriteError: it cannot be written.
        """
        if self.path.exists() and not self.path.is_dir():
            raise InputError(f"{self.path} is a file, and a run needs a folder; choose another one")
        refuse_experts(self.path)
        new = not self.path.exists()
        with only_writer(self.path):
            remove_leftovers(self.path, (*SETTINGS, METRICS_NAME, CHECKPOINT_NAME, SET_NAME, BEST_NAME))
            try:
                yield
            except BaseException:
                if new and self.path.is_dir() and [path.name for path in self.path.iterdir()] == [LOCK]:
                    (self.path / LOCK).unlink()
                    with suppress(OSError):  # another process may have begun in it since; what failed is told
                        self.path.rmdir()
                raise

    def continues(self, config: dict[str, Any], *, resume: bool, free: Iterable[str] = ()) -> bool:
        """Whether a run with `config` is to be continued from a checkpoint in the folder; nothing is written.

        Args:
            config: nested JSON-able settings.
            resume: continue the run in the folder, if there is one.
            free: dotted names of settings that may differ from those the run began with.

        Raises:
            InputError: the folder holds a run, or the outcome of one, and `resume` is false.
            MismatchError: the run in the folder began with other settings.
        """
        if self.begun and not resume:
            raise InputError(f"{self.path} already holds a run; continue it with --resume or choose another folder")
        if not resume and (left := self._left()):
            raise InputError(f"{self.path} already holds {left[0]}; choose another folder, or move it elsewhere")
        if self.begun:
            _check_same(self.config(), _flat(_as_json(config)), set(free), self.path)
        return self.checkpoint_path.exists()

    @property
    def begun(self) -> bool:
        """Whether there is a run in the folder.

        A folder without a single event is that of a run that failed before its first iteration: nothing is lost.
        """
        return self.checkpoint_path.exists() or (self.config_path.exists() and bool(self._left()))

    def _left(self) -> list[str]:
        """What there is in the folder that tells how a run went, by name."""
        events = self.metrics_path.exists() and self.metrics_path.stat().st_size > 0
        found = [METRICS_NAME] if events else []
        return found + [name for name in (*OUTCOMES, MOVING) if os.path.lexists(self.path / name)]

    def config(self) -> dict[str, Any]:
        """The configuration that the run began with, by dotted names; the checkpoint's copy if the file is lost.

        Raises:
            FormatError: neither can be read.
        """
        try:
            config = read_json(self.config_path)
            if not isinstance(config, dict):
                raise FormatError(f"{self.config_path} is damaged: it is no configuration")
        except (OSError, FormatError) as error:
            told = (
                str(error) if isinstance(error, FormatError) else f"{self.config_path} cannot be read: {error.strerror}"
            )
            config = self.checkpoint_state().get("config") if self.checkpoint_path.exists() else None
            if not isinstance(config, dict):
                raise FormatError(f"{told}; put it back, or choose another folder") from error
            if not self._told_of_copy:
                _log.warning("%s; the checkpoint's copy is taken", told)
            self._told_of_copy = True
        return _flat(config)

    def write_config(self, config: dict[str, Any]) -> None:
        """Replace the configuration, atomically; checkpoints from now on hold a copy of it."""
        self._config = _as_json(config)
        write_json(self.config_path, self._config)

    def begin_anew(self, *, resume: bool) -> None:
        """Make room for a run from iteration 0 in a folder without a checkpoint, and tell what becomes of the old one.

        All that there is of an earlier run is moved into before-1 (2, 3, …) in the folder. But lines of a first
        iteration alone, behind which there always is a checkpoint, are dropped: a process that was stopped in between
        wrote them, and they are written again.

        Args:
            resume: the run was to be continued: who asked for that is told if there is nothing to continue.

        Raises:
            WriteError: something cannot be moved.
        """
        none = f"there is no {CHECKPOINT_NAME} in {self.path}{' to resume from' if resume else ''}"
        left = self._left()
        if left == [METRICS_NAME] and self._stopped_at_once():
            _log.warning("%s: the run begins anew at iteration 0", none)
        elif left:
            aside, names = self._set_aside()
            told = "the run begins anew at iteration 0, and what an earlier one left is moved to"
            _log.warning("%s: %s %s (%s)", none, told, aside, ", ".join(names))
        elif resume:
            _log.info("%s: the run begins at iteration 0", none)
        write_text(self.metrics_path, "")

    def _stopped_at_once(self) -> bool:
        """Whether the metrics are those of a run that was stopped within its first iteration."""
        try:
            return all(record["iteration"] <= 1 for record in self.metrics())
        except FormatError:
            return False

    def _set_aside(self) -> tuple[Path, list[str]]:
        """Move the earlier run into a folder of its own; returns it and the names of what is there now.

        The folder gets its name at the end: where this is broken off, the next attempt goes on with it. The settings,
        which that one compares, are moved last.
        """
        names = (*LOGS, *OUTCOMES, METRICS_NAME, *SETTINGS)
        moving = self.path / MOVING
        with only_writer(self.path, name=EVALUATIONS_LOCK, wait=True):
            try:
                moving.mkdir(exist_ok=True)
                for name in names:
                    if os.path.lexists(self.path / name):
                        (self.path / name).replace(moving / name)
                places = (self.path / f"before-{number}" for number in count(1))
                aside = next(place for place in places if not os.path.lexists(place))
                moving.replace(aside)
            except OSError as error:
                told = f"cannot move what an earlier run left in {self.path} out of the way: {with_remedy(error)}"
                raise WriteError(f"{told}; nothing is lost, and --resume goes on with it") from error
        return aside, [name for name in names if os.path.lexists(aside / name)]

    def save_checkpoint(self, state: dict[str, Any], tensors: dict[str, Tensor]) -> None:
        """Replace the checkpoint by this state, atomically; it counts the metrics that there are now.

        Raises:
            WriteError: it cannot be written, or the folder is gone.
        """
        try:
            with open(self.metrics_path, "ab") as handle:
                os.fsync(handle.fileno())  # what the checkpoint has counted must not be younger than it on the disk
                size = os.fstat(handle.fileno()).st_size
        except OSError as error:
            raise self._not_written(error) from error
        header = {"format": CHECKPOINT_FORMAT, "config": self._config, **state, "metrics_bytes": size}
        write_tensors(self.checkpoint_path, CHECKPOINT_KEY, header, tensors)

    def load_checkpoint(self) -> tuple[dict[str, Any], dict[str, Tensor]]:
        """The state of the last checkpoint; FormatError if the file is damaged or of another format."""
        with self._told_as_checkpoint():
            state, tensors = read_tensors(self.checkpoint_path, *CHECKPOINT)
        self._check_state(state)
        return state, tensors

    def checkpoint_state(self) -> dict[str, Any]:
        """The state of `load_checkpoint` alone: the tensors are not read, and damage to them is not seen."""
        with self._told_as_checkpoint():
            state = read_header(self.checkpoint_path, *CHECKPOINT)
        self._check_state(state)
        return state

    @contextmanager
    def _told_as_checkpoint(self) -> Iterator[None]:
        try:
            yield
        except FormatError as error:
            raise FormatError(f"checkpoint {error}; remove it to begin the run anew") from error

    def _check_state(self, state: dict[str, Any]) -> None:
        file = self.checkpoint_path
        missing = [name for name in CHECKPOINT_PARTS if name not in state]
        if missing:
            raise FormatError(f"checkpoint {file} is damaged (it lacks {missing[0]}); remove it to begin the run anew")
        distiller, seconds = state["distiller"], state["seconds"]
        iteration = distiller.get("iteration") if isinstance(distiller, dict) else None
        counted = isinstance(iteration, int) and iteration >= 0
        if not counted or not isinstance(seconds, int | float) or not math.isfinite(seconds):
            raise FormatError(
                f"checkpoint {file} is damaged (its iteration or its seconds are no numbers); "
                "remove it to begin the run anew"
            )

    def append_metrics(self, record: dict[str, Any]) -> None:
        """Add one line to the metrics."""
        try:
            with open(self.metrics_path, "a", encoding="utf-8") as handle:
                handle.write(json.dumps(record) + "\n")
        except OSError as error:
            raise self._not_written(error) from error

    def _not_written(self, error: OSError) -> WriteError:
        return WriteError(
            f"cannot write {self.metrics_path}: {with_remedy(error)}, and continue with --resume; "
            "the last checkpoint is whole"
        )

    def metrics(self) -> list[dict[str, Any]]:
        """All whole lines of the metrics; FormatError if one of them is something else."""
        if not self.metrics_path.exists():
            return []
        records: list[dict[str, Any]] = []
        for line in self.metrics_path.read_bytes().splitlines(keepends=True):
            try:
                record = json.loads(line)
            except (ValueError, RecursionError):
                if not line.endswith(b"\n"):
                    break  # the last, which a killed process was writing; what follows a checkpoint is written again
                record = None
            if not _is_event(record):
                raise FormatError(
                    f"{self.metrics_path} is damaged: line {len(records) + 1} is no event of a run; "
                    "remove the line, or put the file back"
                )
            records.append(record)
        return records

    def rewind_metrics(self, iteration: int, size: int | None) -> None:
        """Drop what was written after a checkpoint, so that a resumed run writes it again once.

        Args:
            iteration: the checkpoint's, 0 if there is none.
            size: bytes of the metrics when it was written; None if it does not tell.

        Raises:
            FormatError: a whole line that the checkpoint counts is no event of a run.
            WriteError: the file cannot be written.
        """
        if not self.metrics_path.exists():
            write_text(self.metrics_path, "")
        if size is not None and self._ends_a_line(size):
            try:
                os.truncate(self.metrics_path, size)
            except OSError as error:
                raise self._not_written(error) from error
            # A damaged line is told now, not when the run has ended.
            if all(record["iteration"] <= iteration for record in self.metrics()):
                return
        kept = [record for record in self.metrics() if record["iteration"] <= iteration]
        if size is not None:  # told where the run does go on: damage has been raised
            _log.warning("%s lacks lines that the checkpoint counts; the run goes on without them", self.metrics_path)
        write_text(self.metrics_path, "".join(json.dumps(record) + "\n" for record in kept))

    def _ends_a_line(self, size: int) -> bool:
        """Whether the first `size` bytes of the metrics are there and are whole lines."""
        with open(self.metrics_path, "rb") as handle:
            handle.seek(max(0, size - 1))
            return size == 0 or handle.read(1) == b"\n"


def _is_event(record: Any) -> bool:
    """Whether it is an event of a run, with the numbers that readers of its kind rely on."""

    def number(name: str) -> bool:
        return isinstance(record.get(name), (int, float)) and not isinstance(record[name], bool)

    if (
        not isinstance(record, dict)
        or not isinstance(record.get("event"), str)
        or type(record.get("iteration")) is not int
    ):
        return False
    if record["event"] == "iteration":
        return "step" in record and number("lr") and (record.get("loss", "none") is None or number("loss"))
    return record["event"] != "evaluation" or (
        number("mean") and number("std") and isinstance(record.get("runs"), list)
    )


def _as_json(config: dict[str, Any]) -> dict[str, Any]:
    """As it will be read back: tuples become lists."""
    plain: dict[str, Any] = json.loads(json.dumps(config))
    return plain


def _flat(config: dict[str, Any], prefix: str = "") -> dict[str, Any]:
    flat: dict[str, Any] = {}
    for name, value in config.items():
        if isinstance(value, dict):
            flat |= _flat(value, f"{prefix}{name}.")
        else:
            flat[f"{prefix}{name}"] = value
    return flat


def _check_same(before: dict[str, Any], now: dict[str, Any], free: set[str], path: Path) -> None:
    for name in sorted(before.keys() | now.keys()):
        if name not in free and before.get(name) != now.get(name):
            raise MismatchError(
                f"the run in {path} began with {name} = {before.get(name)!r}, not {now.get(name)!r}; "
                "resume it with its own settings or choose another folder"
            )
