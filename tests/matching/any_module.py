"""A small module with a forward of the test's own, and what a match of it gives."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from pydistill.matching import match

BACKENDS = ["torch", "autograd"]
Pairs = Sequence[tuple[Tensor, Tensor]]


def make_net() -> nn.Sequential:
    with torch.random.fork_rng():
        torch.manual_seed(0)
        return nn.Sequential(
            nn.Conv2d(1, 4, 3, padding=1), nn.GroupNorm(2, 4), nn.ReLU(), nn.Flatten(), nn.Linear(256, 3)
        ).double()


class Network(nn.Module):
    """`net` with a forward of the test's own."""

    def __init__(self, forward: Callable[[Any, Tensor], Tensor] = lambda self, images: self.net(images)) -> None:
        super().__init__()
        self.net = make_net()
        self.own_forward = forward

    def forward(self, images: Tensor) -> Tensor:
        return self.own_forward(self, images)


def points(total: int, frozen: int = 0) -> tuple[Tensor, Tensor, Tensor]:
    generator = torch.Generator().manual_seed(0)

    def normal(*shape: int) -> Tensor:
        return torch.randn(*shape, generator=generator, dtype=torch.float64)

    start = 0.1 * normal(total)
    target = start + 0.05 * normal(total)
    target[:frozen] = start[:frozen]
    return start, target, normal(6, 1, 8, 8)


LABELS = torch.arange(6) % 3


def outcome(
    model: nn.Module,
    backend: str,
    pairs: Callable[[Tensor], Pairs] = lambda images: [(images, LABELS)] * 4,
    *,
    frozen: int = 0,
    **options: Any,
) -> tuple[float, float, float]:
    """The loss, the 1-norm of the images' gradient, and the learning rate's gradient."""
    start, target, images = points(sum(parameter.numel() for parameter in model.parameters()), frozen)
    images.requires_grad_()
    lr = torch.tensor(0.2, dtype=torch.float64, requires_grad=True)
    result = match(model, start, target, pairs(images), lr, backend=backend, **options)
    of_images, of_lr = torch.autograd.grad(result.loss, [images, lr])
    return float(result.loss.detach()), float(of_images.abs().sum()), float(of_lr)


# The published loop with create_graph=True over the module without the feature.
PLAIN = (1.09181662, 0.75547767, 0.98523415)


def approximately(values: tuple[float, ...]) -> Any:
    return pytest.approx(values, abs=6e-9)


def literal_loss(model: nn.Module, theta: Tensor, images: Tensor) -> Tensor:
    named = list(model.named_parameters())
    pieces = torch.split(theta, [parameter.numel() for _, parameter in named])
    parameters = {name: piece.view(value.shape) for (name, value), piece in zip(named, pieces, strict=True)}
    return F.cross_entropy(torch.func.functional_call(model, parameters, (images,)), LABELS)
