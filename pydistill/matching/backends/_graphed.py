"""The steps of backend `torch` on fixed memory, so that a GPU replays them as CUDA graphs."""

from __future__ import annotations

import torch
from torch import Tensor

from pydistill.engine.cuda_graph import CudaGraphStep, is_plain
from pydistill.engine.student import being_recorded
from pydistill.matching.functional import FunctionalStudent
from pydistill.matching.problem import Problem

_STEPS_WORTH_A_CAPTURE = 10


def can_be_graphed(problem: Problem) -> bool:
    """Return True if the steps are the same work on other numbers, and there are enough of them for a capture."""
    plan, start = problem.plan, problem.start
    shapes = {
        (plan.sources[at.images].shape[1:], plan.sources[at.labels].shape[1:], plan.batch_size(step))
        for step, at in enumerate(plan.steps)
    }
    return (
        start.device.type == "cuda"
        and problem.memory is None
        and problem.steps >= _STEPS_WORTH_A_CAPTURE
        and len(shapes) == 1
        and is_plain(problem.student.model)
        and not torch.is_autocast_enabled("cuda")
        and not being_recorded(start)
    )


class GraphedSteps:
    """A student's gradient, and the derivatives of ⟨∇_θ ℓ, λ⟩, computed in memory of its own.

    Args:
        student: the student.
        theta, images, labels: tensors like those of every step.
    """

    def __init__(self, student: FunctionalStudent, theta: Tensor, images: Tensor, labels: Tensor) -> None:
        self._student = student
        self._theta, self._adjoint, self._gradient = (torch.empty_like(theta) for _ in range(3))
        self._images, self._labels = torch.empty_like(images), torch.empty_like(labels)
        self._product = theta.new_empty(())
        self._derivatives = [torch.empty_like(value) for value in (theta, images, labels) if value.is_floating_point()]
        self._first = CudaGraphStep(self._compute_gradient, theta.device, capture=True)
        self._second = CudaGraphStep(self._differentiate, theta.device, capture=True)

    def gradient(self, theta: Tensor, images: Tensor, labels: Tensor) -> Tensor:
        """Compute g = ∇_θ ℓ(θ, X, Y), [P]."""
        self._fill(theta, images, labels)
        self._first()
        return self._gradient.clone()

    def differentiated(
        self, theta: Tensor, images: Tensor, labels: Tensor, adjoint: Tensor
    ) -> tuple[Tensor, Tensor, list[Tensor]]:
        """Compute g, s = ⟨g, λ⟩, and the derivatives of s in θ, in the images, and in the labels if they are rows."""
        self._fill(theta, images, labels)
        self._adjoint.copy_(adjoint)
        self._second()
        return self._gradient.clone(), self._product.clone(), [value.clone() for value in self._derivatives]

    def _fill(self, theta: Tensor, images: Tensor, labels: Tensor) -> None:
        self._theta.copy_(theta)
        self._images.copy_(images)
        self._labels.copy_(labels)

    def _compute_gradient(self) -> None:
        theta = self._theta.detach().requires_grad_()
        self._gradient.copy_(self._student.gradient(theta, self._images, self._labels))

    def _differentiate(self) -> None:
        values = (self._theta, self._images, self._labels)
        leaves = [value.detach().requires_grad_(value.is_floating_point()) for value in values]
        gradient = self._student.gradient(leaves[0], leaves[1], leaves[2], create_graph=True)
        with torch.enable_grad():
            product = torch.dot(gradient, self._adjoint)
        inputs = [leaf for leaf in leaves if leaf.requires_grad]
        for out, derivative in zip(
            self._derivatives, torch.autograd.grad(product, inputs, materialize_grads=True), strict=True
        ):
            out.copy_(derivative)
        self._gradient.copy_(gradient.detach())
        self._product.copy_(product.detach())
