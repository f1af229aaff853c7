"""The constants in the code of other tools with which they normalise images."""

from __future__ import annotations

import torch

from pydistill.data import Normalise
from pydistill.data.statistics import PUBLISHED, Numbers

# From DC-BENCH's evaluator.
DC_BENCH: dict[str, Numbers] = {
    "cifar10": PUBLISHED["cifar10"],
    "cifar100": ((0.5071, 0.4866, 0.4409), (0.2673, 0.2564, 0.2762)),
    "tiny-imagenet": PUBLISHED["tiny-imagenet"],
}


def readers_normalisation(dataset: str, form: str) -> Normalise | None:
    """Return the normalisation that readers of the format apply to the data set's test images; None if unknown.

    Args:
        dataset: its name, such as cifar10.
        form: mtt, dcbench or ddranking.
    """
    numbers = (DC_BENCH if form == "dcbench" else PUBLISHED).get(dataset)
    if numbers is None:
        return None
    mean, std = (torch.tensor(values, dtype=torch.float64) for values in numbers)
    return Normalise(mean, std)
