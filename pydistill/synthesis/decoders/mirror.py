"""Decoder `mirror`: images and their mirror images."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor

from pydistill.synthesis.decoders.base import Decoder


class Mirror(Decoder):
    """Every stored image is followed by its mirror image (left to right), with the same class:

        x_{2i} = z_i,    x_{2i+1}[c, h, w] = z_i[c, h, W − 1 − w]

    So the 2n images need the storage of n. The idea is that of Son et al., *FYI: Flip Your Images for Dataset
    Distillation*, ECCV 2024. It suits classes that a mirror maps to themselves; a mirrored digit is none.

    Args:
        ipc: stored images per class.
    """

    def __init__(self, ipc: int) -> None:
        self.images_per_class = 2 * ipc

    def represented(self, images: Tensor) -> Tensor:
        """Return the images with every second one replaced by the mirror image of the one before it."""
        return self.decode({"images": images[::2]})

    def encode(self, images: Tensor, classes: Tensor, generator: torch.Generator) -> dict[str, Tensor]:
        """Return every other image as the code `images` [n/2, C, H, W]."""
        return {"images": images[::2]}

    def decode(self, codes: Mapping[str, Tensor]) -> Tensor:
        """Return the images and their mirror images in turn, [n, C, H, W]; linear in the codes."""
        images = codes["images"]
        return torch.stack([images, images.flip(3)], dim=1).flatten(0, 1)
