"""Random modules of many kinds of layers: every backend gives the gradient of a literal loop."""

from __future__ import annotations

from typing import Any

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from pydistill.matching import match
from pydistill.nn import flatten

CHANNELS, SIZE, CLASSES, STEPS = 4, 5, 3, 3
BOUND = 1e-9


class Residual(nn.Module):
    def __init__(self, inner: nn.Module) -> None:
        super().__init__()
        self.inner = inner

    def forward(self, x: Tensor) -> Tensor:
        return x + self.inner(x)


class Checkpointed(Residual):
    """Runs its layer a second time for the gradient, except in the literal loop."""

    enabled = True

    def forward(self, x: Tensor) -> Any:
        return checkpoint(self.inner, x, use_reentrant=False) if self.enabled else self.inner(x)


class OverPixels(nn.Module):
    """Applies a layer for sequences [B, L, C] to the pixels of an image."""

    def __init__(self, inner: nn.Module) -> None:
        super().__init__()
        self.inner = inner

    def forward(self, x: Tensor) -> Tensor:
        pixels = x.flatten(2).transpose(1, 2)
        if isinstance(self.inner, nn.MultiheadAttention):
            result = self.inner(pixels, pixels, pixels)[0]
        elif isinstance(self.inner, nn.GRU):
            result = self.inner(pixels)[0]
        else:
            result = self.inner(pixels)
        return result.transpose(1, 2).reshape(x.shape)


def frozen(layer: nn.Module) -> nn.Module:
    return layer.requires_grad_(False)


LAYERS = {
    "conv": lambda: nn.Conv2d(CHANNELS, CHANNELS, 3, padding=1),
    "grouped conv": lambda: nn.Conv2d(CHANNELS, CHANNELS, 3, padding=1, groups=2, padding_mode="circular"),
    "linear": lambda: OverPixels(nn.Linear(CHANNELS, CHANNELS)),
    "group norm": lambda: nn.GroupNorm(2, CHANNELS),
    "instance norm": lambda: nn.InstanceNorm2d(CHANNELS, affine=True),
    "layer norm": lambda: OverPixels(nn.LayerNorm(CHANNELS)),
    "batch norm": lambda: nn.BatchNorm2d(CHANNELS, track_running_stats=False),
    "relu": nn.ReLU,
    "in-place relu": lambda: nn.Sequential(nn.Conv2d(CHANNELS, CHANNELS, 1), nn.ReLU(inplace=True)),
    "gelu": nn.GELU,
    "tanh": nn.Tanh,
    "softplus": nn.Softplus,
    "prelu": nn.PReLU,
    "dropout": lambda: nn.Dropout(0.3),
    "dropout of channels": lambda: nn.Dropout2d(0.3),
    "attention": lambda: OverPixels(nn.MultiheadAttention(CHANNELS, 2, batch_first=True, dropout=0.1)),
    "gru": lambda: OverPixels(nn.GRU(CHANNELS, CHANNELS, batch_first=True)),
    "frozen conv": lambda: frozen(nn.Conv2d(CHANNELS, CHANNELS, 1)),
    "weight norm": lambda: nn.utils.parametrizations.weight_norm(nn.Conv2d(CHANNELS, CHANNELS, 1)),
}
NAMES = st.sampled_from(sorted(LAYERS))


@st.composite
def modules(draw: Any) -> list[Any]:
    """A list of layers; each is a name, a pair (wrapper, names), or the number of an earlier layer to use again."""
    layers: list[Any] = []
    for number in range(draw(st.integers(1, 5))):
        kind = draw(st.sampled_from(["layer", "layer", "residual", "checkpointed", "tied"]))
        if kind == "layer" or (kind == "tied" and number == 0):
            layers.append(draw(NAMES))
        elif kind == "tied":
            layers.append(draw(st.integers(0, number - 1)))
        else:
            layers.append((kind, draw(st.lists(NAMES, min_size=1, max_size=3))))
    return layers


def built(layers: list[Any], seed: int) -> nn.Module:
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        made: list[nn.Module] = []
        for layer in layers:
            if isinstance(layer, int):
                made.append(made[layer])
            elif isinstance(layer, str):
                made.append(LAYERS[layer]())
            else:
                inner = nn.Sequential(*[LAYERS[name]() for name in layer[1]])
                made.append(Residual(inner) if layer[0] == "residual" else Checkpointed(inner))
        head = nn.Sequential(nn.Flatten(), nn.Linear(CHANNELS * SIZE**2, CLASSES))
        return nn.Sequential(nn.Conv2d(1, CHANNELS, 3, padding=1), *made, head).double()


def literal(model: nn.Module, start: Tensor, target: Tensor, images: Tensor, labels: Tensor, lr: Tensor) -> Tensor:
    """The published loop: parameters as a list of tensors, and one graph of all steps.

    `functional_call` makes frozen parameters of a layer that is used twice trainable, so the module is not used again.
    """
    named = dict(model.named_parameters())
    pieces = torch.split(start, [parameter.numel() for parameter in named.values()])
    theta = {name: piece.view(value.shape) for (name, value), piece in zip(named.items(), pieces, strict=True)}
    moving = [name for name, parameter in named.items() if parameter.requires_grad]
    theta = {name: value.clone().requires_grad_() for name, value in theta.items()}
    for _ in range(STEPS):
        loss = F.cross_entropy(torch.func.functional_call(model, theta, (images.clone(),)), labels)
        gradients = torch.autograd.grad(loss, [theta[name] for name in moving], create_graph=True)
        theta |= {name: theta[name] - lr * gradient for name, gradient in zip(moving, gradients, strict=True)}
    arrival = torch.cat([value.reshape(-1) for value in theta.values()])
    return (arrival - target).square().sum() / (start - target).square().sum()


@pytest.mark.filterwarnings("ignore:enable_nested_tensor")
@settings(derandomize=True, deadline=None, max_examples=100)
@given(layers=modules(), seed=st.integers(0, 50))
def test_backends_agree_with_a_literal_loop(layers: list[Any], seed: int) -> None:
    generator = torch.Generator().manual_seed(seed)
    model = built(layers, seed)
    start = flatten(model)
    target = start + 0.05 * torch.randn(start.shape, generator=generator, dtype=torch.float64)
    pixels = torch.randn(4, 1, SIZE, SIZE, generator=generator, dtype=torch.float64)
    labels = torch.arange(4) % CLASSES

    def gradients(run: Any) -> list[Tensor]:
        images = pixels.clone().requires_grad_()
        lr = torch.tensor(0.1, dtype=torch.float64, requires_grad=True)
        torch.manual_seed(seed)
        loss = run(images, lr)
        return [loss.detach(), *torch.autograd.grad(loss, [images, lr])]

    Checkpointed.enabled = False
    try:
        with torch.nn.attention.sdpa_kernel(torch.nn.attention.SDPBackend.MATH):
            expected = gradients(lambda images, lr: literal(built(layers, seed), start, target, images, labels, lr))
    finally:
        Checkpointed.enabled = True
    for backend, memory in (("autograd", None), ("torch", None), ("torch", "200kB")):
        actual = gradients(
            lambda images, lr, backend=backend, memory=memory: (
                match(model, start, target, [(images, labels)] * STEPS, lr, backend=backend, memory=memory).loss
            )
        )
        for value, right in zip(actual, expected, strict=True):
            assert float((value - right).norm()) <= BOUND * float(right.norm()) + 1e-13, backend
