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


def sgd_step(
    theta: Tensor, grad: Tensor, lr: Tensor, target: Tensor, weights: Tensor | None = None
) -> tuple[Tensor, Tensor]:
    """Take one step of gradient descent; also return its L1 and squared L2 distances to a target.

    Formula: θ' = θ − α g,  d = (Σ w|θ' − θ*|, Σ w(θ' − θ*)²).

    The sums are taken in float64 and in an order that depends on P alone: on one kind of device the result is the same,
    bit for bit, on every run and for any number of threads.

    Args:
        theta: parameters θ, [P], float32 or float64.
        grad: gradient g, [P], dtype and device of `theta`.
        lr: learning rate α, a 0-dim tensor, dtype and device of `theta`.
        target: θ*, [P], dtype and device of `theta`.
        weights: w, [P], dtype and device of `theta`; None for w = 1.

    Returns:
        θ' [P] in the dtype of `theta`, and d [2] in float64.

    Raises:
        InputError: an argument is not as above.

    Derivatives: any order in all arguments, of both results; the derivative of |x| at 0 is taken as 0. In forward
    mode and under torch.func's transforms the plain PyTorch version runs.

    Equivalent to:
        theta_next = theta - lr * grad
        gap = (theta_next - target).double()
        return theta_next, torch.stack([(weights * gap.abs()).sum(), (weights * gap.square()).sum()])
    """
    check_sgd_step(theta, grad, lr, target, weights)
    arguments = (theta, grad, lr, target) if weights is None else (theta, grad, lr, target, weights)
    if theta.device.type in _COMPILED_FOR and not needs_plain_torch(*arguments):
        theta_next, distances = torch.ops.pydistill.sgd_step(*arguments)
        return theta_next, distances
    return reference_sgd_step(*arguments)


def _fake(
    theta: Tensor, grad: Tensor, lr: Tensor, target: Tensor, weights: Tensor | None = None
) -> tuple[Tensor, Tensor]:
    check_sgd_step(theta, grad, lr, target, weights)
    return theta.new_empty(theta.shape), theta.new_empty(2, dtype=torch.float64)


def _setup_context(ctx: Any, inputs: tuple[Tensor | None, ...], output: tuple[Tensor, Tensor]) -> None:
    _, grad, lr, target, weights = inputs
    ctx.save_for_backward(output[0], grad, lr, target, weights)
    ctx.set_materialize_grads(False)


def _backward(ctx: Any, of_next: Tensor | None, of_distances: Tensor | None) -> tuple[Tensor | None, ...]:
    """Compute the gradients by differentiable operations, so that they can be differentiated again."""
    theta_next, grad, lr, target, weights = ctx.saved_tensors
    needed = ctx.needs_input_grad
    of_gap = of_weights = None
    if of_distances is not None:
        of_absolute, of_squared = of_distances.to(theta_next.dtype)
        gap = theta_next - target
        of_gap = of_absolute * gap.sign() + 2 * of_squared * gap
        if weights is not None:
            of_weights = of_absolute * gap.abs() + of_squared * gap.square()
            of_gap = weights * of_gap
    total = of_next if of_gap is None else of_gap if of_next is None else of_next + of_gap
    if total is None:
        return None, None, None, None, None
    return (
        total if needed[0] else None,
        -lr * total if needed[1] else None,
        -(total * grad).sum() if needed[2] else None,
        -of_gap if needed[3] and of_gap is not None else None,
        of_weights if weights is not None and needed[4] else None,
    )


if _COMPILED_FOR:
    torch.library.register_fake("pydistill::sgd_step", _fake)
    torch.library.register_autograd("pydistill::sgd_step", _backward, setup_context=_setup_context)
