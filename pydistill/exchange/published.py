"""The statistics that other tools normalise images with: constants in their code, not measured on the data."""

from __future__ import annotations

import torch

from pydistill.data import Normalise

Statistics = tuple[tuple[float, ...], tuple[float, ...]]

_CIFAR10: Statistics = ((0.4914, 0.4822, 0.4465), (0.2023, 0.1994, 0.2010))
_IMAGENET: Statistics = ((0.485, 0.456, 0.406), (0.229, 0.224, 0.225))

# Mean and standard deviation per channel, as get_dataset of MTT (and of DC, DATM, DD-Ranking) has them.
MTT: dict[str, Statistics] = {
    "cifar10": _CIFAR10,
    "cifar100": _CIFAR10,  # their code gives CIFAR-100 the numbers of CIFAR-10
    "svhn": ((0.4377, 0.4438, 0.4728), (0.1980, 0.2010, 0.1970)),
    "fashion-mnist": ((0.2861,), (0.3530,)),
    "tiny-imagenet": _IMAGENET,
    **{f"image{kind}": _IMAGENET for kind in ("nette", "woof", "fruit", "meow", "squawk", "yellow")},
}
# As DC-BENCH's evaluator has them.
DC_BENCH: dict[str, Statistics] = {
    "cifar10": _CIFAR10,
    "cifar100": ((0.5071, 0.4866, 0.4409), (0.2673, 0.2564, 0.2762)),
    "tiny-imagenet": _IMAGENET,
}


def published_normalisation(dataset: str, form: str) -> Normalise | None:
    """The normalisation that readers of the format give the data set's test images, or None where it is not known.

    Args:
        dataset: its name, such as cifar10.
        form: mtt, dcbench or ddranking.
    """
    found = (DC_BENCH if form == "dcbench" else MTT).get(dataset)
    if found is None:
        return None
    mean, std = (torch.tensor(numbers, dtype=torch.float64) for numbers in found)
    return Normalise(mean, std)
