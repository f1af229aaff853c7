"""Periodic evaluation of a set while it is distilled, and the best set so far."""

from __future__ import annotations

import platform
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch

from pydistill._util.layout import BEST_NAME
from pydistill.artefact.file import Artefact
from pydistill.data import Dataset
from pydistill.distillation.distiller import Distiller
from pydistill.evaluation.evaluate import Evaluation, evaluate
from pydistill.nn import Network
from pydistill.recipes.recipe import Recipe
from pydistill.runs.callbacks import RunCallback
from pydistill.runs.folder import RunFolder
from pydistill.version import VERSION

IterationEvaluation = tuple[int, Evaluation]


@dataclass
class PeriodicEvaluator:
    """Evaluates the set on fresh networks while it is distilled.

    Attributes:
        architecture: the name of the network's architecture, for the artefact.
        best: the evaluation with the highest mean accuracy so far, and its iteration.
        last: the latest evaluation, and its iteration.
    """

    recipe: Recipe
    network: Network
    architecture: str
    dataset: Dataset
    distiller: Distiller
    folder: RunFolder
    callbacks: Sequence[RunCallback]
    best: IterationEvaluation | None = None
    last: IterationEvaluation | None = None

    def is_due(self) -> bool:
        """Return True if the current set is due for an evaluation that has not been done."""
        iteration, settings = self.distiller.iteration, self.recipe.distill
        every = settings.evaluate_every
        due = iteration == settings.iterations or (every > 0 and iteration > 0 and iteration % every == 0)
        return due and self.current() is None

    def current(self) -> Evaluation | None:
        """Return the evaluation of the current set, if it has been evaluated."""
        return self.last[1] if self.last is not None and self.last[0] == self.distiller.iteration else None

    def evaluate(self) -> Evaluation:
        """Evaluate the current set, without recording the result."""
        return evaluate(
            self.distiller.images,
            self.distiller.synthetic.training_labels,
            self.distiller.lr,
            self.dataset,
            self.network,
            self.recipe.evaluation,
        )

    def record(self, evaluation: Evaluation) -> None:
        """Record an evaluation of the current set in the metrics, and as the last and perhaps the best one."""
        iteration = self.distiller.iteration
        self.last = (iteration, evaluation)
        self.folder.append_metrics({"event": "evaluation", "iteration": iteration, **evaluation.as_record()})
        if self.best is None or evaluation.mean > self.best[1].mean:
            self.best = (self._set_iteration(), evaluation)
        for callback in self.callbacks:
            callback.on_evaluation(iteration, evaluation)

    def save_best(self) -> None:
        """Write best.safetensors if the current set is the best one.

        The file is written after the checkpoint. If the process is killed in between, the checkpoint still holds the
        best set, and the resumed run writes the file.
        """
        if self.best is not None and self.best[0] == self._set_iteration():
            self.artefact(self.best[1]).save(self.folder.path / BEST_NAME)

    def _set_iteration(self) -> int:
        """Return the iteration of the current set; after the guard has ended the run, that of its last good set."""
        return self.distiller.iteration if self.distiller.guard.ended is None else self.distiller.good_iteration

    def artefact(self, evaluation: Evaluation) -> Artefact:
        """Return the current set with its provenance and its evaluation."""
        distiller, synthetic = self.distiller, self.distiller.synthetic
        # Without the evaluation's wall time: the same run writes the same file, byte for byte.
        accuracy = {name: value for name, value in evaluation.as_record().items() if name != "seconds"}
        provenance = {
            "recipe": self.recipe.as_dict(),
            "dataset": {"name": self.dataset.name, "digest": self.dataset.digest, "classes": self.dataset.class_names},
            "architecture": self.architecture,
            "iteration": self._set_iteration(),
            "accuracy": accuracy,
            "versions": {"pydistill": VERSION, "torch": torch.__version__, "python": platform.python_version()},
        }
        return Artefact(
            images=distiller.images,
            labels=synthetic.training_labels.clone(),
            classes=synthetic.classes.clone(),
            lr=distiller.lr,
            preprocessing=self.dataset.preprocessing,
            provenance=provenance,
            initial_images=distiller.initial_images,
            encoded=None if self.recipe.distill.decoder is None else distiller.encoded,
        )

    def state(self) -> dict[str, Any]:
        """Return the best and the last evaluation as JSON-able values."""
        return {"best": _as_json(self.best), "last": _as_json(self.last)}

    def load_state(self, state: dict[str, Any]) -> None:
        """Restore what `state` returned."""
        self.best, self.last = _from_json(state["best"]), _from_json(state["last"])


def _as_json(value: IterationEvaluation | None) -> Any:
    return None if value is None else [value[0], value[1].as_record()]


def _from_json(value: Any) -> IterationEvaluation | None:
    return None if value is None else (int(value[0]), Evaluation.from_record(value[1]))
