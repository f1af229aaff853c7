"""Detect the kinds of differentiation that compiled ops have no rules for; the reference handles them."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torch.autograd import forward_ad

_unpack_dual: Any = forward_ad.unpack_dual


def needs_plain_torch(*tensors: Tensor) -> bool:
    """Return True under forward mode or a transform of torch.func (grad, jvp, vmap, …) on these tensors.

    For an op without a forward-mode rule torch returns zero tangents without an error, so ops check this first.
    """
    if torch.compiler.is_compiling():
        return False
    if torch._C._are_functorch_transforms_active():
        return True
    return any(_unpack_dual(tensor).tangent is not None for tensor in tensors)
