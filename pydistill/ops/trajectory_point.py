"""`trajectory_point`: a point between two waypoints, interpolated linearly per parameter tensor."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from pydistill.ops.extension import load_extension
from pydistill.ops.modes import needs_plain_torch
from pydistill.ops.no_derivative import refuse_derivative
from pydistill.reference.trajectory_point import check_trajectory_point
from pydistill.reference.trajectory_point import trajectory_point as reference_trajectory_point

_COMPILED_FOR = load_extension().device_types
_DTYPES = (torch.float32, torch.float64)


def trajectory_point(start: Tensor, end: Tensor, weights: Tensor, sizes: Sequence[int]) -> Tensor:
    """Interpolate between two flat parameter vectors, with one weight for each parameter tensor.

    Formula: θ_j = start_j + w_j (end_j − start_j).

    Weights 0 and 1 give `start` and `end` exactly. Weights outside [0, 1] extrapolate.

    Args:
        start: flat parameters [P], float32 or float64 (another floating dtype takes the plain PyTorch version).
        end: flat parameters [P], dtype and device of `start`.
        weights: w, [J], float64, device of `start`.
        sizes: elements of each of the J parameter tensors; they sum to P.

    Returns:
        A new tensor [P].

    Raises:
        InputError: an argument is not as above.

    Derivatives: none; differentiating raises RuntimeError. In forward mode and under torch.func's transforms the plain
    PyTorch version runs, which has every order.

    Equivalent to:
        weight = torch.repeat_interleave(weights, torch.tensor(sizes))
        point = torch.lerp(start, end, weight.to(start.dtype))

    Source: MCT (Zhong et al., CVPR 2025).
    """
    check_trajectory_point(start, end, weights, sizes)
    compiled = start.device.type in _COMPILED_FOR and start.dtype in _DTYPES
    if compiled and not needs_plain_torch(start, end, weights):
        point: Tensor = torch.ops.pydistill.trajectory_point(start, end, weights, sizes)
        return point
    return reference_trajectory_point(start, end, weights, sizes)


def _fake(start: Tensor, end: Tensor, weights: Tensor, sizes: Sequence[int]) -> Tensor:
    check_trajectory_point(start, end, weights, sizes)
    return start.new_empty(start.shape)


if _COMPILED_FOR:
    torch.library.register_fake("pydistill::trajectory_point", _fake)
    refuse_derivative("trajectory_point")
