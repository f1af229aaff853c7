"""The loop of a run: iterations, evaluations and checkpoints, until the last iteration, the guard or Ctrl-C ends it."""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

import torch

from pydistill._util.files import copy_file
from pydistill._util.format import first_line
from pydistill._util.interrupt import Stop
from pydistill._util.layout import BEST_NAME, SET_NAME
from pydistill.artefact.file import Artefact
from pydistill.distillation.distiller import Distiller
from pydistill.errors import DivergedError, Interrupted, OutOfMemoryError
from pydistill.evaluation.evaluate import Evaluation
from pydistill.recipes.recipe import Recipe
from pydistill.runs.evaluation import PeriodicEvaluator, RunCallback
from pydistill.runs.folder import RunFolder

EVALUATION_MEMORY = (
    "an evaluation",
    "evaluation.at_once = 1 trains one network at a time, with the same result; a smaller "
    "evaluation.training.batch_size also fits, but changes it",
)


@dataclass(frozen=True)
class RunResult:
    """How a run ended.

    Attributes:
        folder: the run folder.
        final: the artefact of the last iteration; of a run that ended early, the best there is.
        accuracy_final: its evaluation.
        accuracy_best: the best of all evaluations of the run, chosen by test accuracy as the papers do.
        best_iteration: where that was.
        iterations: how many the run has done.
        seconds: wall time of the run, of every process that worked on it up to its last checkpoint.
        ended_early: why the guard ended the run before its last iteration, or None.
        threads: how many threads PyTorch had in the process that ended the run; None on a GPU.
    """

    folder: RunFolder
    final: Artefact
    accuracy_final: Evaluation
    accuracy_best: Evaluation
    best_iteration: int
    iterations: int
    seconds: float
    ended_early: str | None = None
    threads: int | None = None


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
    """A run that is under way: the loop of iterations, evaluations and checkpoints."""

    recipe: Recipe
    distiller: Distiller
    judge: PeriodicEvaluator
    folder: RunFolder
    observer: RunCallback
    began: float

    def finish(self, stop: Stop) -> RunResult:
        """Iterate to the end, or until the guard or Ctrl-C ends it."""
        distiller, settings = self.distiller, self.recipe.distill
        self.observer.on_images(distiller.iteration, distiller.images)
        while distiller.guard.ended is None:
            if self.judge.is_due():  # after an iteration, or left over by a process that was stopped
                self._judge(stop)
            evaluation = self.judge.evaluation_now()
            if distiller.iteration >= settings.iterations and evaluation is not None:
                return self._result(evaluation, None)
            if stop.requested:
                self._checkpoint()
                raise Interrupted(
                    f"stopped after iteration {distiller.iteration} of {settings.iterations}; continue with --resume"
                )
            self._iterate()
            if (
                self.judge.is_due()
                or distiller.guard.ended is not None
                or distiller.iteration == 1
                or distiller.iteration % settings.checkpoint_every == 0
            ):
                self._checkpoint()
        raise RunDivergedError(self._result_of_best(distiller.guard.ended, stop))

    def _iterate(self) -> None:
        with _memory_told(*_student_memory(self.recipe)):
            report = self.distiller.iterate()
        self.folder.append_metrics(report.as_record())
        if report.guard is not None:
            self.folder.append_metrics(report.guard.as_record())
        if report.iteration == 1 or report.iteration % self.recipe.distill.checkpoint_every == 0:
            self.folder.append_metrics(report.segments[0].distances_record(report.iteration))
        self.observer.on_iteration(report)

    def _judge(self, stop: Stop) -> None:
        """Evaluate and checkpoint, unless Ctrl-C comes in between: then the evaluation is left to the next process."""
        try:
            with stop.abandonable(), _memory_told(*EVALUATION_MEMORY):
                evaluation = self.judge.evaluation()
        except KeyboardInterrupt:
            if not stop.requested:
                raise
            return
        self.judge.keep(evaluation)
        self._checkpoint()

    def _checkpoint(self) -> None:
        values, tensors = self.distiller.state()
        state = {"distiller": values, "judge": self.judge.state(), "seconds": time.perf_counter() - self.began}
        self.folder.save_checkpoint(state, tensors)
        self.observer.on_images(self.distiller.iteration, self.distiller.images)

    def _result(self, evaluation: Evaluation, ended_early: str | None) -> RunResult:
        """The result of the set as it is now and its evaluation."""
        artefact = self.judge.artefact(evaluation)
        artefact.save(self.folder.path / SET_NAME)
        best_iteration, best = self.judge.best or (self.distiller.iteration, evaluation)
        return self._ended(artefact, evaluation, best, best_iteration, ended_early)

    def _result_of_best(self, why: str, stop: Stop) -> RunResult:
        """The result of a run that was ended: the set of the best evaluation, or else the last good one, evaluated."""
        best, file = self.judge.best, self.folder.path / BEST_NAME
        told = f"{why}; {SET_NAME} is the best set of the run, as after iteration"
        if best is None or not file.exists():
            self._judge(stop)
            evaluation = self.judge.evaluation_now()
            if evaluation is None:
                raise Interrupted("stopped in the last evaluation of a run that diverged; continue with --resume")
            return self._result(evaluation, f"{told} {self.distiller.good_iteration}")
        final = Artefact.load(file)
        copy_file(file, self.folder.path / SET_NAME)
        told = f"{told} {best[0]}"
        return self._ended(final, best[1], best[1], best[0], told)

    def _ended(
        self, final: Artefact, accuracy: Evaluation, best: Evaluation, best_iteration: int, ended_early: str | None
    ) -> RunResult:
        done = self.distiller.iteration
        threads = torch.get_num_threads() if self.distiller.images.device.type == "cpu" else None
        seconds = time.perf_counter() - self.began
        return RunResult(self.folder, final, accuracy, best, best_iteration, done, seconds, ended_early, threads)


def _student_memory(recipe: Recipe) -> tuple[str, str]:
    settings = recipe.distill
    what = f"a student's training ({settings.steps} steps of {settings.batch_size or 'all'} images)"
    if settings.backend == "autograd":
        return what, "distill.backend = torch needs the memory of one step instead of all, with the same result"
    return what, (
        "one step is already all that is kept, so free memory elsewhere; "
        "a smaller distill.batch_size also fits, but changes the result"
    )


@contextmanager
def _memory_told(what: str, remedy: str) -> Iterator[None]:
    """Turn PyTorch's out-of-memory errors, of the GPU and of the CPU, into one that names the remedy."""
    try:
        yield
    except RuntimeError as error:
        if not isinstance(error, torch.OutOfMemoryError) and "can't allocate memory" not in str(error):
            raise
        raise OutOfMemoryError(f"out of memory in {what}: {first_line(error)}; {remedy}") from error
