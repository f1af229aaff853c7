"""How a set is judged while it is distilled: evaluations on fresh networks, of which the best is kept."""

from __future__ import annotations

import logging
import os
import platform
from pathlib import Path
from typing import Any, Protocol

import torch
from torch import Tensor

from pydistill._util.files import copy_file
from pydistill._util.layout import BEST_NAME, SET_NAME
from pydistill.artefact.file import Artefact
from pydistill.data import Dataset
from pydistill.distillation.distiller import Distiller, IterationReport
from pydistill.errors import FormatError, InputError
from pydistill.evaluation.evaluate import Evaluation, evaluate
from pydistill.nn import Network, architecture_of
from pydistill.recipes.recipe import Recipe
from pydistill.runs.folder import RunFolder
from pydistill.version import VERSION

_log = logging.getLogger("pydistill")


class RunCallback(Protocol):
    """What a run tells while it goes on."""

    def on_iteration(self, report: IterationReport) -> None:
        """After each outer iteration."""

    def on_evaluation(self, iteration: int, evaluation: Evaluation) -> None:
        """After each evaluation on fresh networks."""

    def on_images(self, iteration: int, images: Tensor) -> None:
        """At the beginning and after each checkpoint: the images [n, C, H, W] that would be saved now, preprocessed."""


class NoCallback:
    """An observer that tells nobody."""

    def on_iteration(self, report: IterationReport) -> None:
        """Nothing."""

    def on_evaluation(self, iteration: int, evaluation: Evaluation) -> None:
        """Nothing."""

    def on_images(self, iteration: int, images: Tensor) -> None:
        """Nothing."""


class PeriodicEvaluator:
    """Evaluates the set on fresh networks while it is distilled, and keeps the best."""

    def __init__(
        self,
        recipe: Recipe,
        network: Network,
        dataset: Dataset,
        distiller: Distiller,
        folder: RunFolder,
        observer: RunCallback,
    ) -> None:
        self.recipe, self.network, self.dataset, self.distiller = recipe, network, dataset, distiller
        self.folder, self.observer = folder, observer
        self.architecture = architecture_of(network, *dataset.sizes, device=dataset.device)
        self.best: tuple[int, Evaluation] | None = None
        self.last: tuple[int, Evaluation] | None = None

    def is_due(self) -> bool:
        """Whether the set as it is now is to be evaluated, and has not been."""
        iteration, settings = self.distiller.iteration, self.recipe.distill
        every = settings.evaluate_every
        wanted = iteration == settings.iterations or (every > 0 and iteration > 0 and iteration % every == 0)
        return wanted and self.evaluation_now() is None

    def evaluation_now(self) -> Evaluation | None:
        """The evaluation of the set as it is now, if there has been one."""
        return self.last[1] if self.last is not None and self.last[0] == self.distiller.iteration else None

    def evaluation(self) -> Evaluation:
        """What the set as it is now is worth; nothing is kept or written."""
        return evaluate(
            self.distiller.images,
            self.distiller.synthetic.training_labels,
            self.distiller.lr,
            self.dataset,
            self.network,
            self.recipe.evaluation,
        )

    def keep(self, evaluation: Evaluation) -> None:
        """Keep the evaluation of the set as it is now; if it is the best so far, save the set as such."""
        iteration = self.distiller.iteration
        self.last = (iteration, evaluation)
        self.folder.append_metrics({"event": "evaluation", "iteration": iteration, **evaluation.as_record()})
        if self.best is None or evaluation.mean > self.best[1].mean:
            self.best = (self._iteration_of_set(), evaluation)
            self.artefact(evaluation).save(self.folder.path / BEST_NAME)
        self.observer.on_evaluation(iteration, evaluation)

    def take_saved_best(self) -> None:
        """Go on from the best evaluation as the file of its set tells it, in a run that is continued.

        The file is written before the checkpoint that knows of it. A process that was stopped in between leaves a set
        that the next one, on a GPU or with other threads, may judge otherwise: it is the one that is there, so its
        accuracy counts.

        A file that is gone is written again if its set is at hand: as that of now, or as that of the run's end.
        Otherwise, which is told, the next evaluation is the best; a run that has ended keeps the accuracy alone.

        Raises:
            FormatError: the file is damaged, cannot be read, is of a later format, or of a later iteration than the
                checkpoint.
        """
        file = self.folder.path / BEST_NAME
        if os.path.lexists(file) or (self.best is not None and self._best_written_again(file, *self.best)):
            self.best = self._told_by(file)
        elif self.best is not None:
            self._go_on_without_best(file, self.best[0])

    def _told_by(self, file: Path) -> tuple[int, Evaluation]:
        """After which iteration the set in the file is, and its evaluation."""
        now = self.distiller.iteration
        try:
            if not file.is_file():
                raise FormatError(f"{file} is no file")
            provenance = Artefact.load(file).provenance
            iteration = int(provenance["iteration"])
            if iteration > now:
                raise FormatError(f"{file} is a set after iteration {iteration}, and the checkpoint one after {now}")
            # Early files tell the seconds of the evaluation, later ones do not; nothing is made of those of the best.
            return iteration, Evaluation.from_record({"seconds": 0.0} | provenance["accuracy"])
        except (KeyError, TypeError, ValueError) as error:
            told = str(error) if isinstance(error, FormatError) else f"{file} is damaged: it does not tell its accuracy"
            raise FormatError(f"{told}; put the run's own back, or move it elsewhere to go on without it") from error

    def _best_written_again(self, file: Path, iteration: int, evaluation: Evaluation) -> bool:
        """Write the lost file of the best set, if that set is at hand; whether it is."""
        if iteration == self._iteration_of_set():
            self.artefact(evaluation).save(file)
        elif not self._is_set_of_the_end(iteration):
            return False
        else:
            copy_file(self.folder.path / SET_NAME, file)
        _log.warning("%s was gone, and is written again: its set is at hand", file)
        return True

    def _is_set_of_the_end(self, iteration: int) -> bool:
        """Whether the run's end wrote the set of this iteration, and it is whole."""
        try:
            return Artefact.load(self.folder.path / SET_NAME).provenance.get("iteration") == iteration
        except InputError:
            return False  # the run has not ended
        except FormatError as error:
            _log.warning("%s", error)
            return False

    def _go_on_without_best(self, file: Path, iteration: int) -> None:
        gone = f"{file} is gone, the best set so far, after iteration {iteration}"
        if self.distiller.iteration >= self.recipe.distill.iterations and self.evaluation_now() is not None:
            _log.warning("%s; the run has ended, and its accuracy is all that is left of it", gone)
            return
        _log.warning("%s; the next evaluation's takes its place", gone)
        self.best = None

    def _iteration_of_set(self) -> int:
        """After which iteration the set was as it is now: of a run that the guard ended, its last good one."""
        return self.distiller.iteration if self.distiller.guard.ended is None else self.distiller.good_iteration

    def artefact(self, evaluation: Evaluation) -> Artefact:
        """The set as it is now, with where it comes from and what it is worth."""
        distiller, synthetic = self.distiller, self.distiller.synthetic
        # Without the seconds that the evaluation took: a run that is done again writes the same file, byte for byte.
        accuracy = {name: value for name, value in evaluation.as_record().items() if name != "seconds"}
        provenance = {
            "recipe": self.recipe.as_dict(),
            "dataset": {"name": self.dataset.name, "digest": self.dataset.digest, "classes": self.dataset.class_names},
            "architecture": self.architecture,
            "iteration": self._iteration_of_set(),
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
        )

    def state(self) -> dict[str, Any]:
        """The best and the last evaluation, as JSON-able values."""

        def plain(kept: tuple[int, Evaluation] | None) -> Any:
            return None if kept is None else [kept[0], kept[1].as_record()]

        return {"best": plain(self.best), "last": plain(self.last)}

    def load_state(self, state: dict[str, Any]) -> None:
        """Continue from what `state` returned."""

        def whole(kept: Any) -> tuple[int, Evaluation] | None:
            return None if kept is None else (int(kept[0]), Evaluation.from_record(kept[1]))

        self.best, self.last = whole(state["best"]), whole(state["last"])
