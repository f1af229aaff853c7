"""Choose the real images that a synthetic set starts from: representative, classified right, or of one difficulty."""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import Tensor, nn

from pydistill.data import Dataset
from pydistill.errors import InputError, SettingError
from pydistill.synthesis.kmeans import features, kmeans_choice
from pydistill.synthesis.logits import CHUNK, logits


def representative_images(dataset: Dataset, count: int, network: nn.Module, generator: torch.Generator) -> Tensor:
    """Choose `count` training images of each class by k-means on the network's features; see `kmeans_choice`.

    Returns:
        The images' indices, class-major, int64 [count · classes].

    Source: Liu et al., "DREAM: Efficient dataset distillation by representative matching", ICCV 2023, for a network
    with random parameters.
    """
    chosen = []
    for indices in dataset.indices_per_class(count):
        of_class = features(network, dataset.train_pictures.batch(indices))
        chosen.append(indices[kmeans_choice(of_class, count, generator)])
    return torch.cat(chosen)


def correct_images(dataset: Dataset, count: int, experts: Sequence[nn.Module], generator: torch.Generator) -> Tensor:
    """Choose `count` training images of each class that an expert classifies right.

    Each class is visited in random order; the first `count` images whose largest logit, of the first expert, is at
    their class are chosen. Where they run out, the next expert adds those that it classifies right, and so on.

    Returns:
        The images' indices, class-major, int64 [count · classes].

    Raises:
        InputError: there are no experts, or they classify fewer images of a class right.

    Source: Guo et al., "Towards lossless dataset distillation via difficulty-aligned trajectory matching", ICLR 2024.
    """
    if not experts:
        raise InputError("initialisation correct needs at least one expert")
    orders = [
        indices[torch.randperm(len(indices), generator=generator).to(indices.device)]
        for indices in dataset.indices_per_class(count)
    ]
    chosen: list[list[int]] = [[] for _ in orders]
    for expert in experts:
        for label, order in enumerate(orders):
            taken = torch.tensor(chosen[label], dtype=torch.int64, device=order.device)
            left = order[torch.isin(order, taken, invert=True)]
            for chunk in torch.split(left, CHUNK):
                if len(chosen[label]) == count:
                    break
                right = logits(expert, dataset.train_pictures.batch(chunk)).argmax(dim=1) == label
                chosen[label] += chunk[right].tolist()[: count - len(chosen[label])]
        if all(len(of_class) == count for of_class in chosen):
            return torch.tensor(chosen, device=dataset.device).flatten()
    label = next(label for label, of_class in enumerate(chosen) if len(of_class) < count)
    raise SettingError(
        "ipc",
        count,
        f"at most {len(chosen[label])} with initialisation correct, the images of class {label} "
        f"({dataset.class_names[label]!r}) that an expert classifies right",
        "lower it, or train experts for more epochs",
    )


def images_of_difficulty(dataset: Dataset, count: int, expert: nn.Module, start: float) -> Tensor:
    """Choose `count` training images of each class from a window of their order by difficulty, hardest first.

        window = ⌊start · count⌋ … ⌊start · count⌋ + count − 1

    The difficulty is `el2n` of the expert; equally difficult images stay in the data set's order.

    Returns:
        The images' indices, class-major and hardest first within a class, int64 [count · classes].

    Raises:
        InputError: the window ends beyond a class's images.

    Source: Lee and Chung, "SelMatch: Effectively scaling up dataset distillation via selection-based initialization and
    partial updates by trajectory matching", ICML 2024, which orders by published scores instead.
    """
    first = math.floor(start * count + 1e-9)  # 0.29 · 100 is 28.999…
    chosen = []
    for label, indices in enumerate(dataset.indices_per_class(count)):
        if first + count > len(indices):
            name = f"class {label} ({dataset.class_names[label]!r})"
            raise SettingError(
                "difficulty_start",
                start,
                f"at most {(len(indices) - count) / count:g} for ipc = {count} and the {len(indices)} images of {name}",
            )
        parts = []
        for chunk in torch.split(indices, CHUNK):
            parts.append(el2n(expert, dataset.train_pictures.batch(chunk), dataset.train_labels[chunk]))
        order = torch.cat(parts).argsort(descending=True, stable=True)
        chosen.append(indices[order[first : first + count]])
    return torch.cat(chosen)


def el2n(network: nn.Module, images: Tensor, labels: Tensor) -> Tensor:
    """Compute the difficulty of images [n, C, H, W] for a network: the norm of its error, [n] from 0 to √2.

        EL2N(x, y) = ‖softmax f(x) − onehot(y)‖₂

    Source: Paul, Ganguli and Dziugaite, "Deep learning on a data diet", NeurIPS 2021.
    """
    probabilities = logits(network, images).softmax(dim=1)
    error = probabilities - nn.functional.one_hot(labels, probabilities.shape[1])
    difficulty: Tensor = torch.linalg.vector_norm(error, dim=1)
    return difficulty
