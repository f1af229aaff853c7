"""Selection of the student step that is compared with the expert: the last (MTT) or the nearest (ATT)."""

from __future__ import annotations

from typing import Literal, get_args

import torch
from torch import Tensor

from pydistill.matching.loss import weighted

Selection = Literal["last", "nearest"]
Distance = Literal["l1", "l2"]

SELECTIONS: tuple[str, ...] = get_args(Selection)
DISTANCES: tuple[str, ...] = get_args(Distance)


def distance_from_sums(sums: Tensor, distance: Distance) -> Tensor:
    """Compute d(θ, θ*) from `sums` [..., 2], (Σ w|θ − θ*|, Σ w(θ − θ*)²): the first, or for `l2` the second's root."""
    return sums[..., 0] if distance == "l1" else sums[..., 1].sqrt()


def distance_sums(theta: Tensor, target: Tensor, weights: Tensor | None = None) -> Tensor:
    """Compute (Σ w|θ − θ*|, Σ w(θ − θ*)²) as float64 [2], from θ, θ* and w of shape [P]; None for w = 1."""
    gap = (theta - target).double()
    return torch.stack([weighted(term, weights).sum() for term in (gap.abs(), gap.square())])


def select_step(distances: Tensor, selection: Selection) -> int:
    """Select K, the step whose parameters enter the loss.

        last:     K = N
        nearest:  K = argmin_{1 ≤ k ≤ N} d(θ_k, θ*); ties go to the later step

    A NaN distance counts as infinite; there is no upper limit on the distance.

    Args:
        distances: d(θ_k, θ*) for k = 0 … N, [N + 1].

    Source: Liu et al., *Dataset Distillation by Automatic Training Trajectories*, ECCV 2024.
    """
    steps = distances.shape[0] - 1
    if selection == "last":
        return steps
    latest_first = distances[1:].nan_to_num(nan=torch.inf, posinf=torch.inf).flip(0)
    return steps - int(torch.argmin(latest_first))
