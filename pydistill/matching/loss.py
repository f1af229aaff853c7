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


def matching_loss(arrival: Tensor, start: Tensor, target: Tensor) -> Tensor:
    """L = ‖θ_K − θ*‖² / ‖θ_0 − θ*‖²: the squared distance left to the target, relative to that at the start.

    Args:
        arrival: θ_K, [P].
        start: θ_0, [P].
        target: θ*, [P].

    Derivatives: any order in all three.
    """
    return (arrival - target).square().sum() / (start - target).square().sum()
