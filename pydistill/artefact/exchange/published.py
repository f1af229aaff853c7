"""The constants in the code of other tools with which they normalise images."""

from __future__ import annotations

import torch

from pydistill.data import Normalise, Preprocessing
from pydistill.data.statistics import PUBLISHED, Numbers, published_normalisation

# From DC-BENCH's evaluator.
_DC_BENCH: dict[str, Numbers] = {
    "cifar10": PUBLISHED["cifar10"],
    "cifar100": ((0.5071, 0.4866, 0.4409), (0.2673, 0.2564, 0.2762)),
    "tiny-imagenet": PUBLISHED["tiny-imagenet"],
}


def same(own: Preprocessing | None, other: Normalise) -> bool:
    """Return whether the preprocessing normalises with exactly the numbers of `other`, which is on the CPU."""
    return isinstance(own, Normalise) and all(
        torch.equal(mine.cpu(), theirs) for mine, theirs in ((own.mean, other.mean), (own.std, other.std))
    )


def readers_normalisation(dataset: str, form: str) -> Normalise | None:
    """Return the normalisation that readers of a format (mtt, …) apply to the named data set; None if unknown."""
    return published_normalisation(dataset, _DC_BENCH if form == "dcbench" else PUBLISHED)
