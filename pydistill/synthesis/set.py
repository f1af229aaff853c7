"""The synthetic set during a distillation: pixels, labels, learning rate, and the moving average of the pixels."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor, nn

from pydistill.data import Dataset
from pydistill.errors import InputError

Initialisation = Literal["real", "noise"]
Labels = Literal["hard", "teacher", "learned"]


@dataclass
class SyntheticSet:
    """n = ipc × classes synthetic images, class-major, with their labels and the student's learning rate.

    Attributes:
        images: [n, C, H, W], a leaf.
        classes: the class each image stands for, [n] int64.
        label_rows: None for hard labels; probabilities [n, K] (`teacher`), or logits [n, K], a leaf (`learned`).
        kind: `hard`, `teacher` or `learned`.
        lr: the student's learning rate α, 0-dim, a leaf.
    """

    images: Tensor
    classes: Tensor
    label_rows: Tensor | None
    kind: Labels
    lr: Tensor

    @property
    def labels(self) -> Tensor:
        """The labels for `match`: class numbers [n], probabilities [n, K], or logits [n, K]."""
        return self.classes if self.label_rows is None else self.label_rows

    @property
    def training_labels(self) -> Tensor:
        """The labels for training a network, a constant: class numbers [n] or probabilities [n, K]."""
        if self.label_rows is None:
            return self.classes
        rows = self.label_rows.detach()
        return rows.softmax(dim=1) if self.kind == "learned" else rows

    def learned(self) -> dict[str, Tensor]:
        """Return the leaves that receive gradients, by name."""
        leaves = {"images": self.images, "lr": self.lr}
        if self.kind == "learned" and self.label_rows is not None:
            leaves["label_logits"] = self.label_rows
        return leaves


def teacher_probabilities(teachers: Iterable[nn.Module], images: Tensor) -> Tensor:
    """Average softmax(logits) over the teachers, [n, K]: the soft labels that MCT and TESLA offer."""
    with torch.no_grad():
        probabilities = [teacher(images).softmax(dim=1) for teacher in teachers]
    if not probabilities:
        raise InputError("soft labels need at least one expert as a teacher")
    return torch.stack(probabilities).mean(dim=0)


def initial_set(
    dataset: Dataset,
    *,
    ipc: int,
    initialisation: Initialisation,
    labels: Labels,
    lr: float,
    teachers: Iterable[nn.Module],
    generator: torch.Generator,
) -> SyntheticSet:
    """Make the synthetic set before the first iteration.

    `real` takes ipc random training images of each class; `noise` draws pixels from N(0, 1) in the preprocessed space.
    Learned label logits start at the logarithm of the teachers' probabilities, so their softmax equals these.

    Raises:
        InputError: ipc < 1 or above the class size, lr ≤ 0, or soft labels without a teacher.
    """
    if not lr > 0:
        raise InputError(f"lr_init must be above 0, not {lr}")
    images, classes = dataset.sample_per_class(ipc, generator)
    if initialisation == "noise":
        images = torch.randn(images.shape, generator=generator).to(images)
    rows = None
    if labels != "hard":
        rows = teacher_probabilities(teachers, images)
        if labels == "learned":
            rows = rows.clamp_min(torch.finfo(rows.dtype).tiny).log().requires_grad_()
    learning_rate = torch.tensor(lr, dtype=images.dtype, device=images.device, requires_grad=True)
    return SyntheticSet(images.clone().requires_grad_(), classes.clone(), rows, labels, learning_rate)


class ImageAverage:
    """Exponential moving average of the images, as ATT and FTD evaluate them.

        a ← δ a + (1 − δ) x,    δ = min(decay, (1 + t) / (10 + t)) at update t

    The bound on δ keeps the first images from dominating a short run.
    """

    def __init__(self, images: Tensor, decay: float) -> None:
        if not 0 <= decay < 1:
            raise InputError(f"ema must lie in [0, 1), not {decay}")
        self.decay = decay
        self.updates = 0
        self.average = images.detach().clone()

    def update(self, images: Tensor) -> None:
        """Add the images after one iteration."""
        self.updates += 1
        decay = min(self.decay, (1 + self.updates) / (10 + self.updates))
        self.average.lerp_(images.detach(), 1 - decay)
