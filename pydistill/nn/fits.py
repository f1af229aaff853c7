"""Check that a module maps a data set's images to logits, before anything is trained or written."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from pydistill._util.memory import is_out_of_memory
from pydistill.errors import InputError, PydistillError
from pydistill.nn.modes import evaluating


def check_fits(
    model: nn.Module,
    name: str,
    in_channels: int,
    num_classes: int,
    plane: Sequence[int],
    dtype: torch.dtype | None = None,
) -> None:
    """Refuse a module that does not map images [B, C, H, W] to logits [B, K].

    Runs it on two black images in evaluation mode, on the device of its parameters. Its modes and PyTorch's global
    random state are restored.

    Args:
        name: the network's name, for the message.
        plane: (H, W).
        dtype: of the images; None for the dtype of the parameters.

    Raises:
        InputError: the module fails or returns something else; the message names both shapes.
    """
    parameter = next(model.parameters(), torch.empty(0))
    shape, dtype = [2, in_channels, *plane], dtype or parameter.dtype
    try:
        with evaluating(model), torch.random.fork_rng([parameter.device] if parameter.is_cuda else []):
            output = model(torch.zeros(shape, dtype=dtype, device=parameter.device))
    except Exception as error:  # a module of the user's may raise anything
        if isinstance(error, PydistillError) or is_out_of_memory(error):
            raise
        message = f"the network {name} cannot take images {shape} of {dtype}: {type(error).__name__}: {error}"
        if dtype != parameter.dtype:
            message += f"; its parameters are {parameter.dtype}, so convert it with .to({dtype})"
        raise InputError(message) from error
    returned = f"logits {list(output.shape)}" if isinstance(output, Tensor) else f"a {type(output).__name__}"
    if returned != f"logits {[2, num_classes]}":
        raise InputError(
            f"the network {name} must return logits {[2, num_classes]} for images {shape}, one number per class, "
            f"not {returned}"
        )
