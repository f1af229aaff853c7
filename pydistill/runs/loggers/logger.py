"""The base class of loggers: which numbers and pictures are logged, and that no failure of a log ends a run."""

from __future__ import annotations

import logging
import math
from abc import abstractmethod
from collections.abc import Callable
from pathlib import Path
from typing import Any

from torch import Tensor

from pydistill._util.format import first_line
from pydistill._util.png import tile
from pydistill.data import Dataset
from pydistill.distillation.records import IterationReport
from pydistill.errors import PydistillError
from pydistill.evaluation.evaluate import Evaluation
from pydistill.recipes.recipe import Recipe
from pydistill.runs.callbacks import RunCallback

MAX_POINTS = 10_000
PICTURE_SPACING = 1.25
MAX_PER_CLASS = 10

_log = logging.getLogger("pydistill")


class Logger(RunCallback):
    """Logs numbers and pictures of a run.

    At most 10,000 iterations are logged, evenly spaced, every evaluation, and pictures at checkpoints, each at 1.25
    times the iteration of the one before or later. A log that fails is named in one warning and not used again.

    Args:
        dataset: by its preprocessing images become pixels.
        required: raise an error of this package's from opening the log, such as a missing package, instead of warning.
    """

    name: str

    def __init__(self, run: Path, recipe: Recipe, dataset: Dataset, *, required: bool = True) -> None:
        self._folder, self._recipe, self._dataset, self._required = run, recipe, dataset, required
        self._interval = math.ceil(recipe.distill.iterations / MAX_POINTS)
        self._next_picture = 0.0
        self._backend: Any = None

    @abstractmethod
    def _open(self, iteration: int) -> Any:
        """Open the log of a run that has done `iteration` iterations."""

    @abstractmethod
    def _log_numbers(self, iteration: int, values: dict[str, float]) -> None:
        """Log numbers by name."""

    @abstractmethod
    def _log_picture(self, iteration: int, picture: Tensor) -> None:
        """Log a picture [C, H, W] in [0, 1], C = 1 or 3."""

    @abstractmethod
    def _close(self) -> None:
        """Write what is left and close the log."""

    def on_start(self, iteration: int) -> None:
        """Open the log.

        Raises:
            PydistillError: the log is required and cannot be opened.
        """
        try:
            self._backend = self._open(iteration)
        except Exception as error:
            if self._required and isinstance(error, PydistillError):
                raise
            self._fail(error)

    def on_iteration(self, report: IterationReport) -> None:
        """Log the loss, the chosen step, the learning rate, and whether the update was rejected."""
        if report.iteration % self._interval:
            return
        values = {"loss": report.loss, "step": sum(report.steps) / len(report.steps), "lr": report.lr}
        if report.rejected is not None:
            values["rejected"] = 1.0
        finite = {name: value for name, value in values.items() if math.isfinite(value)}
        self._guarded(lambda: self._log_numbers(report.iteration, finite))

    def on_evaluation(self, iteration: int, evaluation: Evaluation) -> None:
        """Log the mean and the standard deviation of the accuracy over the networks, in percent."""
        values = {"accuracy/mean": 100 * evaluation.mean, "accuracy/std": 100 * evaluation.std}
        self._guarded(lambda: self._log_numbers(iteration, values))

    def on_images(self, iteration: int, images: Tensor) -> None:
        """Log a picture of the first ten images of every class, if one is due."""
        if iteration < self._next_picture:
            return
        self._next_picture = max(iteration + 1, PICTURE_SPACING * iteration)
        self._guarded(lambda: self._log_picture(iteration, self._picture(images)))

    def on_end(self) -> None:
        """Close the log."""
        self._guarded(self._close)
        self._backend = None

    def _picture(self, images: Tensor) -> Tensor:
        classes = self._dataset.num_classes
        pixels = self._dataset.preprocessing.invert(images).clamp(0, 1).nan_to_num(0.0)
        if pixels.shape[1] not in (1, 3):
            pixels = pixels.mean(dim=1, keepdim=True)
        by_class = pixels.reshape(classes, -1, *pixels.shape[1:])[:, :MAX_PER_CLASS].flatten(0, 1)
        return tile(by_class, classes)

    def _guarded(self, write: Callable[[], None]) -> None:
        """Write to the log if it is open; an error closes it for good."""
        if self._backend is None:
            return
        try:
            write()
        except Exception as error:  # logs use services and disks, and none of their errors may end a run
            self._backend = None
            self._fail(error)

    def _fail(self, error: Exception) -> None:
        reason = first_line(error)
        _log.warning("%s failed (%s); the run continues without it, and metrics.jsonl is complete", self.name, reason)
