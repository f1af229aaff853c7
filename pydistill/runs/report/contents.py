"""What a run folder holds, whether the run has ended, goes on or was stopped: what the report is made of."""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeGuard

from torch import Tensor

from pydistill._util.files import read_json
from pydistill._util.layout import BEST_NAME, SET_NAME, SUMMARY_NAME, holds_run, no_run
from pydistill.artefact.file import Artefact
from pydistill.errors import FormatError, InputError
from pydistill.evaluation.evaluations_file import read_evaluations
from pydistill.runs.folder import RunFolder

_log = logging.getLogger("pydistill")

Record = dict[str, Any]
Checkpoint = tuple[Record, dict[str, Tensor]]
GREATEST = 1e100
WRITTEN_AGAIN = "pydistill distill … --resume writes it again"
PUT_BACK = "put the run's own back"


@dataclass(frozen=True)
class Contents:
    """A run folder, read.

    Attributes:
        path: the folder.
        recipe: the resolved recipe, nested; where its file is lost, as the configuration or a set tells it.
        config: the recipe with what the run was made from (experts, architecture).
        metrics: the lines of metrics.jsonl.
        summary: summary.json, or empty while there is none.
        evaluations: the rows of evaluations.json.
        checkpoint: the last one, or None while there is none.
        sets: those of the run's end and of its best evaluation, by the names of their files.
    """

    path: Path
    recipe: Record
    config: Record
    metrics: list[Record]
    summary: Record
    evaluations: list[Record]
    checkpoint: Checkpoint | None
    sets: dict[str, Artefact]

    def events(self, kind: str) -> list[Record]:
        """The metrics of one kind, in order."""
        return [line for line in self.metrics if line["event"] == kind]

    @property
    def done(self) -> int:
        """How many iterations there are, by metrics and checkpoint; without it by sets and summary too.

        Metrics may be lost. With a checkpoint, sets and summary may be of an earlier end: of a run that was put back.
        """
        known: list[int] = [0, *(line["iteration"] for line in self.events("iteration"))]
        if self.checkpoint is not None:
            return max(*known, whole(dig(self._state, "distiller", "iteration")))
        known += [iteration_of(each) for each in self.sets.values()]
        told = whole(self.summary.get("iterations"))
        return max(*known, min(told, self.asked) if self.asked else told)

    @property
    def rate(self) -> float | None:
        """The student's learning rate after the last iteration, if one of the files tells it."""
        known = [(line["iteration"], line["lr"]) for line in self.events("iteration")]
        known += [(iteration_of(each), each.lr) for each in self.sets.values()]
        if self.summarised:
            known.append((self.done, self.summary.get("lr")))
        return next((float(lr) for iteration, lr in known if iteration == self.done and is_number(lr)), None)

    @property
    def lost(self) -> int:
        """Of how many iterations the metrics tell nothing."""
        done = self.done
        return done - len({line["iteration"] for line in self.events("iteration") if 1 <= line["iteration"] <= done})

    @property
    def asked(self) -> int:
        """How many iterations the recipe asks for."""
        asked = dig(self.recipe, "distill", "iterations")
        return int(asked) if is_number(asked) else 0

    @property
    def finished(self) -> bool:
        """Whether the last iteration is done and evaluated."""
        if not self.asked:  # nothing tells the recipe
            return self.summarised
        return self.done >= self.asked and self.last is not None and self.last["iteration"] >= self.done

    @property
    def summarised(self) -> bool:
        """Whether the summary is of the run as it is now, and not of an earlier end of it."""
        return bool(self.summary) and self.summary.get("iterations") == self.done

    @property
    def last(self) -> Record | None:
        """The newest of the run's own evaluations, with its iteration, of whichever file knows of it."""
        known = [*self._evaluations()[-1:], self._judged("last"), *map(self._evaluation_of, self.sets.values())]
        if self.summarised and not self.summary.get("ended_early") and is_accuracy(self.summary.get("accuracy_final")):
            known.append(self.summary["accuracy_final"] | {"iteration": self.done})
        of_now = [each for each in known if each is not None and each["iteration"] <= self.done]
        return max(of_now, key=lambda each: int(each["iteration"]), default=None)

    @property
    def best(self) -> Record | None:
        """The best of the run's own evaluations, with its iteration.

        As the summary tells it, or else the checkpoint with the evaluations that followed it, or else the best set: one
        that was lost counts no more for these, and the metrics tell of it still.
        """
        told = self.summary.get("accuracy_best")
        if self.summarised and is_accuracy(told) and isinstance(told.get("iteration"), int):
            return dict(told)
        known = self._evaluations()
        if self.checkpoint is not None:
            last = self._judged("last")
            kept = self._judged("best")
            known = [line for line in known if last is None or line["iteration"] > last["iteration"]]
            known = known if kept is None else [kept, *known]
        elif BEST_NAME in self.sets or not known:
            sets = [self.sets[BEST_NAME]] if BEST_NAME in self.sets else self.sets.values()
            known = [each for each in map(self._evaluation_of, sets) if each is not None] or known
        return max(known, key=lambda each: float(each["mean"]), default=None)

    @property
    def _state(self) -> Record:
        return {} if self.checkpoint is None else self.checkpoint[0]

    def _evaluations(self) -> list[Record]:
        return [line for line in self.events("evaluation") if is_accuracy(line)]

    def _judged(self, which: str) -> Record | None:
        """An evaluation as the checkpoint keeps it (see `PeriodicEvaluator.state`)."""
        kept = dig(self._state, "judge", which)
        if not isinstance(kept, list) or len(kept) != 2 or not is_accuracy(kept[1]):
            return None
        return kept[1] | {"iteration": whole(kept[0])}

    @staticmethod
    def _evaluation_of(artefact: Artefact) -> Record | None:
        found = artefact.provenance.get("accuracy")
        return found | {"iteration": iteration_of(artefact)} if is_accuracy(found) else None


def read_run(path: Path) -> Contents:
    """Read a run folder as it is now; what is damaged is told as a warning and left out, but for the metrics.

    Raises:
        InputError: there is no run in the folder.
        FormatError: its metrics are damaged.
    """
    folder = RunFolder(path)
    if not holds_run(path) and not (path / BEST_NAME).exists():
        raise no_run(path)
    checkpoint = _readable_checkpoint(folder)
    copy = None if checkpoint is None else checkpoint[0].get("config")
    config = _mapping(folder.config_path, PUT_BACK) or (copy if isinstance(copy, dict) else {})
    sets = _readable_sets(path)
    recipe = _mapping(folder.recipe_path, WRITTEN_AGAIN) or config
    recipe = recipe or next((dig(each.provenance, "recipe", default={}) for each in sets.values()), {})
    summary = _mapping(path / SUMMARY_NAME, WRITTEN_AGAIN)
    if not folder.metrics_path.exists():
        _log.warning("%s is gone; %s; its curves and times are left out", folder.metrics_path, PUT_BACK)
    metrics = folder.metrics()  # at last: of a run that goes on they are no older than what else there is
    for number, line in enumerate(metrics, start=1):
        if not isinstance(line["iteration"], int):
            raise FormatError(f"{folder.metrics_path} is damaged: line {number} counts no iterations")
    return Contents(path, recipe, config, metrics, summary, _readable_evaluations(path), checkpoint, sets)


def _readable_evaluations(path: Path) -> list[Record]:
    """The rows of evaluations.json; none of a damaged one, which is told."""
    try:
        return read_evaluations(path)
    except FormatError as error:
        _log.warning("%s; it is left out", error)
        return []


def _readable_sets(path: Path) -> dict[str, Artefact]:
    """The sets of the run's end and of its best evaluation; damaged ones are told and left out."""
    found = {}
    elsewhere = f"{PUT_BACK}, or move it elsewhere and go on with pydistill distill … --resume"
    for name, remedy in ((SET_NAME, WRITTEN_AGAIN), (BEST_NAME, elsewhere)):
        try:
            if (path / name).exists():
                found[name] = Artefact.load(path / name)
        except (FormatError, InputError):
            _log.warning("%s is damaged; %s; it is left out", path / name, remedy)
    return found


def _readable_checkpoint(folder: RunFolder) -> Checkpoint | None:
    """The run's checkpoint; None if there is none, or a damaged one, which is told: most is in other files too."""
    try:
        return folder.load_checkpoint() if folder.checkpoint_path.exists() else None
    except FormatError:
        _log.warning("checkpoint %s is damaged; it is left out", folder.checkpoint_path)
        return None


def _mapping(file: Path, remedy: str) -> Record:
    """The JSON object in the file; nothing if there is no file, or a damaged one, which is told with the remedy."""
    if not file.exists():
        return {}
    try:
        value = read_json(file)
    except FormatError:
        value = None
    if isinstance(value, dict):
        return value
    _log.warning("%s is damaged; %s; it is left out", file, remedy)
    return {}


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


def whole(value: Any) -> int:
    """The value if it is a whole number that can be drawn, else 0."""
    return value if isinstance(value, int) and not isinstance(value, bool) and abs(value) <= GREATEST else 0


def is_accuracy(record: Any) -> TypeGuard[Record]:
    """Whether it is a record with a mean and a standard deviation."""
    return isinstance(record, dict) and is_number(record.get("mean")) and is_number(record.get("std"))


def iteration_of(artefact: Artefact) -> int:
    """After which iteration a set is; 0 if it does not tell."""
    return whole(artefact.provenance.get("iteration"))


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
