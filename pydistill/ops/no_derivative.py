"""A compiled op without a derivative raises when one is asked for, where it would otherwise be a silent zero."""

from __future__ import annotations

from typing import Any

import torch


def refuse_derivative(name: str) -> None:
    """Tie the results of the op `name` to its arguments, with a backward that raises RuntimeError."""

    def backward(ctx: Any, *grads: Any) -> None:
        raise RuntimeError(f"{name} gives no derivative; pydistill.reference.{name} gives derivatives of any order")

    torch.library.register_autograd(f"pydistill::{name}", backward)
