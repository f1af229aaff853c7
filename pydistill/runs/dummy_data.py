"""Random data and a random expert of the right shapes, to measure what a recipe costs before the real ones exist."""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

from pydistill.data import Dataset, DataSettings, Normalise, Pictures
from pydistill.data.imagenet import SUBSETS
from pydistill.nn import Network, build, flatten
from pydistill.trajectories import ExpertsRecord


class DataShape(NamedTuple):
    """The shape of a data set: channels, classes, side in pixels, and how many images it has."""

    channels: int
    classes: int
    side: int
    train: int
    test: int


SHAPES = {
    "cifar10": DataShape(3, 10, 32, 50_000, 10_000),
    "cifar100": DataShape(3, 100, 32, 50_000, 10_000),
    "fashion-mnist": DataShape(1, 10, 28, 60_000, 10_000),
    "svhn": DataShape(3, 10, 32, 73_257, 26_032),
    "tiny-imagenet": DataShape(3, 200, 64, 100_000, 10_000),
    **{name: DataShape(3, 10, 128, 13_000, 500) for name in SUBSETS},
}
"""Shapes by name; of the ImageNet subsets, the number of images is an estimate."""

DUMMY_DIGEST = "dummy"
TEST_IMAGES = 1024


def shape_of(settings: DataSettings) -> DataShape | None:
    """Return the shape of a data set known by name; None if only its files say."""
    shape = SHAPES.get(settings.name)
    changes = {"side": settings.image_size, "channels": settings.channels}
    return shape and shape._replace(**{name: value for name, value in changes.items() if value is not None})


def dummy_data(settings: DataSettings, shape: DataShape, images: int, device: torch.device | str) -> Dataset:
    """Return noise in the shape of a data set, stored as its pictures would be.

    Args:
        settings: name and storage (`pixels`) of the data set.
        shape: its shape.
        images: about how many training images, of all classes.
        device: where they go.
    """
    generator = torch.Generator().manual_seed(0)
    plane = (shape.channels, shape.side, shape.side)
    on_gpu = torch.device(device).type == "cuda"
    as_bytes = settings.pixels == "bytes" or (settings.pixels == "auto" and on_gpu and not settings.zca)
    normalise = Normalise(torch.full((shape.channels,), 0.5), torch.full((shape.channels,), 0.25)).to(device)
    per_class = -(-min(images, shape.train) // shape.classes)
    test = min(TEST_IMAGES, shape.test)

    def pictures(count: int) -> Pictures:
        if as_bytes:
            noise = torch.randint(0, 256, (count, *plane), generator=generator, dtype=torch.uint8)
            return Pictures(noise.to(device), normalise)
        return Pictures(torch.randn(count, *plane, generator=generator).to(device))

    return Dataset(
        name=settings.title,
        class_names=tuple(map(str, range(shape.classes))),
        train_pictures=pictures(per_class * shape.classes),
        train_labels=torch.arange(shape.classes).repeat_interleave(per_class).to(device),
        test_pictures=pictures(test),
        test_labels=(torch.arange(test) % shape.classes).to(device),
        preprocessing=normalise,
        digest=DUMMY_DIGEST,
    )


def dummy_snapshots(network: Network, record: ExpertsRecord) -> Tensor:
    """Return the snapshots [T + 1, P] of an expert that walks along a straight line: θ_e = θ_0 + e δ."""
    start = flatten(build(network, record.in_channels, record.num_classes, record.image_size, seed=0))
    step = 1e-3 * torch.randn(start.shape, generator=torch.Generator().manual_seed(0))
    return start + step * torch.arange(record.epochs + 1)[:, None]
