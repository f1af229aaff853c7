"""What a run folder holds, whether the run has ended, goes on or was stopped: what the report is made of."""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeGuard

from torch import Tensor

from pydistill.errors import FormatError
from pydistill.evaluations import read_evaluations
from pydistill.files import read_json
from pydistill.folders import SUMMARY_NAME, no_run
from pydistill.runfolder import RunFolder

_log = logging.getLogger("pydistill")

Record = dict[str, Any]
Checkpoint = tuple[Record, dict[str, Tensor]]
GREATEST = 1e100


@dataclass(frozen=True)
class Contents:
    """A run folder, read.

    Attributes:
        path: the folder.
        recipe: the resolved recipe, nested.
        config: the recipe with what the run was made from (experts, architecture).
        metrics: the lines of metrics.jsonl.
        summary: summary.json, or empty while there is none.
        evaluations: the rows of evaluations.json.
    """

    path: Path
    recipe: Record
    config: Record
    metrics: list[Record]
    summary: Record
    evaluations: list[Record]

    def events(self, kind: str) -> list[Record]:
        """The metrics of one kind, in order."""
        return [line for line in self.metrics if line["event"] == kind]

    @property
    def done(self) -> int:
        """How many iterations there are."""
        return max((line["iteration"] for line in self.events("iteration")), default=0)

    @property
    def asked(self) -> int:
        """How many iterations the recipe asks for."""
        asked = dig(self.recipe, "distill", "iterations")
        return int(asked) if is_number(asked) else 0

    @property
    def finished(self) -> bool:
        """Whether the last iteration is done and evaluated."""
        return self.done >= self.asked and any(line["iteration"] >= self.done for line in self.events("evaluation"))


def read_run(path: Path) -> Contents:
    """Read a run folder as it is now.

    Raises:
        InputError: there is no run in the folder.
        FormatError: one of its files is damaged.
    """
    folder = RunFolder(path)
    if not folder.metrics_path.exists():
        raise no_run(path)
    config = _mapping(folder.config_path)
    recipe = _mapping(folder.recipe_path) or config
    metrics = folder.metrics()
    for number, line in enumerate(metrics, start=1):
        if not isinstance(line["iteration"], int):
            raise FormatError(f"{folder.metrics_path} is damaged: line {number} counts no iterations")
    return Contents(path, recipe, config, metrics, _mapping(path / SUMMARY_NAME), read_evaluations(path))


def readable_checkpoint(folder: RunFolder) -> Checkpoint | None:
    """The run's checkpoint; None if there is none, or a damaged one, which is told: most is in other files too."""
    try:
        return folder.load_checkpoint() if folder.checkpoint_path.exists() else None
    except FormatError:
        _log.warning("checkpoint %s is damaged; the report is made without it", folder.checkpoint_path)
        return None


def _mapping(file: Path) -> Record:
    """The JSON object in the file; nothing if there is no file."""
    if not file.exists():
        return {}
    value = read_json(file)
    if not isinstance(value, dict):
        raise FormatError(f"{file} is damaged: it holds no JSON object")
    return value


def dig(values: Mapping[str, Any], *names: str, default: Any = None) -> Any:
    """What lies under a chain of names, or `default`."""
    found: Any = values
    for name in names:
        if not isinstance(found, Mapping) or name not in found:
            return default
        found = found[name]
    return default if found is None else found


def is_number(value: Any) -> TypeGuard[float]:
    """Whether it is a finite number, and no larger than can be drawn."""
    return isinstance(value, int | float) and not isinstance(value, bool) and abs(value) <= GREATEST


def as_list(value: Any) -> list[Any]:
    """The value if it is a list, else an empty one."""
    return value if isinstance(value, list) else []


def points(records: Sequence[Record], name: str) -> list[tuple[float, float]]:
    """(iteration, value) of the records whose `name` is a finite number, or numbers, of which each is a point."""
    found: list[tuple[float, float]] = []
    for record in records:
        value = record.get(name)
        values = value if isinstance(value, list) else [value]
        found += [(float(record["iteration"]), float(each)) for each in values if is_number(each)]
    return found
