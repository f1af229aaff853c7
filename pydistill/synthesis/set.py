"""The synthetic set during a distillation: codes of the images, labels and learning rate."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from pydistill.data import Dataset
from pydistill.errors import InputError
from pydistill.synthesis.decoders import Decoder, Pixels
from pydistill.synthesis.initialisation import Initialisation, StartingSet, initial_images
from pydistill.synthesis.labels import Labels, LabelStart, initial_label_rows, logarithms


@dataclass
class SyntheticSet:
    """n synthetic images, class-major, with their labels and the student's learning rate.

    Attributes:
        decoder: from the codes to the images.
        codes: the tensors that the images are made of, leaves.
        classes: the class each image stands for, [n] int64.
        label_rows: None for hard labels; probabilities [n, K] (`teacher`), or logits [n, K], a leaf (`learned`).
        kind: `hard`, `teacher` or `learned`.
        lr: the student's learning rate α, 0-dim, a leaf.
    """

    decoder: Decoder
    codes: dict[str, Tensor]
    classes: Tensor
    label_rows: Tensor | None
    kind: Labels
    lr: Tensor

    @property
    def images(self) -> Tensor:
        """The images [n, C, H, W], without a graph."""
        with torch.no_grad():
            return self.decoder.decode(self.codes).detach()

    @property
    def training_labels(self) -> Tensor:
        """The labels for training a network, a constant: class numbers [n] or probabilities [n, K]."""
        if self.label_rows is None:
            return self.classes
        rows = self.label_rows.detach()
        return rows.softmax(dim=1) if self.kind == "learned" else rows

    def learned(self) -> dict[str, Tensor]:
        """Return the leaves that are updated, by name: the codes, lr, and label_logits if learned."""
        leaves = {**self.codes, "lr": self.lr}
        if self.kind == "learned" and self.label_rows is not None:
            leaves["label_logits"] = self.label_rows
        return leaves

    def matched(self) -> MatchedSet:
        """Decode the images for one iteration."""
        return MatchedSet(self)


class MatchedSet:
    """The set as students see it in one iteration: the decoded images as a leaf, and the way back to the codes.

    Attributes:
        images: [n, C, H, W], a leaf.
        labels: the labels for `match`: class numbers [n], probabilities [n, K], or logits [n, K].
        inputs: the leaves that receive the gradients of the matching loss: images, lr, and label_logits if learned.
    """

    def __init__(self, synthetic: SyntheticSet) -> None:
        self._codes = synthetic.codes
        with torch.enable_grad():
            self._decoded = synthetic.decoder.decode(synthetic.codes)
            self._penalty = synthetic.decoder.penalty(synthetic.codes)
        self.images = self._decoded.detach().requires_grad_()
        self.labels = synthetic.classes if synthetic.label_rows is None else synthetic.label_rows
        others = {name: leaf for name, leaf in synthetic.learned().items() if name not in synthetic.codes}
        self.inputs = {"images": self.images, **others}

    def pull_back(self, gradients: dict[str, Tensor]) -> dict[str, Tensor]:
        """Return the gradients of the learned leaves, with the decoder's penalty, from those of the inputs."""
        outputs, factors = [self._decoded], [gradients["images"]]
        if self._penalty is not None:
            outputs, factors = [*outputs, self._penalty], [*factors, torch.ones_like(self._penalty)]
        of_codes = torch.autograd.grad(outputs, list(self._codes.values()), factors)
        others = {name: gradient for name, gradient in gradients.items() if name != "images"}
        return {**dict(zip(self._codes, of_codes, strict=True)), **others}


def initial_set(
    dataset: Dataset,
    *,
    ipc: int,
    initialisation: Initialisation,
    labels: Labels,
    lr: float,
    teachers: Sequence[nn.Module],
    generator: torch.Generator,
    decoder: Decoder | None = None,
    label_start: LabelStart = "probabilities",
    network: nn.Module | None = None,
    difficulty_start: float = 0.0,
    start: StartingSet | None = None,
) -> SyntheticSet:
    """Make the synthetic set before the first iteration.

    Args:
        ipc: images per class; with a decoder, the storage of as many.
        initialisation, network, difficulty_start: see `initial_images`.
        labels, label_start: see `initial_label_rows`.
        lr: α₀.
        teachers: the experts' final networks.
        decoder: None for pixels.
        start: the set to go on from: its images, learning rate and, unless labels are hard, soft labels take the places
            of those that the arguments above describe.

    Raises:
        InputError: ipc < 1 or above the class size, lr ≤ 0, or soft labels without a teacher.
    """
    if not lr > 0:
        raise InputError(f"lr_init must be above 0, not {lr}")
    decoder = decoder or Pixels(ipc)
    if start is None:
        images, classes = initial_images(
            dataset,
            decoder.images_per_class,
            initialisation,
            generator,
            experts=teachers,
            network=network,
            difficulty_start=difficulty_start,
        )
    else:
        images, classes, lr = start.images, start.classes, start.lr
    images = decoder.represented(images)  # labels belong to these
    if start is None or start.probabilities is None or labels == "hard":
        rows = initial_label_rows(labels, images, classes, teachers, label_start)
    else:
        rows = start.probabilities if labels == "teacher" else logarithms(start.probabilities).requires_grad_()
    encoded = decoder.encode(images, classes, generator)
    codes = {name: code.clone().requires_grad_() for name, code in encoded.items()}
    learning_rate = torch.tensor(lr, dtype=images.dtype, device=images.device, requires_grad=True)
    return SyntheticSet(decoder, codes, classes.clone(), rows, labels, learning_rate)


def moving_images(classes: Tensor, frozen: float) -> Tensor:
    """Mark the images that are updated, [n, 1, 1, 1]: all but the first ⌈frozen · ipc⌉ of each class.

    Args:
        classes: the class of each image, [n] int64, class-major and ipc of each.
        frozen: share of each class.

    Source: Lee and Chung, "SelMatch: Effectively scaling up dataset distillation via selection-based initialization and
    partial updates by trajectory matching", ICML 2024.
    """
    ipc = len(classes) // len(torch.unique(classes))
    still = math.ceil(frozen * ipc - 1e-9)  # 0.55 · 100 is 55.000…01
    return (torch.arange(len(classes), device=classes.device) % ipc >= still)[:, None, None, None]
