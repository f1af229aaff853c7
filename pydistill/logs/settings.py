"""Where a run is logged."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from pydistill.errors import InputError

WandbMode = Literal["offline", "online"]


@dataclass(frozen=True)
class LogSettings:
    """Where a run is logged, beside metrics.jsonl; no result depends on it, so it is no part of the recipe.

    Args:
        tensorboard: write events into the run folder's tensorboard/; null: if the package tensorboard is installed.
        wandb: offline (into the run folder, to be synchronised later), online, or null for not at all.
        project: of wandb.

    Raises:
        InputError: wandb is neither offline nor online nor null.
    """

    tensorboard: bool | None = None
    wandb: WandbMode | None = None
    project: str = "pydistill"

    def __post_init__(self) -> None:
        if self.wandb not in (None, "offline", "online"):
            raise InputError(f"log.wandb must be offline, online or null, not {self.wandb!r}")
