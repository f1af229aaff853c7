"""Settings of a run's loggers."""

from __future__ import annotations

import importlib.util
from dataclasses import dataclass
from typing import Literal

from pydistill._util.settings import Settings, setting
from pydistill.errors import MissingDependencyError, Name

WandbMode = Literal["offline", "online"]


@dataclass(frozen=True)
class LogSettings(Settings):
    """The loggers of a run besides metrics.jsonl; no result depends on them, so they are not part of the recipe.

    A logger that was asked for by name is refused at once if its package is missing.

    Raises:
        MissingDependencyError: the package tensorboard or wandb is not installed.
    """

    tensorboard: bool | None = setting(
        None, "write TensorBoard events into the run folder; null: if tensorboard is installed"
    )
    wandb: WandbMode | None = setting(
        None, "offline (into the run folder, to be synchronised later) or online; null for not at all"
    )
    project: str = setting("pydistill", "the project in wandb")

    def _check(self) -> None:
        for name, asked in (("tensorboard", bool(self.tensorboard)), ("wandb", self.wandb is not None)):
            if asked and not _installed(name):
                raise missing_package(name)

    @property
    def with_tensorboard(self) -> bool:
        """True if TensorBoard events are written."""
        return _installed("tensorboard") if self.tensorboard is None else self.tensorboard


def missing_package(name: str) -> MissingDependencyError:
    """Make the error for a logger whose package is not installed."""
    return MissingDependencyError(Name(f"log.{name}"), f" needs the package {name}: pip install {name}")


def _installed(name: str) -> bool:
    """Return True if a package of this name is installed; a folder of that name, such as a run's, does not count."""
    spec = importlib.util.find_spec(name)
    return spec is not None and (spec.origin is not None or spec.submodule_search_locations is None)
