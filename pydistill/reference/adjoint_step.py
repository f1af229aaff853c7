"""`adjoint_step` in plain PyTorch, and the checks that it shares with the compiled one."""

from __future__ import annotations

import torch
from torch import Tensor

from pydistill.errors import InputError


def check_adjoint_step(adjoint: Tensor, product: Tensor, grad: Tensor, lr: Tensor) -> None:
    """Check the arguments of `adjoint_step`.

    Raises:
        InputError: `adjoint` is not a float32 or float64 vector, or another argument does not match it.
    """
    for name, value in (("adjoint", adjoint), ("product", product), ("grad", grad), ("lr", lr)):
        if not isinstance(value, Tensor):
            raise InputError(f"adjoint_step: {name} must be a tensor, not {type(value).__name__}")
    if adjoint.dtype not in (torch.float32, torch.float64):
        raise InputError(f"adjoint_step: adjoint is {adjoint.dtype}; it must be torch.float32 or torch.float64")
    if adjoint.dim() != 1:
        raise InputError(f"adjoint_step: adjoint has shape {list(adjoint.shape)}; it must be a vector [P]")
    if lr.dim() != 0:
        raise InputError(f"adjoint_step: lr has shape {list(lr.shape)}; it must be a 0-dim tensor")
    for name, value in (("product", product), ("grad", grad)):
        if value.shape != adjoint.shape:
            raise InputError(
                f"adjoint_step: {name} has shape {list(value.shape)} where adjoint has shape {list(adjoint.shape)}"
            )
    for name, value in (("product", product), ("grad", grad), ("lr", lr)):
        if value.dtype != adjoint.dtype:
            raise InputError(f"adjoint_step: {name} is {value.dtype} where adjoint is {adjoint.dtype}")
        if value.device != adjoint.device:
            raise InputError(f"adjoint_step: {name} is on {value.device} where adjoint is on {adjoint.device}")


def adjoint_step(adjoint: Tensor, product: Tensor, grad: Tensor, lr: Tensor) -> tuple[Tensor, Tensor]:
    """`pydistill.ops.adjoint_step` in plain PyTorch: same arguments, results and errors; any order of derivative."""
    check_adjoint_step(adjoint, product, grad, lr)
    return adjoint - lr * product, torch.dot(adjoint.double(), grad.double())
