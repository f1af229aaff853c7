"""Modules that people have: the gradient is right whatever the module does, or the module is refused by name."""

from __future__ import annotations

import logging
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.autograd.function import once_differentiable
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils.checkpoint import checkpoint

from pydistill.errors import BackendError, InputError
from pydistill.matching import match
from pydistill.matching._watch import announce_math_attention
from pydistill.nn import ConvNet
from tests.matching.any_module import (
    BACKENDS,
    LABELS,
    PLAIN,
    Network,
    approximately,
    literal_loss,
    make_net,
    outcome,
    points,
)
from tests.matching.problems import needs_engine


@pytest.mark.parametrize("backend", BACKENDS)
def test_a_checkpointed_module(backend: str) -> None:
    """Its second forward pass runs after the step's, with the parameters of the step."""
    model = Network(lambda self, images: checkpoint(self.net, images, use_reentrant=False))
    assert outcome(model, backend) == approximately(PLAIN)


@pytest.mark.parametrize("backend", BACKENDS)
def test_a_reentrant_checkpoint_is_refused(backend: str) -> None:
    model = Network(lambda self, images: checkpoint(self.net, images, use_reentrant=True))
    with pytest.raises(InputError, match="use_reentrant"):
        outcome(model, backend)


class Squared(torch.autograd.Function):
    """x² without a second derivative."""

    @staticmethod
    def forward(ctx: Any, x: Tensor) -> Tensor:
        ctx.save_for_backward(x)
        return x * x

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> Tensor:
        (x,) = ctx.saved_tensors
        return 2 * x * grad


class DetachedSquared(Squared):
    """x², whose backward pass loses the graph."""

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> Tensor:
        (x,) = ctx.saved_tensors
        return torch.from_numpy(2 * x.detach().numpy() * grad.detach().numpy())


class DifferentiableSquared(Squared):
    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> Tensor:
        (x,) = ctx.saved_tensors
        return 2 * x * grad


def with_square(function: type[torch.autograd.Function]) -> Network:
    return Network(lambda self, images: self.net[2:](function.apply(self.net[:2](images))))


@pytest.mark.parametrize("backend", BACKENDS)
def test_a_function_without_second_derivative_is_named(backend: str) -> None:
    expected = approximately((1.38491268, 0.64944892, 2.07052502))
    assert outcome(with_square(DifferentiableSquared), backend) == expected
    for function in (Squared, DetachedSquared):
        with pytest.raises(InputError, match=rf" {function.__name__};"):
            outcome(with_square(function), backend)


@pytest.mark.parametrize("backend", BACKENDS)
def test_an_operation_without_second_derivative_is_named(backend: str) -> None:
    deform_conv2d = pytest.importorskip("torchvision.ops").deform_conv2d

    def forward(self: Any, images: Tensor) -> Tensor:
        offset = torch.zeros(len(images), 18, 8, 8, dtype=images.dtype)
        return self.net[1:](deform_conv2d(images, offset, self.net[0].weight, self.net[0].bias, padding=1))

    with pytest.raises(InputError, match="deform_conv2d"):
        outcome(Network(forward), backend)


class Attention(nn.Module):
    """Four tokens of an image attend to each other, by the kernel asked for."""

    def __init__(self, kernel: SDPBackend) -> None:
        super().__init__()
        self.before, self.after = nn.Linear(16, 4), nn.Linear(4, 3)
        self.kernel = kernel

    def forward(self, images: Tensor) -> Tensor:
        tokens = self.before(images.view(-1, 1, 4, 16))
        with sdpa_kernel(self.kernel):
            return self.after(F.scaled_dot_product_attention(tokens, tokens, tokens)[:, 0].mean(dim=1))


@pytest.mark.parametrize("backend", BACKENDS)
def test_attention_takes_the_path_that_has_a_second_derivative(backend: str, caplog: pytest.LogCaptureFixture) -> None:
    announce_math_attention.cache_clear()
    caplog.set_level(logging.INFO, "pydistill")
    by_math = outcome(Attention(SDPBackend.MATH).double(), backend)
    assert outcome(Attention(SDPBackend.FLASH_ATTENTION).double(), backend) == pytest.approx(by_math, rel=1e-12)
    assert torch.backends.cuda.flash_sdp_enabled(), "the switch is restored"
    assert "math path" in caplog.text


@pytest.mark.parametrize("backend", BACKENDS)
def test_a_compiled_module_runs_without_its_compiled_code(backend: str) -> None:
    assert outcome(torch.compile(make_net()), backend) == approximately(PLAIN)
    net = make_net()
    net.compile()
    assert outcome(net, backend) == approximately(PLAIN)


@pytest.mark.parametrize("backend", BACKENDS)
def test_torchscript_is_refused(backend: str) -> None:
    with pytest.raises(InputError, match="TorchScript"):
        outcome(Network(torch.jit.script(make_net())), backend)  # type: ignore[arg-type]


@pytest.mark.parametrize("backend", BACKENDS)
def test_frozen_parameters_stay(backend: str) -> None:
    model = Network()
    model.net[0].requires_grad_(False)
    assert outcome(model, backend, frozen=40) == approximately((1.05006099, 0.55065721, 0.56519134))


@pytest.mark.parametrize("backend", BACKENDS)
def test_gradients_reach_the_frozen_part_of_start(backend: str) -> None:
    """Of the literal loop: the frozen parameters do not move, and every later gradient depends on them."""
    model = Network()
    model.net[0].requires_grad_(False)
    start, target, images = points(819, frozen=40)
    start.requires_grad_()
    loss = match(model, start, target, [(images, LABELS)] * 3, 0.2, backend=backend).loss
    (actual,) = torch.autograd.grad(loss, start)
    theta, moving = start, torch.arange(819) >= 40
    for _ in range(3):
        (gradient,) = torch.autograd.grad(literal_loss(model, theta, images), theta, create_graph=True)
        theta = theta - 0.2 * gradient.where(moving, 0)
    expected_loss = (theta - target).square().sum() / (start - target).square().sum()
    (expected,) = torch.autograd.grad(expected_loss, start)
    assert torch.allclose(actual, expected, rtol=1e-9, atol=1e-12)


@needs_engine
def test_fused_refuses_frozen_parameters() -> None:
    model = ConvNet(1, 3, 8, width=4, depth=1).double()
    model.classifier.requires_grad_(False)
    with pytest.raises(BackendError, match="frozen"):
        outcome(model, "fused")
    assert outcome(model, "auto") == outcome(model, "torch")


def test_nothing_to_train() -> None:
    with pytest.raises(InputError, match="no parameters to train"):
        outcome(make_net().requires_grad_(False), "torch")


@pytest.mark.parametrize("backend", BACKENDS)
def test_logits_that_do_not_depend_on_the_parameters(backend: str) -> None:
    for forward in (lambda self, images: images.flatten(1)[:, :3], lambda self, images: self.net(images).detach()):
        with pytest.raises(InputError, match="depend"):
            outcome(Network(forward), backend)
