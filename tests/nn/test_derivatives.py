"""The derivatives that trajectory matching needs: second order, functional calls, forward over reverse."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn
from torch.func import functional_call, grad, jvp
from torch.nn import functional

from pydistill.nn import build, parse

SMALL = [
    "convnet1-w2",
    "convnet2-w2-max",
    "convnet1-w4-gn-leaky",
    "convnet1-w2-ln-sigmoid-nopool",
    "convnet1-w2-nonorm",
    "convnet1-w2-bn",
    "mlp2-w3",
    "mlp3-w3-sigmoid",
]
LARGE = ["alexnet-w8", "alexnet-w8-in", "vgg11-w1", "resnet18-w1", "resnet18-w1-bn"]


def student(name: str, size: int) -> tuple[nn.Module, Tensor, Tensor]:
    model = build(parse(name), 1, 3, size, seed=0).double()
    generator = torch.Generator().manual_seed(1)
    images = torch.randn(2, 1, size, size, generator=generator, dtype=torch.float64, requires_grad=True)
    return model, images, torch.tensor([2, 0])


@pytest.mark.parametrize("name", SMALL)
def test_gradient_and_second_derivative_by_finite_differences(name: str) -> None:
    model, images, labels = student(name, 4)
    names = [key for key, _ in model.named_parameters()]
    parameters = tuple(value.detach().clone().requires_grad_() for value in model.parameters())

    def loss(images: Tensor, *values: Tensor) -> Tensor:
        return functional.cross_entropy(
            functional_call(model, dict(zip(names, values, strict=True)), (images,)), labels
        )

    assert torch.autograd.gradcheck(loss, (images, *parameters), fast_mode=True)
    assert torch.autograd.gradgradcheck(loss, (images, *parameters), fast_mode=True)


@pytest.mark.parametrize("name", SMALL + LARGE)
def test_two_ways_to_a_hessian_vector_product_agree(name: str) -> None:
    """Reverse over reverse through `functional_call` equals forward over reverse (torch.func), batch norm aside."""
    model, images, labels = student(name, 4 if name in SMALL else 8)
    parameters = {key: value.detach().clone() for key, value in model.named_parameters()}
    generator = torch.Generator().manual_seed(2)
    direction = {
        key: torch.randn(value.shape, generator=generator, dtype=torch.float64) for key, value in parameters.items()
    }

    def loss(values: dict[str, Tensor], images: Tensor) -> Tensor:
        return functional.cross_entropy(functional_call(model, values, (images,)), labels)

    leaves = {key: value.clone().requires_grad_() for key, value in parameters.items()}
    first = torch.autograd.grad(loss(leaves, images), list(leaves.values()), create_graph=True)
    slope = sum((g * d).sum() for g, d in zip(first, direction.values(), strict=True))
    assert isinstance(slope, Tensor)
    reverse = torch.autograd.grad(slope, [*leaves.values(), images], allow_unused=True, materialize_grads=True)
    assert all(torch.isfinite(value).all() for value in reverse)
    assert reverse[-1].abs().max() > 0
    if list(model.buffers()):
        return  # torch.func refuses the in-place update of the running statistics, which a student has not
    _, forward = jvp(lambda values: grad(loss)(values, images.detach()), (parameters,), (direction,))
    for value, key in zip(reverse[:-1], parameters, strict=True):
        torch.testing.assert_close(forward[key], value, rtol=1e-9, atol=1e-11)


@pytest.mark.parametrize("name", SMALL + LARGE)
def test_nothing_is_changed_in_place(name: str) -> None:
    model, images, _ = student(name, 4 if name in SMALL else 8)
    before = images.detach().clone()
    model(images)
    assert torch.equal(images, before)
    assert not any(getattr(layer, "inplace", False) for layer in model.modules())
