"""The means and deviations that the published code normalises its data sets with."""

from __future__ import annotations

import torch

from pydistill.data.imagenet import SUBSETS
from pydistill.data.preprocessing import Normalise
from pydistill.errors import InputError

Numbers = tuple[tuple[float, ...], tuple[float, ...]]
"""Mean and standard deviation per channel."""

# As get_dataset of MTT, of DC before it and of their descendants has them. CIFAR's deviations are means over the
# deviations of single images, about a fifth below those over all pixels, and CIFAR-100 has CIFAR-10's numbers.
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


def published_normalisation(name: str) -> Normalise:
    """What MTT's code (Cazenavette et al., CVPR 2022) normalises the data set `name` with.

    Raises:
        InputError: it has no numbers for this set.
    """
    if name not in PUBLISHED:
        raise InputError(
            f"data.statistics=published is known for {', '.join(PUBLISHED)}, not for {name}; take measured"
        )
    mean, std = (torch.tensor(each, dtype=torch.float64) for each in PUBLISHED[name])
    return Normalise(mean, std)
