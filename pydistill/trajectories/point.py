"""A point between two waypoints: the per-tensor linear interpolation of a convexified trajectory."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from pydistill import ops


def trajectory_point(start: Tensor, end: Tensor, weights: Sequence[float], sizes: Sequence[int]) -> Tensor:
    """θ_j = lerp(start_j, end_j, weights_j) for each parameter tensor j of a flat vector.

        θ_j = start_j + weights_j · (end_j − start_j)

    Weights 0 and 1 give `start` and `end` exactly. Weights outside [0, 1] extrapolate
    (projected fractions may be).

    Equivalent to:
        weight = torch.repeat_interleave(torch.tensor(weights), torch.tensor(sizes))
        point = torch.lerp(start, end, weight)
    without the [P] weights.

    Args:
        start, end: flat parameters [P] of one floating dtype.
        weights: one number per parameter tensor.
        sizes: elements of each parameter tensor; they sum to P.

    Returns:
        A new tensor [P]. It is a reading of stored data: no gradient is tracked.

    Raises:
        InputError: shapes, or the numbers of weights and sizes, disagree.

    Source: MCT (Zhong et al., CVPR 2025).
    """
    numbers = torch.tensor(weights, dtype=torch.float64, device=start.device)
    return ops.trajectory_point(start.detach(), end.detach(), numbers, sizes)
