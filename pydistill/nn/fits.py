"""Whether a module makes logits of a data set's images: asked once, before anything is trained or written."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from pydistill.errors import InputError, PydistillError


def check_fits(
    model: nn.Module,
    name: str,
    in_channels: int,
    num_classes: int,
    plane: Sequence[int],
    dtype: torch.dtype | None = None,
) -> None:
    """Refuse a module that does not make logits [B, K] of images [B, C, H, W].

    It is shown two black images in evaluation mode, on the device of its parameters, and left in the modes it was in;
    PyTorch's global random numbers are left as they were.

    Args:
        name: of the network, for the message.
        plane: (H, W).
        dtype: of the images; None: that of its parameters.

    Raises:
        InputError: the module fails, or returns something else; both shapes are named.
    """
    parameter = next(model.parameters(), torch.empty(0))
    shape, kind = [2, in_channels, *plane], dtype or parameter.dtype
    modes = [(module, module.training) for module in model.modules()]
    try:
        model.eval()
        with torch.no_grad(), torch.random.fork_rng([parameter.device] if parameter.is_cuda else []):
            found = model(torch.zeros(shape, dtype=kind, device=parameter.device))
    except (PydistillError, MemoryError, torch.OutOfMemoryError):
        raise
    except Exception as error:
        told = f"the network {name} cannot take images {shape} of {kind}: {type(error).__name__}: {error}"
        if kind != parameter.dtype:
            told += f"; its parameters are {parameter.dtype}, so give it as .to({kind})"
        raise InputError(told) from error
    finally:
        for module, training in modes:
            module.training = training
    returned = f"logits {list(found.shape)}" if isinstance(found, Tensor) else f"a {type(found).__name__}"
    if returned != f"logits {[2, num_classes]}":
        raise InputError(
            f"the network {name} must return logits {[2, num_classes]} for images {shape}, a number per class, "
            f"not {returned}"
        )
