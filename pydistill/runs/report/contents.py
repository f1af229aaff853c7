"""Read a run folder for its report, at any time: while it runs, after it stopped, or with files missing."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeGuard, TypeVar

from torch import Tensor

from pydistill._util.files import read_json
from pydistill._util.layout import BEST_NAME, SET_NAME, SUMMARY_NAME, holds_run, no_run
from pydistill.artefact.file import Artefact
from pydistill.errors import FormatError
from pydistill.evaluation.baselines import read_baselines
from pydistill.evaluation.evaluate import Row
from pydistill.evaluation.evaluations_file import read_evaluations
from pydistill.runs.diagnosis import Finding, findings_in, is_finding
from pydistill.runs.folder import RunFolder

Record = dict[str, Any]
T = TypeVar("T")


@dataclass(frozen=True)
class Contents:
    """The contents of a run folder.

    Attributes:
        path: the folder.
        recipe: recipe.json.
        config: config.json: the recipe, and the experts and the architecture it was run with.
        metrics: the events of metrics.jsonl.
        summary: summary.json, which is written when the run ends; empty before.
        evaluations: the rows of evaluations.json.
        baselines: those of baselines.json.
        checkpoint: the last checkpoint's state and tensors, or None.
        final, best: the sets of the run's end and of its best evaluation, or None.
        problems: a sentence for each file that is missing or damaged.
    """

    path: Path
    recipe: Record
    config: Record
    metrics: list[Record]
    summary: Record
    evaluations: list[Record]
    baselines: list[Row]
    checkpoint: tuple[Record, dict[str, Tensor]] | None
    final: Artefact | None
    best: Artefact | None
    problems: tuple[str, ...]

    def events(self, kind: str) -> list[Record]:
        """Return the metrics of one kind, in order."""
        return [line for line in self.metrics if line["event"] == kind]

    @property
    def is_in_memory(self) -> bool:
        """True if the data were made in Python, so that no command loads them."""
        return dig(self.recipe, "data", "name") == "tensors" and dig(self.recipe, "data", "path") is None

    @property
    def references(self) -> dict[str, float]:
        """The mean accuracies of real images by the run's own protocol, and of the experts, by name."""
        if not (own := self.events("evaluation")[-1:]):
            return {}
        same = [(name, row) for name, row in self.baselines if row.model == own[0].get("model")]
        few = [(name, row) for name, row in same if "random" in name or "k-means" in name]
        others = [(name, row) for name, row in same if (name, row) not in few and "distilled" not in name]
        comparable = [(name, row) for name, row in few if row.protocol == own[0].get("protocol")]
        return {name: row.mean for name, row in comparable + others}

    @property
    def done(self) -> int:
        """The number of iterations done."""
        saved = 0 if self.checkpoint is None else dig(self.checkpoint[0], "distiller", "iteration")
        counts = [saved, self.summary.get("iterations", 0), *(line["iteration"] for line in self.metrics)]
        return max(count for count in counts if isinstance(count, int))

    @property
    def asked(self) -> int:
        """The number of iterations in the recipe; 0 if unknown."""
        asked = dig(self.recipe, "distill", "iterations")
        return asked if isinstance(asked, int) else 0

    @property
    def is_summarised(self) -> bool:
        """True if the run has not been resumed since the summary was written."""
        return bool(self.summary) and self.summary["iterations"] == self.done

    @property
    def is_finished(self) -> bool:
        """True if the last iteration is done and evaluated."""
        evaluated = self.is_summarised or any(line["iteration"] == self.done for line in self.events("evaluation"))
        return evaluated and self.done >= self.asked > 0

    @property
    def findings(self) -> list[Finding]:
        """The diagnosis of the run, once it has ended."""
        return findings_in(self.summary) if self.is_summarised else []

    @property
    def ended_early(self) -> str | None:
        """Why the guard ended the run, or None."""
        reason = self.summary.get("ended_early") if self.is_summarised else None
        return None if reason is None else str(reason)


def read_run(path: Path) -> Contents:
    """Read a run folder; a file that is missing or damaged becomes a sentence in `problems`.

    Raises:
        InputError: there is no run in the folder.
    """
    if not holds_run(path):
        raise no_run(path)
    folder = RunFolder(path)
    problems: list[str] = []

    def read(file: Path, load: Callable[[Path], T], missing: T, *, always: bool = False) -> T:
        """Load a file, or return `missing`; one that a run `always` has is a problem if it is missing."""
        if not file.exists():
            problems.extend([f"{file.name} is missing, and what it says is left out."] if always else [])
            return missing
        try:
            return load(file)
        except FormatError as error:
            problems.append(f"{error}; what it says is left out.")
            return missing

    checkpoint = read(folder.checkpoint_path, lambda _: folder.load_checkpoint(), None)
    return Contents(
        path=path,
        recipe=read(folder.recipe_path, _mapping, {}, always=True),
        config=read(folder.config_path, _mapping, {}, always=True),
        summary=read(path / SUMMARY_NAME, _summary, {}),
        evaluations=read(path, read_evaluations, []),
        baselines=read(path, read_baselines, []),
        checkpoint=checkpoint,
        final=read(path / SET_NAME, Artefact.load, None),
        best=read(path / BEST_NAME, Artefact.load, None),
        metrics=read(folder.metrics_path, lambda _: folder.metrics(), [], always=True),
        problems=tuple(problems),
    )


def _mapping(file: Path) -> Record:
    value = read_json(file)
    if not isinstance(value, dict):
        raise FormatError(f"{file} is damaged: it holds no JSON object")
    return value


def _summary(file: Path) -> Record:
    """Read summary.json and check the values that the report computes with."""
    summary = _mapping(file)
    accuracies = [value for name, value in summary.items() if name.startswith("accuracy_")]
    findings = summary.get("findings", [])
    valid = isinstance(findings, list) and all(map(is_finding, findings)) and all(map(is_accuracy, accuracies))
    if not isinstance(summary.get("iterations"), int) or not valid:
        raise FormatError(f"{file} is damaged: it is no summary of a run; the end of a resumed run writes it again")
    return summary


def dig(values: Mapping[str, Any], *names: str, default: Any = None) -> Any:
    """Return the value under a chain of names, or `default`."""
    value: Any = values
    for name in names:
        value = value.get(name) if isinstance(value, Mapping) else None
    return default if value is None else value


def is_number(value: Any) -> TypeGuard[float]:
    """Return whether the value is a number of ordinary size."""
    return isinstance(value, int | float) and not isinstance(value, bool) and abs(value) < 1e15


def is_accuracy(value: Any) -> TypeGuard[Record]:
    """Return whether the value is a record of accuracies, as `accuracy_record` makes it."""
    return (
        isinstance(value, dict)
        and isinstance(value.get("runs"), list)
        and is_number(value.get("mean"))
        and is_number(value.get("std"))
    )
