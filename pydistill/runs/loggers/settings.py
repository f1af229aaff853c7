"""Settings of a run's loggers."""

from __future__ import annotations

import importlib.util
from dataclasses import dataclass
from typing import Literal

from pydistill.errors import InputError, MissingDependencyError

WandbMode = Literal["offline", "online"]


@dataclass(frozen=True)
class LogSettings:
    """Loggers of a run besides metrics.jsonl; no result depends on them, so they are no part of the recipe.

    Args:
        tensorboard: write events into the run folder's tensorboard/; null: if the package tensorboard is installed.
        wandb: offline (into the run folder, to be synchronised later), online, or null for none.
        project: the project of wandb.

    Raises:
        InputError: wandb is neither offline nor online nor null.
    """

    tensorboard: bool | None = None
    wandb: WandbMode | None = None
    project: str = "pydistill"

    def __post_init__(self) -> None:
        if self.wandb not in (None, "offline", "online"):
            raise InputError(f"log.wandb must be offline, online or null, not {self.wandb!r}")

    @property
    def with_tensorboard(self) -> bool:
        """Whether TensorBoard's events are written."""
        return _installed("tensorboard") if self.tensorboard is None else self.tensorboard

    def check(self) -> None:
        """Check that the packages of the requested loggers are installed.

        Raises:
            MissingDependencyError: one is not installed.
        """
        for name, asked in (("tensorboard", bool(self.tensorboard)), ("wandb", self.wandb is not None)):
            if asked and not _installed(name):
                raise MissingDependencyError(
                    f"log.{name} needs the package {name}; install it with: pip install 'pydistill[{name}]'"
                )


def _installed(name: str) -> bool:
    """Whether there is a package of this name; a folder of the name, such as a run's, does not count."""
    spec = importlib.util.find_spec(name)
    return spec is not None and (spec.origin is not None or spec.submodule_search_locations is None)
