"""Make the derivative of a compiled op raise, where it would otherwise be a silent zero."""

from __future__ import annotations

from typing import Any

import torch


def refuse_derivative(name: str) -> None:
    """Register a backward of the op `name` that raises RuntimeError."""

    def backward(ctx: Any, *grads: Any) -> None:
        raise RuntimeError(f"{name} has no derivative; pydistill.reference.{name} has derivatives of any order")

    torch.library.register_autograd(f"pydistill::{name}", backward)
