"""The images that a distillation starts from."""

from __future__ import annotations

from typing import Literal

import torch
from torch import Tensor

from pydistill.data import Dataset

Initialisation = Literal["real", "noise"]


def initial_images(
    dataset: Dataset, count: int, initialisation: Initialisation, generator: torch.Generator
) -> tuple[Tensor, Tensor]:
    """Return `count` images per class, class-major [n, C, H, W], preprocessed, and their classes [n].

    `real` takes random training images; `noise` draws pixels from N(0, 1) in the preprocessed space.

    Raises:
        InputError: count < 1 or above a class's size.
    """
    images, classes = dataset.sample_per_class(count, generator)
    if initialisation == "noise":
        images = torch.randn(images.shape, generator=generator).to(images)
    return images, classes
