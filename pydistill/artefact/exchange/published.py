"""The statistics that other tools normalise images with: constants in their code, not measured on the data."""

from __future__ import annotations

import torch

from pydistill.data import Normalise
from pydistill.data.statistics import PUBLISHED, Numbers

# As DC-BENCH's evaluator has them.
DC_BENCH: dict[str, Numbers] = {
    "cifar10": PUBLISHED["cifar10"],
    "cifar100": ((0.5071, 0.4866, 0.4409), (0.2673, 0.2564, 0.2762)),
    "tiny-imagenet": PUBLISHED["tiny-imagenet"],
}


def readers_normalisation(dataset: str, form: str) -> Normalise | None:
    """The normalisation that readers of the format give the data set's test images, or None where it is not known.

    Args:
        dataset: its name, such as cifar10.
        form: mtt, dcbench or ddranking.
    """
    found = (DC_BENCH if form == "dcbench" else PUBLISHED).get(dataset)
    if found is None:
        return None
    mean, std = (torch.tensor(numbers, dtype=torch.float64) for numbers in found)
    return Normalise(mean, std)
