"""Callbacks of a run: the base class and the progress bar."""

from __future__ import annotations

from torch import Tensor

from pydistill._util.format import networks
from pydistill._util.progress import Bar
from pydistill.distillation.records import IterationReport
from pydistill.evaluation.evaluate import Evaluation


class RunCallback:
    """Base class of callbacks: every method does nothing. An exception that a callback raises ends the run."""

    def on_start(self, iteration: int) -> None:
        """Called once, before the first iteration of this process, when `iteration` iterations are done."""

    def on_iteration(self, report: IterationReport) -> None:
        """Called after each outer iteration."""

    def on_evaluation(self, iteration: int, evaluation: Evaluation) -> None:
        """Called after each evaluation on fresh networks."""

    def on_images(self, iteration: int, images: Tensor) -> None:
        """Called at the start and after each checkpoint, with the preprocessed images [n, C, H, W] saved in it."""

    def on_end(self) -> None:
        """Called once when the run ends, also by an error."""


class ProgressBar(RunCallback):
    """Shows iterations in a bar, and evaluations as lines above it."""

    def __init__(self, bar: Bar) -> None:
        self._bar = bar

    def on_iteration(self, report: IterationReport) -> None:
        """Show the loss, the chosen step and the learning rate."""
        self._bar.step(loss=f"{report.loss:.4f}", step=", ".join(map(str, report.steps)), lr=f"{report.lr:.4g}")

    def on_evaluation(self, iteration: int, evaluation: Evaluation) -> None:
        """Print the accuracy."""
        count = networks(len(evaluation.accuracies), "fresh")
        self._bar.say(f"iteration {iteration}: {evaluation.text} on {count}")
