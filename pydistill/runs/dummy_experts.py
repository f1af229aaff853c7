"""Data and experts of the right shapes and random numbers, for measuring what a recipe costs before there are any."""

from __future__ import annotations

from pathlib import Path
from typing import NamedTuple

import torch
from torch import Tensor

from pydistill.data import Dataset, DataSettings, Normalise, Pictures
from pydistill.data.imagenet import SUBSETS
from pydistill.distillation.distiller import DistillSettings
from pydistill.nn import Network, build, flatten
from pydistill.trajectories import (
    ConvexifiedTrajectory,
    ExpertsRecord,
    RecordedTrajectory,
    TrajectoryStore,
    convexify,
)
from pydistill.trajectories.index import StoreIndex


class DataShape(NamedTuple):
    """What of a data set decides the cost: channels, classes, side in pixels, and how many images there are."""

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
"""The data sets whose shapes are known without their files."""

MADE_UP = "made up"
"""The digest of such data."""

TEST_IMAGES = 1024


def shape_of(settings: DataSettings) -> DataShape | None:
    """The shape of a data set by its name; None where only its files tell."""
    shape = SHAPES.get(settings.name)
    if shape is None or settings.image_size is None:
        return shape
    return shape._replace(side=settings.image_size)


def dummy_data(settings: DataSettings, shape: DataShape, images: int, device: torch.device | str) -> Dataset:
    """Noise of a data set's shape, kept as its pictures would be: about `images` training images of all its classes."""
    generator = torch.Generator().manual_seed(0)
    plane = (shape.channels, shape.side, shape.side)
    bytes_asked = settings.pixels == "bytes"
    as_bytes = bytes_asked or (settings.pixels == "auto" and torch.device(device).type == "cuda" and not settings.zca)
    normalise = Normalise(torch.full((shape.channels,), 0.5), torch.full((shape.channels,), 0.25)).to(device)
    per_class = -(-min(images, shape.train) // shape.classes)

    def pictures(count: int) -> Pictures:
        if as_bytes:
            noise = torch.randint(0, 256, (count, *plane), generator=generator, dtype=torch.uint8)
            return Pictures(noise.to(device), normalise)
        return Pictures(torch.randn(count, *plane, generator=generator).to(device))

    test = min(TEST_IMAGES, shape.test)
    return Dataset(
        name=settings.name,
        class_names=tuple(map(str, range(shape.classes))),
        train_pictures=pictures(per_class * shape.classes),
        train_labels=torch.arange(shape.classes).repeat_interleave(per_class).to(device),
        test_pictures=pictures(test),
        test_labels=(torch.arange(test) % shape.classes).to(device),
        preprocessing=normalise,
        digest=MADE_UP,
    )


class DummyRows:
    """θ_e = θ_0 + e·δ for e = 0 … T, computed when it is read: rows as a file of experts hands them out."""

    def __init__(self, start: Tensor, epochs: int) -> None:
        generator = torch.Generator().manual_seed(0)
        self._start = start
        self._step = 1e-3 * torch.randn(start.shape, generator=generator)
        self._epochs = epochs

    @property
    def shape(self) -> tuple[int, int]:
        """(T + 1, P)."""
        return self._epochs + 1, self._start.numel()

    def row(self, index: int) -> Tensor:
        """θ of an epoch, [P]."""
        return self._start + index * self._step


class DummyExperts(TrajectoryStore):
    """A store of experts that are nowhere: each of them the same straight line from a fresh network."""

    def __init__(self, record: ExpertsRecord, model: Network, settings: DistillSettings, count: int) -> None:
        kind = settings.resolved_method().trajectories
        super().__init__(Path("made-up experts"), StoreIndex(record, kind, "float32"))
        network = build(model, record.in_channels, record.num_classes, record.image_size, seed=0)
        self._made = DummyRows(flatten(network), record.epochs)
        self._count = count
        self._trajectory: RecordedTrajectory | ConvexifiedTrajectory = RecordedTrajectory(self._made)
        if kind == "convexified":
            self._trajectory = convexified_by(settings, RecordedTrajectory(self._made), record)

    def __len__(self) -> int:
        return self._count

    def __getitem__(self, position: int) -> RecordedTrajectory | ConvexifiedTrajectory:
        return self._trajectory


def convexified_by(
    settings: DistillSettings, trajectory: RecordedTrajectory, record: ExpertsRecord
) -> ConvexifiedTrajectory:
    """A recorded expert convexified as the distillation's settings ask for."""
    return convexify(
        trajectory.snapshots,
        record.sizes,
        waypoints=4 if settings.waypoints is None else settings.waypoints,
        smoothing=settings.smoothing or "neighbours",
        fractions=settings.fractions or "path",
    )
