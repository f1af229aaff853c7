"""Who looks on while a run goes on: a progress bar, and several observers as one."""

from __future__ import annotations

from torch import Tensor

from pydistill._util.format import accuracy_of, networks
from pydistill._util.progress import Bar
from pydistill.distillation.records import IterationReport
from pydistill.evaluation.evaluate import Evaluation
from pydistill.runs.evaluation import RunCallback


class ProgressBar:
    """Shows iterations in a bar, and evaluations as lines above it."""

    def __init__(self, bar: Bar) -> None:
        self._bar = bar

    def on_iteration(self, report: IterationReport) -> None:
        """Show the loss, the chosen step and the learning rate."""
        self._bar.step(loss=f"{report.loss:.4f}", step=", ".join(map(str, report.steps)), lr=f"{report.lr:.4g}")

    def on_evaluation(self, iteration: int, evaluation: Evaluation) -> None:
        """Say what the set is worth now."""
        count = len(evaluation.accuracies)
        told = accuracy_of(evaluation.mean, evaluation.std, count)
        self._bar.say(f"iteration {iteration}: {told} on {networks(count, 'fresh')}")

    def on_images(self, iteration: int, images: Tensor) -> None:
        """Nothing: a bar has no room for pictures."""


class CallbackList:
    """Tells several observers, in their order."""

    def __init__(self, *observers: RunCallback) -> None:
        self._observers = observers

    def on_iteration(self, report: IterationReport) -> None:
        """After each outer iteration."""
        for observer in self._observers:
            observer.on_iteration(report)

    def on_evaluation(self, iteration: int, evaluation: Evaluation) -> None:
        """After each evaluation on fresh networks."""
        for observer in self._observers:
            observer.on_evaluation(iteration, evaluation)

    def on_images(self, iteration: int, images: Tensor) -> None:
        """At the beginning and after each checkpoint."""
        for observer in self._observers:
            observer.on_images(iteration, images)
