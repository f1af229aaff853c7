"""Check that a module can be the student, before experts are trained for hours."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import nn

from pydistill.matching.match import match
from pydistill.nn.flat import flatten


def check_student(model: nn.Module, in_channels: int, num_classes: int, plane: Sequence[int]) -> None:
    """Match two steps on two random images [2, C, H, W], and run `backward`.

    It runs on the device of the parameters and restores PyTorch's global random state.

    Args:
        plane: (H, W).

    Raises:
        InputError: as `match` and its `backward` on backend `torch`: an operation without a second derivative, a step
            that is another function when run again, ….
    """
    start = flatten(model)
    generator = torch.Generator().manual_seed(0)
    images = torch.rand(2, in_channels, *plane, generator=generator).to(start).requires_grad_()
    labels = torch.arange(2, device=start.device) % num_classes
    with torch.random.fork_rng([start.device] if start.is_cuda else []), torch.enable_grad():
        loss = match(model, start, start + 0.01, [(images, labels)] * 2, 0.01, backend="torch").loss
        torch.autograd.grad(loss, images)
