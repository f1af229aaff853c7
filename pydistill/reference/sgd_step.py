"""`sgd_step` in plain PyTorch, and the checks that it shares with the compiled one."""

from __future__ import annotations

import torch
from torch import Tensor

from pydistill.errors import InputError


def check_sgd_step(theta: Tensor, grad: Tensor, lr: Tensor, target: Tensor, weights: Tensor | None = None) -> None:
    """Check the arguments of `sgd_step`.

    Raises:
        InputError: `theta` is not a float32 or float64 vector, or another argument does not match it.
    """
    vectors = {"grad": grad, "target": target} | ({} if weights is None else {"weights": weights})
    for name, value in {"theta": theta, "lr": lr, **vectors}.items():
        if not isinstance(value, Tensor):
            raise InputError(f"sgd_step: {name} must be a tensor, not {type(value).__name__}")
    if theta.dtype not in (torch.float32, torch.float64):
        raise InputError(f"sgd_step: theta is {theta.dtype}; it must be torch.float32 or torch.float64")
    if theta.dim() != 1:
        raise InputError(f"sgd_step: theta has shape {list(theta.shape)}; it must be a vector [P]")
    if lr.dim() != 0:
        raise InputError(f"sgd_step: lr has shape {list(lr.shape)}; it must be a 0-dim tensor")
    for name, value in vectors.items():
        if value.shape != theta.shape:
            raise InputError(
                f"sgd_step: {name} has shape {list(value.shape)} where theta has shape {list(theta.shape)}"
            )
    for name, value in {"lr": lr, **vectors}.items():
        if value.dtype != theta.dtype:
            raise InputError(f"sgd_step: {name} is {value.dtype} where theta is {theta.dtype}")
        if value.device != theta.device:
            raise InputError(f"sgd_step: {name} is on {value.device} where theta is on {theta.device}")


def sgd_step(
    theta: Tensor, grad: Tensor, lr: Tensor, target: Tensor, weights: Tensor | None = None
) -> tuple[Tensor, Tensor]:
    """`pydistill.ops.sgd_step` in plain PyTorch: same arguments, same results, same errors; any order of derivative."""
    check_sgd_step(theta, grad, lr, target, weights)
    theta_next = theta - lr * grad
    gap = (theta_next - target).double()
    terms = (gap.abs(), gap.square())
    return theta_next, torch.stack([(term if weights is None else weights * term).sum() for term in terms])
