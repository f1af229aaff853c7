"""A run folder: resolved configuration, metrics as JSON lines, checkpoint, artefact, summary."""

from __future__ import annotations

import json
import os
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from torch import Tensor

from pydistill.errors import FormatError, InputError, MismatchError
from pydistill.files import WriteError, read_json, write_json, write_text
from pydistill.tensorfile import read_tensors, write_tensors

CHECKPOINT_FORMAT = 1
CHECKPOINT_KEY = "pydistill.checkpoint"
CHECKPOINT_PARTS = ("distiller", "judge", "seconds")


class RunFolder:
    """The folder of one distillation.

    `config.json` is the resolved configuration; a run is continued only with the same one, but for the fields named
    free.
    """

    def __init__(self, path: str | os.PathLike[str]) -> None:
        self.path = Path(path)

    @property
    def checkpoint_path(self) -> Path:
        """Where the state of the last whole checkpoint lies."""
        return self.path / "checkpoint.safetensors"

    @property
    def metrics_path(self) -> Path:
        """One JSON object per line: iterations, evaluations and guard events, in order."""
        return self.path / "metrics.jsonl"

    def begin(self, config: dict[str, Any], *, resume: bool, free: Iterable[str] = ()) -> bool:
        """Open the folder for a run with `config`; returns whether there is a checkpoint to continue from.

        Args:
            config: nested JSON-able settings.
            resume: continue the run in the folder, if there is one.
            free: dotted names of settings that may differ from those the run began with.

        Raises:
            InputError: the folder holds a run and `resume` is false, or it is a file.
            MismatchError: the run in the folder began with other settings.
        """
        if self.path.exists() and not self.path.is_dir():
            raise InputError(f"{self.path} is a file, and a run needs a folder; choose another one")
        known = self.path / "config.json"
        config = json.loads(json.dumps(config))  # tuples become lists, as they are in the file
        # A folder without a single event is that of a run that failed before its first iteration: nothing is lost.
        begun = known.exists() and self.metrics_path.exists() and self.metrics_path.stat().st_size > 0
        if begun and not resume:
            raise InputError(f"{self.path} already holds a run; continue it with --resume or choose another folder")
        if begun:
            _check_same(_flat(read_json(known)), _flat(config), set(free), self.path)
        write_json(known, config)
        return begun and self.checkpoint_path.exists()

    def save_checkpoint(self, state: dict[str, Any], tensors: dict[str, Tensor]) -> None:
        """Replace the checkpoint by this state, atomically."""
        if self.metrics_path.exists():  # what the checkpoint has counted must not be younger than it on the disk
            with open(self.metrics_path, "rb+") as handle:
                os.fsync(handle.fileno())
        write_tensors(self.checkpoint_path, CHECKPOINT_KEY, {"format": CHECKPOINT_FORMAT, **state}, tensors)

    def load_checkpoint(self) -> tuple[dict[str, Any], dict[str, Tensor]]:
        """The state of the last checkpoint; FormatError if the file is damaged or of another format."""
        file = self.checkpoint_path
        try:
            state, tensors = read_tensors(file, CHECKPOINT_KEY, CHECKPOINT_FORMAT, "a checkpoint")
        except FormatError as error:
            raise FormatError(f"checkpoint {error}; remove it to begin the run anew") from error
        missing = [name for name in CHECKPOINT_PARTS if name not in state]
        if missing:
            raise FormatError(f"checkpoint {file} is damaged (it lacks {missing[0]}); remove it to begin the run anew")
        return state, tensors

    def append_metrics(self, record: dict[str, Any]) -> None:
        """Add one line to the metrics."""
        try:
            with open(self.metrics_path, "a", encoding="utf-8") as handle:
                handle.write(json.dumps(record) + "\n")
        except OSError as error:
            raise WriteError(
                f"cannot write {self.metrics_path}: {error.strerror}; the last checkpoint is whole, "
                "continue with --resume when there is room"
            ) from error

    def metrics(self) -> list[dict[str, Any]]:
        """All whole lines of the metrics; FormatError if one of them is something else."""
        if not self.metrics_path.exists():
            return []
        records: list[dict[str, Any]] = []
        for line in self.metrics_path.read_text(encoding="utf-8").splitlines():
            try:
                record = json.loads(line)
            except json.JSONDecodeError:
                break  # a line that a killed process was writing; everything after a checkpoint is written again
            if not isinstance(record, dict) or not {"event", "iteration"} <= record.keys():
                raise FormatError(f"{self.metrics_path} is damaged: line {len(records) + 1} is no event of a run")
            records.append(record)
        return records

    def rewind_metrics(self, iteration: int) -> None:
        """Drop what was written after `iteration`, so that a resumed run writes it again once."""
        kept = [record for record in self.metrics() if record["iteration"] <= iteration]
        write_text(self.metrics_path, "".join(json.dumps(record) + "\n" for record in kept))


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
