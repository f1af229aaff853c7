"""The two losses of trajectory matching: the student's training loss and the matching loss."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor


def student_loss(logits: Tensor, labels: Tensor) -> Tensor:
    """Compute ℓ, the mean softmax cross-entropy of one batch.

        ℓ = −(1/B) Σ_b Σ_c y_bc log softmax(a_b)_c

    Args:
        logits: a, [B, K].
        labels: class numbers [B] (int64), or label rows y [B, K] of any non-negative mass.

    Derivatives: any order in the logits and in the label rows.
    """
    if labels.dtype == torch.int64:
        return F.cross_entropy(logits, labels)
    return -(labels * F.log_softmax(logits, dim=1)).sum(dim=1).mean()


def matching_loss(arrival: Tensor, start: Tensor, target: Tensor, weights: Tensor | None = None) -> Tensor:
    """L = Σ w (θ_K − θ*)² / Σ w (θ_0 − θ*)²: the squared distance left to the target, relative to that at the start.

    Args:
        arrival: θ_K, [P].
        start: θ_0, [P].
        target: θ*, [P].
        weights: w, [P]; None for w = 1.

    Derivatives: any order in all of them.
    """
    left, initial = (weighted((point - target).square(), weights).sum() for point in (arrival, start))
    return left / initial


def weighted(values: Tensor, weights: Tensor | None) -> Tensor:
    """Multiply `values` [P] by w [P]; None for w = 1."""
    return values if weights is None else weights * values
