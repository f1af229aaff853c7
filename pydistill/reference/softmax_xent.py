"""`softmax_xent`, its gradient and their tangents in plain PyTorch, and the checks shared with the compiled ones."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from pydistill.errors import InputError


def check_softmax_xent(logits: Tensor, labels: Tensor, **others: Tensor) -> None:
    """Check the arguments of `softmax_xent` and its derivatives, except the values of class numbers.

    Args:
        logits, labels: as in `softmax_xent`.
        others: `logits_tangent`, `grad_loss`, where the op has them.

    Raises:
        InputError: `logits` is not a float32 or float64 matrix, or another argument does not match it.
    """
    for name, value in {"logits": logits, "labels": labels, **others}.items():
        if not isinstance(value, Tensor):
            raise InputError(f"softmax_xent: {name} must be a tensor, not {type(value).__name__}")
    if logits.dtype not in (torch.float32, torch.float64):
        raise InputError(f"softmax_xent: logits is {logits.dtype}; it must be torch.float32 or torch.float64")
    if logits.dim() != 2 or logits.shape[1] == 0:
        raise InputError(f"softmax_xent: logits has shape {list(logits.shape)}; it must be [B, K] with K >= 1")
    hard = labels.dtype == torch.int64
    if labels.shape != (logits.shape[:1] if hard else logits.shape):
        raise InputError(
            f"softmax_xent: labels has shape {list(labels.shape)} where logits has shape {list(logits.shape)}; "
            + ("class numbers must be [B]" if hard else "label rows must be [B, K]")
        )
    tangent, grad_loss = others.get("logits_tangent"), others.get("grad_loss")
    if tangent is not None and tangent.shape != logits.shape:
        raise InputError(
            f"softmax_xent: logits_tangent has shape {list(tangent.shape)} where logits has shape {list(logits.shape)}"
        )
    if grad_loss is not None and grad_loss.dim() != 0:
        raise InputError(f"softmax_xent: grad_loss has shape {list(grad_loss.shape)}; it must be a 0-dim tensor")
    for name, value in {"labels": labels, **others}.items():
        if value.dtype != logits.dtype and not (hard and name == "labels"):
            raise InputError(f"softmax_xent: {name} is {value.dtype} where logits is {logits.dtype}")
        if value.device != logits.device:
            raise InputError(f"softmax_xent: {name} is on {value.device} where logits is on {logits.device}")


def check_class_numbers(labels: Tensor, classes: int) -> None:
    """Check that class numbers lie in [0, K), on the CPU and outside torch.func's transforms.

    Raises:
        InputError: one does not.
    """
    if labels.dtype != torch.int64 or labels.device.type != "cpu" or labels.numel() == 0:
        return
    if torch.compiler.is_compiling() or torch._C._are_functorch_transforms_active():
        return
    for number in torch.aminmax(labels):
        if not 0 <= int(number) < classes:
            row = int((labels == number).nonzero()[0])
            raise InputError(
                f"softmax_xent: labels[{row}] is {int(number)}; class numbers must lie in [0, {classes - 1}]"
            )


def _label_rows(logits: Tensor, labels: Tensor) -> Tensor:
    """Return label rows y [B, K]; class numbers become one-hot rows."""
    if labels.dtype != torch.int64:
        return labels
    return (labels.unsqueeze(1) == torch.arange(logits.shape[1], device=labels.device)).to(logits.dtype)


def _spread(logits: Tensor, logits_tangent: Tensor) -> Tensor:
    """Compute ȧ − ⟨p, ȧ⟩, [B, K]."""
    return logits_tangent - (F.softmax(logits, dim=1) * logits_tangent).sum(dim=1, keepdim=True)


def softmax_xent(logits: Tensor, labels: Tensor) -> Tensor:
    """`pydistill.ops.softmax_xent` in plain PyTorch: same arguments, results and errors; any order of derivative."""
    check_softmax_xent(logits, labels)
    check_class_numbers(labels, logits.shape[1])
    if labels.dtype == torch.int64:
        return F.cross_entropy(logits, labels)
    return -(labels * F.log_softmax(logits, dim=1)).sum(dim=1).mean()


def softmax_xent_backward(grad_loss: Tensor, logits: Tensor, labels: Tensor) -> tuple[Tensor, Tensor | None]:
    """`pydistill.ops.softmax_xent_backward` in plain PyTorch; any order of derivative."""
    check_softmax_xent(logits, labels, grad_loss=grad_loss)
    check_class_numbers(labels, logits.shape[1])
    share = grad_loss / logits.shape[0]
    rows = _label_rows(logits, labels)
    grad_logits = share * (rows.sum(dim=1, keepdim=True) * F.softmax(logits, dim=1) - rows)
    return grad_logits, None if labels.dtype == torch.int64 else -share * F.log_softmax(logits, dim=1)


def softmax_xent_jvp(logits: Tensor, logits_tangent: Tensor, labels: Tensor) -> tuple[Tensor, Tensor]:
    """`pydistill.ops.softmax_xent_jvp` in plain PyTorch; any order of derivative."""
    check_softmax_xent(logits, labels, logits_tangent=logits_tangent)
    loss = softmax_xent(logits, labels)
    return loss, -(_label_rows(logits, labels) * _spread(logits, logits_tangent)).sum(dim=1).mean()


def softmax_xent_backward_jvp(
    logits: Tensor, logits_tangent: Tensor, labels: Tensor
) -> tuple[Tensor, Tensor, Tensor | None]:
    """`pydistill.ops.softmax_xent_backward_jvp` in plain PyTorch; any order of derivative."""
    check_softmax_xent(logits, labels, logits_tangent=logits_tangent)
    grad_logits, _ = softmax_xent_backward(logits.new_ones(()), logits, labels)
    spread = _spread(logits, logits_tangent) / logits.shape[0]
    mass = _label_rows(logits, labels).sum(dim=1, keepdim=True)
    grad_logits_tangent = mass * F.softmax(logits, dim=1) * spread
    return grad_logits, grad_logits_tangent, None if labels.dtype == torch.int64 else -spread
