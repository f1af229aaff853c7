"""What a log takes in."""

from __future__ import annotations

from typing import Protocol

from torch import Tensor


class Sink(Protocol):
    """A log of numbers and pictures by iteration."""

    name: str

    def numbers(self, iteration: int, values: dict[str, float]) -> None:
        """Named numbers of an iteration."""

    def picture(self, iteration: int, image: Tensor) -> None:
        """One picture [C, H, W] in [0, 1] of all images of an iteration, C = 1 or 3."""

    def close(self) -> None:
        """Write what is left."""
