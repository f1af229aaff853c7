"""The images that a distillation starts from."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor, nn

from pydistill.data import Dataset
from pydistill.errors import InputError
from pydistill.synthesis.real_images import correct_images, images_of_difficulty, representative_images

Initialisation = Literal["real", "noise", "kmeans", "correct", "difficulty", "file"]


@dataclass(frozen=True)
class StartingSet:
    """Another distilled set, from which a distillation starts (`initialisation: file`).

    Attributes:
        images: [n, C, H, W], class-major, preprocessed as the data set's.
        classes: the class of each image, [n] int64.
        probabilities: the labels [n, K], or None for hard ones.
        lr: the student's learning rate.
    """

    images: Tensor
    classes: Tensor
    probabilities: Tensor | None
    lr: float


def initial_images(
    dataset: Dataset,
    count: int,
    initialisation: Initialisation,
    generator: torch.Generator,
    *,
    experts: Sequence[nn.Module] = (),
    network: nn.Module | None = None,
    difficulty_start: float = 0.0,
) -> tuple[Tensor, Tensor]:
    """Return `count` images per class, class-major [n, C, H, W], preprocessed, and their classes [n].

        real        random training images
        noise       pixels from N(0, 1) in the preprocessed space
        kmeans      representative training images: see `representative_images`
        correct     training images that experts classify right: see `correct_images`
        difficulty  training images of one difficulty: see `images_of_difficulty`

    Args:
        experts: trained networks, in the order of their numbers; for `correct`, and the first for `difficulty`.
        network: the one whose features `kmeans` clusters.
        difficulty_start: the start of the window of `difficulty`, as a share of `count`.

    Raises:
        InputError: count < 1 or above a class's size, or as the functions above.
    """
    if initialisation in ("real", "noise"):
        images, classes = dataset.sample_per_class(count, generator)
        if initialisation == "noise":
            images = torch.randn(images.shape, generator=generator).to(images)
        return images, classes
    if initialisation == "kmeans" and network is not None:
        index = representative_images(dataset, count, network, generator)
    elif initialisation == "correct" and experts:
        index = correct_images(dataset, count, experts, generator)
    elif initialisation == "difficulty" and experts:
        index = images_of_difficulty(dataset, count, experts[0], difficulty_start)
    else:
        missing = {"kmeans": "a network", "file": "a set to start from"}.get(initialisation, "at least one expert")
        raise InputError(f"initialisation {initialisation} needs {missing}")
    return dataset.train_pictures.batch(index), dataset.train_labels[index]
