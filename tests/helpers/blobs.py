"""A small data set that a network learns in a few epochs: one bright quarter per class, and noise."""

from __future__ import annotations

import torch

from pydistill.data import Dataset, from_arrays


def blobs(per_class: int = 12, size: int = 8, channels: int = 1, seed: int = 0) -> Dataset:
    """Four classes of `per_class` training and as many test images [channels, size, size]."""
    generator = torch.Generator().manual_seed(seed)
    labels = torch.arange(4).repeat_interleave(per_class)

    def images() -> torch.Tensor:
        noise = 0.3 * torch.rand(len(labels), channels, size, size, generator=generator)
        half = size // 2
        for image, label in zip(noise, labels.tolist(), strict=True):
            row, column = divmod(label, 2)
            image[:, row * half : (row + 1) * half, column * half : (column + 1) * half] += 0.6
        return noise

    return from_arrays(images(), labels, images(), labels, name="blobs")
