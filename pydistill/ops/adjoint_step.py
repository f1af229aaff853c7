"""`adjoint_step`: one step of the adjoint sweep and its term of the learning rate's gradient, in one pass."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from pydistill.ops.extension import load_extension
from pydistill.ops.modes import needs_plain_torch
from pydistill.reference.adjoint_step import adjoint_step as reference_adjoint_step
from pydistill.reference.adjoint_step import check_adjoint_step

_COMPILED_FOR = load_extension().device_types


def adjoint_step(adjoint: Tensor, product: Tensor, grad: Tensor, lr: Tensor) -> tuple[Tensor, Tensor]:
    """Take one step of the adjoint sweep; also return the inner product that gives the learning rate's gradient.

    Formula: λ' = λ − α Hλ,  s = ⟨λ, g⟩  (so that ∂L/∂α = −s).

    s is summed in float64 and in an order that depends on P alone: on one kind of device the result is the same, bit
    for bit, on every run and for any number of threads.

    Args:
        adjoint: λ, [P], float32 or float64.
        product: the Hessian's product Hλ, [P], dtype and device of `adjoint`.
        grad: the student's gradient g, [P], dtype and device of `adjoint`.
        lr: learning rate α, a 0-dim tensor, dtype and device of `adjoint`.

    Returns:
        λ' [P] in the dtype of `adjoint`, and s, a 0-dim tensor in float64.

    Raises:
        InputError: an argument is not as above.

    Derivatives: any order in all four arguments, of both results. In forward mode and under torch.func's transforms
    the plain PyTorch version runs.

    Equivalent to:
        return adjoint - lr * product, torch.dot(adjoint.double(), grad.double())
    """
    check_adjoint_step(adjoint, product, grad, lr)
    if adjoint.device.type in _COMPILED_FOR and not needs_plain_torch(adjoint, product, grad, lr):
        adjoint_next, inner = torch.ops.pydistill.adjoint_step(adjoint, product, grad, lr)
        return adjoint_next, inner
    return reference_adjoint_step(adjoint, product, grad, lr)


def _fake(adjoint: Tensor, product: Tensor, grad: Tensor, lr: Tensor) -> tuple[Tensor, Tensor]:
    check_adjoint_step(adjoint, product, grad, lr)
    return adjoint.new_empty(adjoint.shape), adjoint.new_empty((), dtype=torch.float64)


def _setup_context(ctx: Any, inputs: tuple[Tensor, ...], output: tuple[Tensor, Tensor]) -> None:
    ctx.save_for_backward(*inputs)
    ctx.set_materialize_grads(False)


def _backward(ctx: Any, of_next: Tensor | None, of_inner: Tensor | None) -> tuple[Tensor | None, ...]:
    """Compute the gradients by differentiable operations, so that they can be differentiated again."""
    adjoint, product, grad, lr = ctx.saved_tensors
    of_adjoint = of_next
    of_product = of_grad = of_lr = None
    if of_next is not None:
        of_product = -lr * of_next
        of_lr = -torch.dot(of_next, product)
    if of_inner is not None:
        weight = of_inner.to(adjoint.dtype)
        of_grad = weight * adjoint
        of_adjoint = weight * grad if of_next is None else of_next + weight * grad
    gradients = (of_adjoint, of_product, of_grad, of_lr)
    return tuple(grad if needed else None for grad, needed in zip(gradients, ctx.needs_input_grad, strict=True))


if _COMPILED_FOR:
    torch.library.register_fake("pydistill::adjoint_step", _fake)
    torch.library.register_autograd("pydistill::adjoint_step", _backward, setup_context=_setup_context)
