"""`softmax_xent`: mean softmax cross-entropy of a batch, its gradient, and the tangents of both."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from pydistill import reference
from pydistill.ops.extension import load_extension
from pydistill.ops.modes import needs_plain_torch
from pydistill.ops.no_derivative import refuse_derivative
from pydistill.reference.softmax_xent import check_class_numbers, check_softmax_xent

_COMPILED_FOR = load_extension().device_types


def softmax_xent(logits: Tensor, labels: Tensor) -> Tensor:
    """Compute the mean softmax cross-entropy of one batch.

    Formula: ℓ = −(1/B) Σ_b Σ_c y_bc log p_bc,  p = softmax(a).

    Row sums are taken in float64 and in a fixed order: on one kind of device the result is the same, bit for bit, on
    every run and for any number of threads.

    Args:
        logits: a, [B, K] with K ≥ 1, float32 or float64.
        labels: class numbers [B] (int64), or label rows y [B, K] of any mass, dtype of `logits`; device of `logits`.

    Returns:
        ℓ, a 0-dim tensor in the dtype of `logits`; NaN for an empty batch.

    Raises:
        InputError: an argument is not as above, or on the CPU a class number lies outside [0, K). On a GPU, where a
            check would synchronise, such a number makes the loss and its row of the gradient NaN.

    Derivatives: first order in the logits and the label rows; a second one raises RuntimeError. In forward mode and
    under torch.func's transforms the plain PyTorch version runs, which has every order.

    Equivalent to:
        if labels.dtype == torch.int64:
            return F.cross_entropy(logits, labels)
        return -(labels * F.log_softmax(logits, dim=1)).sum(dim=1).mean()
    """
    check_softmax_xent(logits, labels)
    check_class_numbers(labels, logits.shape[1])
    if logits.device.type in _COMPILED_FOR and not needs_plain_torch(logits, labels):
        loss: Tensor = torch.ops.pydistill.softmax_xent(logits, labels)
        return loss
    return reference.softmax_xent(logits, labels)


def softmax_xent_backward(grad_loss: Tensor, logits: Tensor, labels: Tensor) -> tuple[Tensor, Tensor | None]:
    """Compute the gradient of `softmax_xent`.

    Formula: ∂ℓ/∂a = (m p − y)/B,  ∂ℓ/∂y = −log p / B,  with the mass m = Σ_c y_c of each row; both times `grad_loss`.

    Args:
        grad_loss: the derivative with respect to ℓ, a 0-dim tensor, dtype and device of `logits`.
        logits, labels: as in `softmax_xent`.

    Returns:
        The gradients of the logits [B, K] and of the label rows [B, K]; for class numbers the latter is None.

    Raises:
        InputError: an argument is not as above.

    Derivatives: none; differentiating raises RuntimeError. In forward mode and under torch.func's transforms the plain
    PyTorch version runs, which has every order.

    Equivalent to:
        y = labels if labels.dtype != torch.int64 else F.one_hot(labels, K)
        grad_logits = grad_loss / B * (y.sum(1, keepdim=True) * logits.softmax(1) - y)
        grad_labels = -grad_loss / B * logits.log_softmax(1)
    """
    check_softmax_xent(logits, labels, grad_loss=grad_loss)
    check_class_numbers(labels, logits.shape[1])
    if logits.device.type in _COMPILED_FOR and not needs_plain_torch(grad_loss, logits, labels):
        rows = labels.dtype != torch.int64
        grad_logits, grad_labels = torch.ops.pydistill.softmax_xent_backward(grad_loss, logits, labels, rows)
        return grad_logits, grad_labels if rows else None
    return reference.softmax_xent_backward(grad_loss, logits, labels)


def softmax_xent_jvp(logits: Tensor, logits_tangent: Tensor, labels: Tensor) -> tuple[Tensor, Tensor]:
    """Compute `softmax_xent` and its derivative along a tangent of the logits.

    Formula: ℓ̇ = −(1/B) Σ_b Σ_c y_bc (ȧ_bc − ⟨p_b, ȧ_b⟩).

    Args:
        logits, labels: as in `softmax_xent`.
        logits_tangent: ȧ, [B, K], dtype and device of `logits`.

    Returns:
        ℓ and ℓ̇, 0-dim tensors in the dtype of `logits`.

    Raises:
        InputError: an argument is not as above.

    Derivatives: none; differentiating raises RuntimeError. In forward mode and under torch.func's transforms the plain
    PyTorch version runs, which has every order.

    Equivalent to:
        torch.func.jvp(lambda a: softmax_xent(a, labels), (logits,), (logits_tangent,))
    """
    check_softmax_xent(logits, labels, logits_tangent=logits_tangent)
    check_class_numbers(labels, logits.shape[1])
    if logits.device.type in _COMPILED_FOR and not needs_plain_torch(logits, logits_tangent, labels):
        loss, loss_tangent = torch.ops.pydistill.softmax_xent_jvp(logits, logits_tangent, labels)
        return loss, loss_tangent
    return reference.softmax_xent_jvp(logits, logits_tangent, labels)


def softmax_xent_backward_jvp(
    logits: Tensor, logits_tangent: Tensor, labels: Tensor
) -> tuple[Tensor, Tensor, Tensor | None]:
    """Compute the gradient of `softmax_xent`, and its derivative along a tangent of the logits.

    Formula, with da = ∂ℓ/∂a and dy = ∂ℓ/∂y:
        da = (m p − y)/B,  dȧ = m p (ȧ − ⟨p, ȧ⟩)/B,  dẏ = −(ȧ − ⟨p, ȧ⟩)/B.

    Args:
        logits, labels: as in `softmax_xent`.
        logits_tangent: ȧ, [B, K], dtype and device of `logits`.

    Returns:
        da, dȧ and dẏ, each [B, K]; for class numbers dẏ is None.

    Raises:
        InputError: an argument is not as above.

    Derivatives: none; differentiating raises RuntimeError. In forward mode and under torch.func's transforms the plain
    PyTorch version runs, which has every order.

    Equivalent to:
        gradient = torch.func.grad(softmax_xent, argnums=(0, 1))
        (da, _), (da_tangent, dy_tangent) = torch.func.jvp(lambda a: gradient(a, labels), (logits,), (logits_tangent,))
    """
    check_softmax_xent(logits, labels, logits_tangent=logits_tangent)
    check_class_numbers(labels, logits.shape[1])
    if logits.device.type in _COMPILED_FOR and not needs_plain_torch(logits, logits_tangent, labels):
        results = torch.ops.pydistill.softmax_xent_backward_jvp(logits, logits_tangent, labels)
        return results[0], results[1], None if labels.dtype == torch.int64 else results[2]
    return reference.softmax_xent_backward_jvp(logits, logits_tangent, labels)


def _fake(logits: Tensor, labels: Tensor) -> Tensor:
    check_softmax_xent(logits, labels)
    return logits.new_empty(())


def _fake_backward(grad_loss: Tensor, logits: Tensor, labels: Tensor, of_labels: bool) -> tuple[Tensor, Tensor]:
    check_softmax_xent(logits, labels, grad_loss=grad_loss)
    return logits.new_empty(logits.shape), logits.new_empty(logits.shape if of_labels else 0)


def _fake_jvp(logits: Tensor, logits_tangent: Tensor, labels: Tensor) -> tuple[Tensor, Tensor]:
    check_softmax_xent(logits, labels, logits_tangent=logits_tangent)
    return logits.new_empty(()), logits.new_empty(())


def _fake_backward_jvp(logits: Tensor, logits_tangent: Tensor, labels: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    check_softmax_xent(logits, labels, logits_tangent=logits_tangent)
    of_labels = logits.shape if labels.dtype != torch.int64 else 0
    return logits.new_empty(logits.shape), logits.new_empty(logits.shape), logits.new_empty(of_labels)


def _setup_context(ctx: Any, inputs: tuple[Tensor, Tensor], output: Tensor) -> None:
    ctx.save_for_backward(*inputs)


def _backward(ctx: Any, grad_loss: Tensor) -> tuple[Tensor | None, Tensor | None]:
    """Compute the gradients by an op whose derivative raises; every saved tensor is one of its arguments."""
    of_logits, of_labels = ctx.needs_input_grad
    gradients = torch.ops.pydistill.softmax_xent_backward(grad_loss, *ctx.saved_tensors, of_labels)
    return gradients[0] if of_logits else None, gradients[1] if of_labels else None


if _COMPILED_FOR:
    torch.library.register_fake("pydistill::softmax_xent", _fake)
    torch.library.register_fake("pydistill::softmax_xent_backward", _fake_backward)
    torch.library.register_fake("pydistill::softmax_xent_jvp", _fake_jvp)
    torch.library.register_fake("pydistill::softmax_xent_backward_jvp", _fake_backward_jvp)
    torch.library.register_autograd("pydistill::softmax_xent", _backward, setup_context=_setup_context)
    for _name in ("backward", "jvp", "backward_jvp"):
        refuse_derivative(f"softmax_xent_{_name}")
