"""Backend `torch`: the adjoint sweep with every step differentiated by PyTorch, for any module."""

from __future__ import annotations

from typing import Any, cast

import torch
from torch import Tensor

from pydistill import ops
from pydistill.matching.backends.sweep import Needed, Points, Sweep, match_by_sweep
from pydistill.matching.functional import RandomReplay
from pydistill.matching.problem import Match, Problem
from pydistill.matching.selection import distance_sums


class TorchSweep(Sweep):
    """The adjoint sweep in PyTorch; a step's graph exists only while that step is differentiated."""

    backend = "torch"

    def __init__(self, problem: Problem) -> None:
        super().__init__(problem)
        self.replay = RandomReplay(problem.start.device)
        device = problem.start.device.type
        # The autocast state of the forward sweep: backward may be called outside it.
        self.autocast: dict[str, Any] = {
            "device_type": device,
            "enabled": torch.is_autocast_enabled(device),
            "dtype": torch.get_autocast_dtype(device),
        }

    def train(self) -> tuple[Points, Tensor]:
        problem, plan = self.problem, self.problem.plan
        theta, target = problem.start.detach(), problem.target.detach()
        lr = problem.lr.detach()
        points = [theta]
        sums = [distance_sums(theta, target)]
        for step in range(problem.steps):
            images, labels = plan.rows(plan.sources, step)
            self.replay.before_step()
            gradient = problem.student.gradient(theta, plan.augmented(images, step).detach(), labels.detach())
            if step == 0:
                self.replay.after_first_step()
            theta, step_sums = ops.sgd_step(theta, gradient, problem.step_lr(lr, step), target)
            points.append(theta)
            sums.append(step_sums)
        problem.student.check_unchanged()
        return points, torch.stack(sums)

    def backward_steps(
        self, adjoint: Tensor, lr: Tensor, sources: tuple[Tensor, ...], needed: Needed
    ) -> tuple[Tensor, Tensor | None, list[Tensor | None]]:
        self.problem.student.check_unchanged()
        plan = self.problem.plan
        gradients: list[Tensor | None] = [None] * len(sources)
        lr_gradient = torch.zeros_like(lr) if needed.lr else None
        for step in reversed(range(self.step)):
            at = plan.steps[step]
            of_leaves = (
                self.problem.gradient == "exact" and (step > 0 or needed.start),
                needed.sources[at.images],
                needed.sources[at.labels],
            )
            if not (needed.lr or any(of_leaves)):
                continue
            alpha = self.problem.step_lr(lr, step)
            product, derivatives = self._differentiate(step, adjoint, sources, of_leaves)
            if lr_gradient is not None:
                (lr_gradient if lr.ndim == 0 else lr_gradient[step]).sub_(product)
            for source, derivative in ((at.images, derivatives[1]), (at.labels, derivatives[2])):
                if derivative is not None:
                    plan.add(gradients, source, step, -alpha * derivative)
            if derivatives[0] is not None:
                adjoint = adjoint - alpha * derivatives[0]
        return adjoint, lr_gradient, gradients

    def _differentiate(
        self, step: int, adjoint: Tensor, sources: tuple[Tensor, ...], of_leaves: tuple[bool, bool, bool]
    ) -> tuple[Tensor, tuple[Tensor | None, Tensor | None, Tensor | None]]:
        """Compute s = ⟨∇_θ ℓ, λ⟩ of step k and its derivatives in θ_k, the images (before augmentation) and the labels.

        A derivative that `of_leaves` does not ask for is None.
        """
        plan, student = self.problem.plan, self.problem.student
        images, labels = plan.rows(sources, step)
        with torch.enable_grad(), torch.autocast(**self.autocast), self.replay.replaying(step):
            leaves = (
                self.points[step].detach().requires_grad_(),
                images.detach().requires_grad_(of_leaves[1]),
                labels.detach().requires_grad_(of_leaves[2]),
            )
            loss = student.loss(leaves[0], plan.augmented(leaves[1], step), leaves[2])
            (gradient,) = torch.autograd.grad(loss, leaves[0], create_graph=any(of_leaves), materialize_grads=True)
            product = torch.dot(gradient, adjoint)
            inputs = [leaf for leaf, is_needed in zip(leaves, of_leaves, strict=True) if is_needed]
            with student.second_derivative_errors():
                computed = iter(torch.autograd.grad(product, inputs, materialize_grads=True) if inputs else ())
        derivatives = tuple(next(computed) if is_needed else None for is_needed in of_leaves)
        return product.detach(), cast(tuple[Tensor | None, Tensor | None, Tensor | None], derivatives)


def match_torch(problem: Problem) -> Match:
    """Match with backend `torch`."""
    return match_by_sweep(TorchSweep(problem))
