"""An observer that passes what a run tells on to its logs; no failure of a log ends a run."""

from __future__ import annotations

import logging
import math
from collections.abc import Callable
from pathlib import Path

from torch import Tensor

from pydistill._util.format import first_line
from pydistill._util.png import tile
from pydistill.data import Preprocessing
from pydistill.distillation.records import IterationReport
from pydistill.errors import PydistillError
from pydistill.evaluation.evaluate import Evaluation
from pydistill.recipes.recipe import Recipe
from pydistill.runs.loggers.settings import LogSettings
from pydistill.runs.loggers.sink import Sink
from pydistill.runs.loggers.tensorboard import TensorBoard
from pydistill.runs.loggers.wandb import Wandb

MOST_POINTS = 10_000
PICTURES_GROW = 1.25
MOST_PER_CLASS = 10

_log = logging.getLogger("pydistill")


class LogCallback:
    """GradientBackend numbers and pictures to logs, which are opened when the run begins.

    At most 10,000 iterations are logged, evenly spaced (metrics.jsonl has them all), every evaluation, and pictures at
    the checkpoints, ever more rarely: each at 1.25 times the iteration of the one before or later. A log that fails is
    named once and left out from then on.

    Args:
        settings: which logs.
        run: the run folder.
        recipe: what the run is made by.
        preprocessing: of the data set, to make pixels of images.
        classes: how many there are.

    Raises:
        MissingDependencyError: a package that was asked for by name is not installed.
    """

    def __init__(
        self, settings: LogSettings, run: Path, recipe: Recipe, preprocessing: Preprocessing, classes: int
    ) -> None:
        settings.check()
        self._settings, self._run, self._recipe = settings, run, recipe
        self._preprocessing, self._classes = preprocessing, classes
        self._every = math.ceil(recipe.distill.iterations / MOST_POINTS)
        self._next_picture = 0.0
        self._sinks: list[Sink] = []
        self._opened = False

    def _open(self, done: int) -> None:
        """Open the logs of a run of which `done` iterations were done before."""
        self._opened = True
        settings = self._settings
        makers: list[tuple[str, bool, Callable[[], Sink]]] = []  # name, asked for by name, how it is opened
        if settings.with_tensorboard:
            makers.append(("TensorBoard", settings.tensorboard is True, lambda: TensorBoard(self._run, done)))
        mode = settings.wandb
        if mode is not None:
            config = self._recipe.as_dict()
            makers.append(("wandb", True, lambda: Wandb(self._run, mode, settings.project, config, done)))
        for name, asked, make in makers:
            try:
                self._sinks.append(make())
            except Exception as error:  # as in _each
                if asked and isinstance(error, PydistillError):
                    raise
                _tell(name, error)

    def on_iteration(self, report: IterationReport) -> None:
        """Loss, chosen step, learning rate, and whether the update was refused."""
        if report.iteration % self._every:
            return
        values = {"loss": report.loss, "step": sum(report.steps) / len(report.steps), "lr": report.lr}
        if report.rejected is not None:
            values["rejected"] = 1.0
        finite = {name: value for name, value in values.items() if math.isfinite(value)}
        self._each(lambda sink: sink.numbers(report.iteration, finite))

    def on_evaluation(self, iteration: int, evaluation: Evaluation) -> None:
        """Accuracy in percent: mean and standard deviation over the networks."""
        values = {"accuracy/mean": 100 * evaluation.mean, "accuracy/std": 100 * evaluation.std}
        self._each(lambda sink: sink.numbers(iteration, values))

    def on_images(self, iteration: int, images: Tensor) -> None:
        """A picture of all classes, of the first ten images of each, if it is time for one."""
        if not self._opened:
            self._open(iteration)
        if iteration < self._next_picture or not self._sinks:
            return
        self._next_picture = max(iteration + 1, PICTURES_GROW * iteration)
        pixels = self._preprocessing.invert(images).clamp(0, 1).nan_to_num(0.0)
        if pixels.shape[1] not in (1, 3):
            pixels = pixels.mean(dim=1, keepdim=True)
        by_class = pixels.reshape(self._classes, -1, *pixels.shape[1:])[:, :MOST_PER_CLASS].flatten(0, 1)
        self._each(lambda sink: sink.picture(iteration, tile(by_class, self._classes)))

    def close(self) -> None:
        """Let every log write what is left."""
        self._each(lambda sink: sink.close())

    def _each(self, act: Callable[[Sink], None]) -> None:
        for sink in list(self._sinks):
            try:
                act(sink)
            except Exception as error:  # logs call services and disks: whatever it is, the run goes on
                self._sinks.remove(sink)
                _tell(sink.name, error)


def _tell(name: str, error: Exception) -> None:
    told = first_line(error)
    _log.warning("%s fails (%s); the run goes on without it, metrics.jsonl has everything", name, told)
