"""Runs small enough for tests: blobs, a narrow ConvNet, experts of a few epochs."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import torch

from pydistill.artefact.file import Artefact
from pydistill.data import Dataset, Pictures
from pydistill.distillation.distiller import DistillSettings
from pydistill.distillation.records import IterationReport
from pydistill.evaluation.evaluate import EvaluationSettings
from pydistill.nn import ModelSettings
from pydistill.recipes.recipe import Recipe
from pydistill.runs.callbacks import RunCallback
from pydistill.runs.folder import RunFolder
from pydistill.training.experts import ExpertSettings, train_experts
from pydistill.training.train import TrainingSettings
from pydistill.trajectories import TrajectoryStore
from tests.helpers.blobs import blobs

MODEL = ModelSettings("convnet", width=4, depth=2)
EXPERT = ExpertSettings(count=3, training=TrainingSettings(epochs=6, batch_size=16, lr=0.1))
EVALUATION = EvaluationSettings(repeats=2, training=TrainingSettings(epochs=5, batch_size=16, momentum=0.9))


def recipe(**distill: Any) -> Recipe:
    """A recipe of eight iterations of three student steps, with these settings of the distillation changed."""
    settings = {
        "iterations": 8,
        "steps": 3,
        "expert_epochs": 2,
        "max_start": 3,
        "lr_image": 1.0,
        "lr_lr": 1e-4,
        "lr_init": 0.1,
        "checkpoint_every": 3,
    } | distill
    return Recipe(model=MODEL, expert=EXPERT, distill=DistillSettings(**settings), evaluation=EVALUATION)


def experts(folder: Path, dataset: Dataset | None = None, model: ModelSettings = MODEL) -> TrajectoryStore:
    """The experts of `recipe()`, trained into `folder`."""
    return train_experts(dataset or blobs(), model, EXPERT, folder)


class BreakAt(RunCallback):
    """Ends the run by an error after an iteration."""

    def __init__(self, iteration: int) -> None:
        self.iteration = iteration

    def on_iteration(self, report: IterationReport) -> None:
        if report.iteration == self.iteration:
            raise RuntimeError("interrupted")


def plain_metrics(folder: Path) -> list[dict[str, Any]]:
    """A run's metrics without wall times."""
    return [{key: value for key, value in line.items() if key != "seconds"} for line in RunFolder(folder).metrics()]


def assert_same_outcome(one: Path, other: Path) -> None:
    """Assert that two runs have the same sets and the same metrics, bit for bit."""
    for name in ("distilled.safetensors", "best.safetensors"):
        first, second = Artefact.load(one / name), Artefact.load(other / name)
        assert torch.equal(first.images, second.images)
        assert torch.equal(first.labels, second.labels)
        assert first.lr == second.lr
        assert first.storage == second.storage
    assert plain_metrics(one) == plain_metrics(other)


def in_double(dataset: Dataset) -> Dataset:
    """The data set in fp64."""
    train, test = Pictures(dataset.train_images.double()), Pictures(dataset.test_images.double())
    return replace(dataset, train_pictures=train, test_pictures=test)


def changed(after: torch.Tensor, before: torch.Tensor) -> bool:
    """Return whether the two differ anywhere."""
    return not torch.equal(after, before)
