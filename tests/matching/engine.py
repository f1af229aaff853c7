"""The engine's student, and its two passes in plain PyTorch by the whole graph of one step."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn
from torch.func import functional_call

from pydistill.matching.loss import student_loss
from pydistill.nn import MLP, ConvNet
from pydistill.nn.flat import flatten, layout_of
from tests.matching.problems import relative_error

if TYPE_CHECKING:
    from pydistill import _C

Network = ConvNet | MLP


@dataclass
class GradientBackend:
    """The results of both passes at one point."""

    gradient: Tensor
    logits: Tensor
    losses: Tensor
    inner: Tensor
    product: Tensor
    images: Tensor
    labels: Tensor


@dataclass
class Point:
    """θ, a direction λ and a batch."""

    theta: Tensor
    direction: Tensor
    images: Tensor
    labels: Tensor

    def to(self, dtype: torch.dtype) -> Point:
        labels = self.labels.to(dtype) if self.labels.is_floating_point() else self.labels
        return Point(self.theta.to(dtype), self.direction.to(dtype), self.images.to(dtype), labels)


def point_of(model: Network, batch: int, *, seed: int = 0, labels: str = "hard") -> Point:
    """A random point in fp64; no unit of the network is exactly at its kink."""
    generator = torch.Generator().manual_seed(seed)

    def normal(*shape: int) -> Tensor:
        return torch.randn(*shape, generator=generator, dtype=torch.float64)

    theta = flatten(model).double()
    rows = torch.randint(model.num_classes, (batch,), generator=generator)
    return Point(
        theta + 0.1 * normal(*theta.shape),
        normal(*theta.shape),
        normal(batch, model.in_channels, *model.image_size),
        rows if labels == "hard" else 1.5 * normal(batch, model.num_classes).softmax(1),
    )


def student_of(
    model: Network,
    largest_batch: int,
    dtype: torch.dtype = torch.float64,
    *,
    convolutions: str = "builtin",
    slice_bytes: int = 0,
) -> _C.Student:
    """The engine's student for this network, with slices of so many bytes or of one image."""
    from pydistill import _C

    height, width = model.image_size
    sizes = {"channels": model.in_channels, "height": height, "width": width}
    sizes |= {"classes": model.num_classes, "units": model.width, "depth": model.depth}
    if isinstance(model, MLP):
        architecture = _C.Architecture(kind="mlp", **sizes)
    else:
        padding = model.first_padding
        architecture = _C.Architecture(
            kind="convnet", **sizes, norm=model.norm, pooling=model.pooling, eps=1e-5, first_padding=padding
        )
    like = torch.empty(0, dtype=dtype)
    return _C.Student(
        architecture, like=like, largest_batch=largest_batch, convolutions=convolutions, slice_bytes=slice_bytes
    )


def by_engine(student: _C.Student, at: Point) -> GradientBackend:
    gradient, losses, logits = student.gradient(at.theta, at.images, at.labels)
    rows = at.labels.is_floating_point()
    inner, product, images, labels = student.adjoint(at.theta, at.direction, at.images, at.labels, True, True, rows)
    assert product is not None
    assert images is not None
    of_labels = at.theta.new_empty(0) if labels is None else labels
    return GradientBackend(gradient, logits, losses, inner, product, images, of_labels)


def by_autograd(model: nn.Module, at: Point) -> GradientBackend:
    layout = layout_of(model)
    rows = at.labels.is_floating_point()
    theta, images = (leaf.clone().requires_grad_() for leaf in (at.theta, at.images))
    labels = at.labels.clone().requires_grad_(rows)
    logits = functional_call(model, layout.split(theta), (images,))
    loss = student_loss(logits, labels)
    (gradient,) = torch.autograd.grad(loss, theta, create_graph=True)
    inner = torch.dot(gradient, at.direction)
    leaves = [theta, images, labels] if rows else [theta, images]
    grads = torch.autograd.grad(inner, leaves, materialize_grads=True)
    of_labels = grads[2] if rows else torch.empty(0, dtype=at.theta.dtype)
    with torch.no_grad():
        shares = [student_loss(logits[k : k + 1], labels[k : k + 1]) for k in range(len(labels))]
        losses = torch.stack(shares) / len(labels)
    return GradientBackend(gradient.detach(), logits.detach(), losses, inner.detach(), grads[0], grads[1], of_labels)


def worst_error(actual: GradientBackend, expected: GradientBackend) -> float:
    """Return the largest relative error of the passes' results."""
    return max(relative_error(vars(actual)[name].double(), value.double()) for name, value in vars(expected).items())
