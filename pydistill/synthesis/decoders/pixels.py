"""Decoder `pixels`: the images themselves are learned."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor

from pydistill.synthesis.decoders.base import Decoder


class Pixels(Decoder):
    """The identity: one code, `images` [n, C, H, W]."""

    def __init__(self, ipc: int) -> None:
        self.images_per_class = ipc

    def encode(self, images: Tensor, classes: Tensor, generator: torch.Generator) -> dict[str, Tensor]:
        """Return the images as the code `images`."""
        return {"images": images}

    def decode(self, codes: Mapping[str, Tensor]) -> Tensor:
        """Return the code `images`."""
        return codes["images"]
