"""The means and standard deviations with which published code normalises data sets."""

from __future__ import annotations

from collections.abc import Mapping

import torch

from pydistill.data.imagenet import SUBSETS
from pydistill.data.preprocessing import Normalise

Numbers = tuple[tuple[float, ...], tuple[float, ...]]
"""Mean and standard deviation per channel."""

# From get_dataset of DC, MTT (Cazenavette et al., CVPR 2022) and their descendants. CIFAR's standard deviations are
# averages over single images, a fifth below those over all pixels, and CIFAR-100 uses the numbers of CIFAR-10.
_CIFAR10: Numbers = ((0.4914, 0.4822, 0.4465), (0.2023, 0.1994, 0.2010))
_IMAGENET: Numbers = ((0.485, 0.456, 0.406), (0.229, 0.224, 0.225))
PUBLISHED: dict[str, Numbers] = {
    "cifar10": _CIFAR10,
    "cifar100": _CIFAR10,
    "svhn": ((0.4377, 0.4438, 0.4728), (0.1980, 0.2010, 0.1970)),
    "fashion-mnist": ((0.2861,), (0.3530,)),
    "tiny-imagenet": _IMAGENET,
    **dict.fromkeys(SUBSETS, _IMAGENET),
}


def published_normalisation(name: str, numbers: Mapping[str, Numbers] = PUBLISHED) -> Normalise | None:
    """Return the normalisation of the data set `name` in published code, by default MTT's; None if it has none."""
    if name not in numbers:
        return None
    mean, std = (torch.tensor(values, dtype=torch.float64) for values in numbers[name])
    return Normalise(mean, std)
