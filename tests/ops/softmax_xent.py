"""Arguments of `softmax_xent` and its derivatives, and what they are by the formula."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

DTYPES = [torch.float32, torch.float64]
LABELS = ["hard", "rows"]


def arguments(shape: tuple[int, int], kind: str, dtype: torch.dtype) -> tuple[Tensor, Tensor, Tensor]:
    """Logits, a tangent of theirs, and labels: class numbers, or rows whose mass is not one."""
    generator = torch.Generator().manual_seed(shape[0] * 7919 + shape[1])
    logits, tangent = (torch.randn(shape, dtype=dtype, generator=generator) for _ in range(2))
    rows = torch.rand(shape, dtype=dtype, generator=generator)
    numbers = torch.randint(shape[1], shape[:1], generator=generator)
    return 3 * logits, tangent, numbers if kind == "hard" else rows


def formula(logits: Tensor, labels: Tensor) -> Tensor:
    if labels.dtype == torch.int64:
        return F.cross_entropy(logits, labels)
    return -(labels * F.log_softmax(logits, dim=1)).sum(dim=1).mean()


def gradients(logits: Tensor, labels: Tensor) -> tuple[Tensor, Tensor | None]:
    """By torch.func, of the formula."""
    if labels.dtype == torch.int64:
        return torch.func.grad(formula)(logits, labels), None
    return torch.func.grad(formula, argnums=(0, 1))(logits, labels)
