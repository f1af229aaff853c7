"""The loop of a run: iterations, evaluations and checkpoints, until the last iteration, the guard or Ctrl-C ends it."""

from __future__ import annotations

import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch

from pydistill._util.files import copy_file
from pydistill._util.format import first_line
from pydistill._util.interrupt import Stop
from pydistill._util.layout import BEST_NAME, SET_NAME
from pydistill._util.memory import is_out_of_memory
from pydistill.artefact.file import Artefact
from pydistill.distillation.distiller import Distiller
from pydistill.errors import DivergedError, Interrupted, Name, OutOfMemoryError
from pydistill.evaluation.evaluate import Evaluation
from pydistill.recipes.recipe import Recipe
from pydistill.runs.callbacks import RunCallback
from pydistill.runs.evaluation import PeriodicEvaluator
from pydistill.runs.folder import RunFolder

TO_CONTINUE = (Name("resume"), " to continue the run")
EVALUATION_MEMORY = (
    "an evaluation",
    Name("evaluation.at_once"),
    " = 1 trains one network at a time, with the same result; a smaller ",
    Name("evaluation.training.batch_size"),
    " also fits, but changes it",
)


@dataclass(frozen=True)
class RunResult:
    """The result of a run.

    Attributes:
        folder: the run folder.
        final: the artefact of the last iteration; of a run that ended early, the best one.
        accuracy_final: its evaluation.
        accuracy_best: the best evaluation of the run, chosen by test accuracy as the papers do.
        best_iteration: the iteration of the best evaluation.
        iterations: the number of iterations done.
        seconds: wall time of the run, summed over all processes that worked on it, each up to its last checkpoint.
        ended_early: why the guard ended the run before its last iteration, or None.
        device: where the run was computed.
    """

    folder: RunFolder
    final: Artefact
    accuracy_final: Evaluation
    accuracy_best: Evaluation
    best_iteration: int
    iterations: int
    seconds: float
    device: torch.device
    ended_early: str | None = None


class RunDivergedError(DivergedError):
    """The guard ended a run; its best set is written.

    Attributes:
        result: how the run ended.
    """

    def __init__(self, result: RunResult) -> None:
        super().__init__(result.ended_early)
        self.result = result


@dataclass(frozen=True)
class RunLoop:
    """The loop of a run."""

    recipe: Recipe
    config: dict[str, Any]
    distiller: Distiller
    evaluator: PeriodicEvaluator
    folder: RunFolder
    callbacks: Sequence[RunCallback]
    began: float

    def finish(self, stop: Stop) -> RunResult:
        """Iterate until the last iteration, the guard or Ctrl-C ends the run."""
        distiller, settings = self.distiller, self.recipe.distill
        if distiller.iteration == 0:
            self._save_checkpoint()
        for callback in self.callbacks:
            callback.on_start(distiller.iteration)
        self._show_images()
        while distiller.guard.ended is None:
            if self.evaluator.is_due():  # also if an earlier process was stopped before this evaluation
                self._evaluate(stop)
            evaluation = self.evaluator.current()
            if distiller.iteration >= settings.iterations and evaluation is not None:
                return self._save_result(evaluation)
            if stop.requested:
                self._checkpoint()
                raise Interrupted(
                    f"stopped after iteration {distiller.iteration} of {settings.iterations}; add ", *TO_CONTINUE
                )
            self._iterate()
            if (
                self.evaluator.is_due()
                or distiller.guard.ended is not None
                or distiller.iteration % settings.checkpoint_every == 0
            ):
                self._checkpoint()
        raise RunDivergedError(self._diverged_result(distiller.guard.ended, stop))

    def _iterate(self) -> None:
        with _explained_out_of_memory(*_student_memory(self.recipe)):
            report = self.distiller.iterate()
        if report.redrawn:
            self.folder.append_metrics(report.redraw_record())
        self.folder.append_metrics(report.as_record())
        if report.guard is not None:
            self.folder.append_metrics(report.guard.as_record())
        if report.iteration == 1 or report.iteration % self.recipe.distill.checkpoint_every == 0:
            self.folder.append_metrics(report.segments[0].distances_record(report.iteration))
        for callback in self.callbacks:
            callback.on_iteration(report)

    def _evaluate(self, stop: Stop) -> None:
        """Evaluate the current set and save a checkpoint; Ctrl-C leaves the evaluation to the resumed run."""
        try:
            with stop.abandonable(), _explained_out_of_memory(*EVALUATION_MEMORY):
                evaluation = self.evaluator.evaluate()
        except KeyboardInterrupt:
            if not stop.requested:
                raise
            return
        self.evaluator.record(evaluation)
        self._checkpoint()

    def _checkpoint(self) -> None:
        """Save a checkpoint and the best set, if it is the current one, and pass the images to the callbacks."""
        self._save_checkpoint()
        self.evaluator.save_best()
        self._show_images()

    def _show_images(self) -> None:
        for callback in self.callbacks:
            callback.on_images(self.distiller.iteration, self.distiller.images)

    def _save_checkpoint(self) -> None:
        values, tensors = self.distiller.state()
        state = {
            "config": self.config,
            "distiller": values,
            "evaluations": self.evaluator.state(),
            "seconds": time.perf_counter() - self.began,
        }
        self.folder.save_checkpoint(state, tensors)

    def _save_result(self, evaluation: Evaluation, ended_early: str | None = None) -> RunResult:
        """Save the current set as the run's result."""
        artefact = self.evaluator.artefact(evaluation)
        artefact.save(self.folder.path / SET_NAME)
        return self._result(artefact, evaluation, ended_early)

    def _diverged_result(self, reason: str, stop: Stop) -> RunResult:
        """Save the set of the best evaluation as the run's result; without one, evaluate and save the last good set."""
        best, file = self.evaluator.best, self.folder.path / BEST_NAME
        ended_early = f"{reason}; {SET_NAME} is the best set of the run, as after iteration"
        if best is None or not file.exists():
            self._evaluate(stop)
            evaluation = self.evaluator.current()
            if evaluation is None:
                raise Interrupted("stopped in the last evaluation of a run that diverged; add ", *TO_CONTINUE)
            return self._save_result(evaluation, f"{ended_early} {self.distiller.good_iteration}")
        final = Artefact.load(file)
        copy_file(file, self.folder.path / SET_NAME)
        return self._result(final, best[1], f"{ended_early} {best[0]}")

    def _result(self, final: Artefact, accuracy: Evaluation, ended_early: str | None) -> RunResult:
        best_iteration, best = self.evaluator.best or (self.distiller.iteration, accuracy)
        return RunResult(
            folder=self.folder,
            final=final,
            accuracy_final=accuracy,
            accuracy_best=best,
            best_iteration=best_iteration,
            iterations=self.distiller.iteration,
            seconds=time.perf_counter() - self.began,
            device=self.distiller.synthetic.lr.device,
            ended_early=ended_early,
        )


def _student_memory(recipe: Recipe) -> tuple[str, ...]:
    settings = recipe.distill
    task = f"a student's training ({settings.steps} steps of {settings.batch_size or 'all'} images)"
    if settings.backend == "autograd":
        remedy = " = torch needs the memory of one step instead of all, with the same result"
        return task, Name("distill.backend"), remedy
    free = "only one step's memory is in use, so free memory elsewhere; a smaller "
    return task, free, Name("distill.batch_size"), " also fits, but changes the result"


@contextmanager
def _explained_out_of_memory(task: str, *remedy: str) -> Iterator[None]:
    """Turn PyTorch's out-of-memory errors, on GPU and CPU, into one that names the remedy."""
    try:
        yield
    except RuntimeError as error:
        if not is_out_of_memory(error):
            raise
        raise OutOfMemoryError(f"out of memory in {task}: {first_line(error)}; ", *remedy) from error
