"""Backend `fused`: the adjoint sweep in C++ over fused kernels, for the ConvNet of the papers and for MLPs.

The passes of `csrc/engine/student.h` take the place of PyTorch's: one step of training with the distances in the same
pass as the update, and one forward-over-reverse pass of the sweep. Without augmentation both sweeps run in C++ from the
first step to the last; with it, PyTorch makes each batch when its step needs it.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from pydistill.errors import InputError
from pydistill.matching.adjoint import Needed, Points, Sweep, match_by_sweep
from pydistill.matching.batches import BatchPlan
from pydistill.matching.problem import Match, Problem
from pydistill.matching.selection import distance_sums
from pydistill.nn import MLP
from pydistill.nn.fused import fused_student, why_not_fused

STEPS_A_CALL = 4

__all__ = ["FusedSweep", "image_shapes", "match_by_fused", "why_not_fused", "why_not_these_images"]


def image_shapes(plan: BatchPlan) -> set[torch.Size]:
    """[C, H, W] of the images of all steps; the engine's student takes one."""
    return {plan.sources[at.images].shape[1:] for at in plan.steps}


def why_not_these_images(model: nn.Module, plan: BatchPlan) -> str | None:
    """Why the engine cannot train this network on the plan's images although PyTorch may, or None if it can."""
    shapes = image_shapes(plan)
    if len(shapes) > 1:
        return "it takes images of one shape, and here the steps have several"
    (shape,) = shapes
    if isinstance(model, MLP) and len(shape) != 3:
        return f"it takes images [B, C, H, W], not {['B', *shape]}".replace("'", "")
    return None


class FusedSweep(Sweep):
    """Each step by the engine's passes."""

    backend = "fused"

    def __init__(self, problem: Problem) -> None:
        super().__init__(problem)
        plan, model = problem.plan, problem.student.model
        (shape,) = image_shapes(plan)
        largest = max(len(plan.sources[at.images]) if at.index is None else len(at.index) for at in plan.steps)
        self.student = fused_student(model, [largest, *shape], problem.start)
        self._check_labels(int(model.num_classes))  # type: ignore[arg-type]
        self.augmented = any(at.draw is not None for at in plan.steps)
        nothing = torch.empty(0, dtype=torch.int64, device=problem.start.device)
        self.images = [at.images for at in plan.steps]
        self.labels = [at.labels for at in plan.steps]
        self.index = [nothing if at.index is None else at.index for at in plan.steps]

    def _check_labels(self, classes: int) -> None:
        plan = self.problem.plan
        for at in plan.steps:
            labels = plan.sources[at.labels]
            if labels.ndim == 2:
                if labels.shape[1] != classes:
                    raise InputError(f"label rows have {labels.shape[1]} classes, the model's logits {classes}")
            elif labels.device.type == "cpu":
                rows = labels if at.index is None else labels[at.index]
                if int(rows.max()) >= classes:
                    raise InputError(
                        f"hard labels must lie in [0, {classes - 1}] for {classes} classes, found {int(rows.max())}"
                    )

    def step_lrs(self, lr: Tensor) -> Tensor:
        """α of each step, [N]."""
        return lr.detach().expand(self.problem.steps).contiguous()

    def train(self) -> tuple[Points, Tensor]:
        problem, plan = self.problem, self.problem.plan
        start, target = problem.start.detach(), problem.target.detach().contiguous()
        points = start.new_empty(problem.steps + 1, start.numel())
        points[0] = start
        sums = torch.empty(problem.steps + 1, 2, dtype=torch.float64, device=start.device)
        sums[0] = distance_sums(start, target)
        lr = self.step_lrs(problem.lr)
        if not self.augmented:
            sources = [source.detach() for source in plan.sources]
            recipe = (sources, self.images, self.labels, self.index)
            for first in range(0, problem.steps, STEPS_A_CALL):
                last = min(first + STEPS_A_CALL, problem.steps)
                self.student.train(points, sums, target, lr, *recipe, first, last)
        else:
            for step in range(problem.steps):
                images, labels = plan.rows(plan.sources, step)
                images = plan.augmented(images, step).detach()
                self.student.train_step(points, sums, target, lr, step, images, labels.detach())
        return points, sums

    def go_back(
        self, adjoint: Tensor, lr: Tensor, sources: tuple[Tensor, ...], needed: Needed
    ) -> tuple[Tensor, Tensor | None, list[Tensor | None]]:
        exact = self.problem.gradient == "exact"
        rates = self.step_lrs(lr)
        adjoint = adjoint.clone()
        of_lr = torch.zeros_like(rates) if needed.lr else rates.new_empty(0)
        gradients = [
            torch.zeros_like(source) if wanted else source.new_empty(0)
            for source, wanted in zip(sources, needed.sources, strict=True)
        ]
        if not self.augmented:
            values = [source.detach() for source in sources]
            recipe = (values, self.images, self.labels, self.index)
            wanted = (exact, needed.start, adjoint, of_lr, gradients)
            for last in range(self.step, 0, -STEPS_A_CALL):
                first = max(0, last - STEPS_A_CALL)
                self.student.sweep(self.points, first, last, rates, *recipe, *wanted)
        else:
            with torch.autocast(adjoint.device.type, enabled=False):  # the forward sweep had none
                self._go_back_step_by_step(adjoint, rates, sources, needed, of_lr, gradients)
        lr_gradient = (of_lr.sum() if lr.ndim == 0 else of_lr) if needed.lr else None
        found = [each if wanted else None for each, wanted in zip(gradients, needed.sources, strict=True)]
        return adjoint, lr_gradient, list(found)

    def _go_back_step_by_step(
        self,
        adjoint: Tensor,
        rates: Tensor,
        sources: tuple[Tensor, ...],
        needed: Needed,
        of_lr: Tensor,
        gradients: list[Tensor],
    ) -> None:
        """The sweep where PyTorch augments each batch: adds to `of_lr` and `gradients`, changes `adjoint`."""
        plan = self.problem.plan
        for step in reversed(range(self.step)):
            at = plan.steps[step]
            wants_product = self.problem.gradient == "exact" and (step > 0 or needed.start)
            wants_images, wants_labels = needed.sources[at.images], needed.sources[at.labels]
            if not (wants_product or wants_images or wants_labels or needed.lr):
                continue
            rows, labels = plan.rows(sources, step)
            with torch.enable_grad():
                rows = rows.detach().requires_grad_(wants_images)
                images = plan.augmented(rows, step)
            inner, product, of_images, of_labels = self.student.adjoint(
                self.points[step], adjoint, images.detach(), labels.detach(), wants_product, wants_images, wants_labels
            )
            if needed.lr:
                of_lr[step] -= inner
            if wants_images:
                (of_rows,) = torch.autograd.grad(images, rows, of_images)
                _subtract(gradients[at.images], at.index, rates[step] * of_rows)
            if wants_labels:
                _subtract(gradients[at.labels], at.index, rates[step] * of_labels)
            if wants_product:
                adjoint -= rates[step] * product


def _subtract(gradient: Tensor, index: Tensor | None, share: Tensor) -> None:
    if index is None:
        gradient -= share
    else:
        gradient.index_add_(0, index, share, alpha=-1)


def match_by_fused(problem: Problem) -> Match:
    """Match with backend `fused`."""
    return match_by_sweep(FusedSweep(problem))
