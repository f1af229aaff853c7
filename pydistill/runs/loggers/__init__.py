"""Loggers of a run besides its metrics.jsonl: TensorBoard and Weights & Biases."""

from __future__ import annotations

from pathlib import Path

from pydistill.data import Dataset
from pydistill.recipes.recipe import Recipe
from pydistill.runs.loggers.logger import Logger
from pydistill.runs.loggers.settings import LogSettings
from pydistill.runs.loggers.tensorboard import TensorBoardLogger
from pydistill.runs.loggers.wandb import WandbLogger

__all__ = ["LogSettings", "Logger", "TensorBoardLogger", "WandbLogger", "make_loggers"]


def make_loggers(settings: LogSettings, run: Path, recipe: Recipe, dataset: Dataset) -> list[Logger]:
    """Make the loggers that the settings ask for; they open their logs when the run starts."""
    loggers: list[Logger] = []
    if settings.with_tensorboard:
        loggers.append(TensorBoardLogger(run, recipe, dataset, required=settings.tensorboard is True))
    if settings.wandb is not None:
        loggers.append(WandbLogger(run, recipe, dataset, settings.wandb, settings.project))
    return loggers
