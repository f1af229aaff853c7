"""`sgd_step`: one step of gradient descent and its distances to a target, in one pass over the parameters."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from pydistill.ops.extension import load_extension
from pydistill.ops.modes import needs_plain_torch
from pydistill.reference.sgd_step import check_sgd_step
from pydistill.reference.sgd_step import sgd_step as reference_sgd_step

_COMPILED_FOR = load_extension().device_types


def sgd_step(theta: Tensor, grad: Tensor, lr: Tensor, target: Tensor) -> tuple[Tensor, Tensor]:
    """Take one step of gradient descent; also return its L1 and squared L2 distances to a target.

    Formula: θ' = θ − α g,  d = (Σ|θ' − θ*|, Σ(θ' − θ*)²).

    The sums are taken in float64 and in an order that depends on P alone: on one kind of device the result is the same,
    bit for bit, on every run and for any number of threads.

    Args:
        theta: parameters θ, [P], float32 or float64.
        grad: gradient g, [P], dtype and device of `theta`.
        lr: learning rate α, a 0-dim tensor, dtype and device of `theta`.
        target: θ*, [P], dtype and device of `theta`.

    Returns:
        θ' [P] in the dtype of `theta`, and d [2] in float64.

    Raises:
        InputError: an argument is not as above.

    Derivatives: any order in all four arguments, of both results; the derivative of |x| at 0 is taken as 0. In forward
    mode and under torch.func's transforms the plain PyTorch version runs.

    Equivalent to:
        theta_next = theta - lr * grad
        gap = (theta_next - target).double()
        return theta_next, torch.stack([gap.abs().sum(), gap.square().sum()])
    """
    check_sgd_step(theta, grad, lr, target)
    if theta.device.type in _COMPILED_FOR and not needs_plain_torch(theta, grad, lr, target):
        theta_next, distances = torch.ops.pydistill.sgd_step(theta, grad, lr, target)
        return theta_next, distances
    return reference_sgd_step(theta, grad, lr, target)


def _fake(theta: Tensor, grad: Tensor, lr: Tensor, target: Tensor) -> tuple[Tensor, Tensor]:
    check_sgd_step(theta, grad, lr, target)
    return theta.new_empty(theta.shape), theta.new_empty(2, dtype=torch.float64)


def _setup_context(ctx: Any, inputs: tuple[Tensor, ...], output: tuple[Tensor, Tensor]) -> None:
    _, grad, lr, target = inputs
    ctx.save_for_backward(output[0], grad, lr, target)
    ctx.set_materialize_grads(False)


def _backward(ctx: Any, of_next: Tensor | None, of_distances: Tensor | None) -> tuple[Tensor | None, ...]:
    """Compute the gradients by differentiable operations, so that they can be differentiated again."""
    theta_next, grad, lr, target = ctx.saved_tensors
    needed = ctx.needs_input_grad
    of_gap = None
    if of_distances is not None:
        weights = of_distances.to(theta_next.dtype)
        gap = theta_next - target
        of_gap = weights[0] * gap.sign() + 2 * weights[1] * gap
    total = of_next if of_gap is None else of_gap if of_next is None else of_next + of_gap
    if total is None:
        return None, None, None, None
    return (
        total if needed[0] else None,
        -lr * total if needed[1] else None,
        -(total * grad).sum() if needed[2] else None,
        -of_gap if needed[3] and of_gap is not None else None,
    )


if _COMPILED_FOR:
    torch.library.register_fake("pydistill::sgd_step", _fake)
    torch.library.register_autograd("pydistill::sgd_step", _backward, setup_context=_setup_context)
