"""The kinds of differentiation that a compiled op has no rule for, and for which the reference runs in its place."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torch.autograd import forward_ad

_unpack_dual: Any = forward_ad.unpack_dual


def needs_plain_torch(*tensors: Tensor) -> bool:
    """Whether a forward-mode tangent or a transform of torch.func (grad, jvp, vmap, …) is at work on these tensors.

    torch gives an op without a forward-mode rule tangents of zero and says nothing, so this has to be asked beforehand.
    """
    if torch.compiler.is_compiling():
        return False
    if torch._C._are_functorch_transforms_active():
        return True
    return any(_unpack_dual(tensor).tangent is not None for tensor in tensors)
