"""Fit codes to images, for decoders that no formula inverts."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import torch
from torch import Tensor

from pydistill.synthesis.decoders.base import Decoder


@dataclass(frozen=True)
class Fitting:
    """Settings of the fit of codes to images.

    Attributes:
        steps: Adam's steps; 0 leaves the codes as they are.
        lr: its rate.
    """

    steps: int
    lr: float


def fit(
    decoder: Decoder, codes: Mapping[str, Tensor], images: Tensor, fitting: Fitting, *, at_once: int
) -> dict[str, Tensor]:
    """Return codes whose images come near to these, by Adam on the mean square error.

    Args:
        decoder: one whose images have a row of every code each.
        codes: the codes to begin with, [n, …].
        images: [n, C, H, W].
        at_once: images fitted at a time; one does not influence another.
    """
    fitted: dict[str, list[Tensor]] = {name: [] for name in codes}
    for first in range(0, len(images), at_once):
        target = images[first : first + at_once]
        part = {name: code[first : first + at_once].clone().requires_grad_() for name, code in codes.items()}
        adam = torch.optim.Adam(list(part.values()), lr=fitting.lr)
        for _ in range(fitting.steps):
            with torch.enable_grad():
                error = (decoder.decode(part) - target).square().mean(dim=(1, 2, 3)).sum()
            gradients = torch.autograd.grad(error, list(part.values()))
            for code, gradient in zip(part.values(), gradients, strict=True):
                code.grad = gradient
            adam.step()
            with torch.no_grad():
                for name, code in decoder.project(part).items():
                    part[name].copy_(code)
        for name, code in part.items():
            fitted[name].append(code.detach())
    return {name: torch.cat(parts) for name, parts in fitted.items()}
