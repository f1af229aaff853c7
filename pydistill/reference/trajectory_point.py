"""`trajectory_point` in plain PyTorch, and the checks that it shares with the compiled one."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from pydistill.errors import InputError


def check_trajectory_point(start: Tensor, end: Tensor, weights: Tensor, sizes: Sequence[int]) -> None:
    """Check the arguments of `trajectory_point`.

    Raises:
        InputError: `start` is not a vector of a floating dtype, or another argument does not go with it.
    """
    for name, value in (("start", start), ("end", end), ("weights", weights)):
        if not isinstance(value, Tensor):
            raise InputError(f"trajectory_point: {name} must be a tensor, not {type(value).__name__}")
    for index, size in enumerate(sizes):
        if size < 0:
            raise InputError(f"trajectory_point: sizes[{index}] is {size}; it must be at least 0")
    total = sum(sizes)
    if start.shape != (total,) or end.shape != (total,):
        raise InputError(
            f"trajectory_point: start and end must be flat parameters [{total}] (the sum of sizes), "
            f"not {list(start.shape)} and {list(end.shape)}"
        )
    if weights.shape != (len(sizes),):
        raise InputError(
            f"trajectory_point: weights must hold one number per parameter tensor: "
            f"[{len(sizes)}], not {list(weights.shape)}"
        )
    if not start.dtype.is_floating_point:
        raise InputError(f"trajectory_point: start is {start.dtype}; it must be of a floating dtype")
    if end.dtype != start.dtype:
        raise InputError(f"trajectory_point: end is {end.dtype} where start is {start.dtype}")
    if weights.dtype != torch.float64:
        raise InputError(f"trajectory_point: weights is {weights.dtype}; it must be torch.float64")
    for name, value in (("end", end), ("weights", weights)):
        if value.device != start.device:
            raise InputError(f"trajectory_point: {name} is on {value.device} where start is on {start.device}")


def trajectory_point(start: Tensor, end: Tensor, weights: Tensor, sizes: Sequence[int]) -> Tensor:
    """`pydistill.ops.trajectory_point` in plain PyTorch: same arguments, results, errors; any order of derivative."""
    check_trajectory_point(start, end, weights, sizes)
    parts = [torch.split(flat, list(sizes)) for flat in (start, end)]
    points = [torch.lerp(*part) for part in zip(*parts, weights.to(start.dtype), strict=True)]
    return torch.cat(points) if points else start.new_empty(0)
