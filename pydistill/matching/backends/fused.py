"""Backend `fused`: the adjoint sweep in C++ over fused kernels, for the ConvNet of the papers and for MLPs.

A program (`.program`) takes the place of PyTorch's steps: one step of training with the distances in
the same pass as the update, and one forward-over-reverse pass of the sweep. Each makes its batch when it needs it,
augmentation included; no Python runs between steps.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager

import torch
from torch import Tensor, nn

from pydistill.engine.streams import stream_of
from pydistill.engine.student import PROGRAMS_KEPT, why_not_fused
from pydistill.errors import InputError
from pydistill.matching.backends.program import (
    IMAGES,
    LABELS,
    LR,
    PRODUCT,
    Arrangement,
    Program,
    acquire_program,
    release_program,
)
from pydistill.matching.backends.sweep import Needed, Points, Sweep, match_by_sweep
from pydistill.matching.batches import BatchPlan
from pydistill.matching.problem import Match, Problem
from pydistill.matching.selection import distance_sums
from pydistill.nn import MLP

STREAMS = PROGRAMS_KEPT
"""Matches that run side by side on a GPU: with more, programs would be rebuilt on every call."""

__all__ = ["FusedSweep", "image_shapes", "match_fused", "why_not_fused", "why_not_these_images", "why_not_trained"]


def image_shapes(plan: BatchPlan) -> set[torch.Size]:
    """Return [C, H, W] of the images of all steps; the engine's student takes one."""
    return {plan.sources[at.images].shape[1:] for at in plan.steps}


def why_not_these_images(model: nn.Module, plan: BatchPlan) -> str | None:
    """Return why the engine cannot train this network on the plan's images although PyTorch may; None if it can."""
    shapes = image_shapes(plan)
    if len(shapes) > 1:
        return "it takes images of one shape, and here the steps have several"
    (shape,) = shapes
    if isinstance(model, MLP) and len(shape) != 3:
        return f"it takes images [B, C, H, W], not {['B', *shape]}".replace("'", "")
    return None


def why_not_trained(model: nn.Module) -> str | None:
    """Return why the engine cannot train all parameters of this network, or None if it can."""
    frozen = next((name for name, parameter in model.named_parameters() if not parameter.requires_grad), None)
    return None if frozen is None else f"it trains all parameters, and '{frozen}' is frozen"


class FusedSweep(Sweep):
    """Each step by the engine's passes."""

    backend = "fused"

    def __init__(self, problem: Problem) -> None:
        super().__init__(problem)
        model = problem.student.model
        self._check_labels(int(model.num_classes))  # type: ignore[arg-type]
        with torch.no_grad():
            self.arrangement = Arrangement(problem.plan, weighted=problem.distance_weights is not None)

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

    @contextmanager
    def _filled_program(self, sources: Sequence[Tensor], lr: Tensor, points: Tensor) -> Iterator[Program]:
        """Borrow a program and fill it with this problem; return it to the cache unless the body raises.

        Both sweeps of a match borrow and fill one. In between, while the caller holds the loss, the cached program
        serves other matches, and `loss.backward()` may never come.
        """
        model, start, shape = self.problem.student.model, self.problem.start, self.arrangement.shape
        program = acquire_program(model, start, shape)
        program.fill(self.arrangement, sources, lr, points)
        yield program
        release_program(model, start, shape, program)

    def train(self) -> tuple[Points, Tensor]:
        problem = self.problem
        start, target, weights = problem.start.detach(), problem.target.detach(), problem.distance_weights
        points = start.new_empty(problem.steps + 1, start.numel())
        points[0] = start
        with self._filled_program(problem.plan.sources, problem.lr, points) as program:
            program.target.copy_(target)
            if program.weights is not None and weights is not None:
                program.weights.copy_(weights)
            program.sums[0] = distance_sums(start, target, weights)
            program.train(problem.steps)
            return points, program.sums.clone()

    def backward_steps(
        self, adjoint: Tensor, lr: Tensor, sources: tuple[Tensor, ...], needed: Needed
    ) -> tuple[Tensor, Tensor | None, list[Tensor | None]]:
        assert isinstance(self.points, Tensor)
        with self._filled_program(sources, lr, self.points) as program:
            program.adjoint.copy_(adjoint)
            program.clear_gradients()
            program.go_back([self._wanted(step, needed) for step in range(self.step)])
            of_lr = (program.lr_gradient.sum() if lr.ndim == 0 else program.lr_gradient.clone()) if needed.lr else None
            gradients = [
                program.gradient_of(self.arrangement, source).clone() if is_needed else None
                for source, is_needed in enumerate(needed.sources)
            ]
            return program.adjoint.clone(), of_lr, gradients

    def _wanted(self, step: int, needed: Needed) -> int:
        at = self.problem.plan.steps[step]
        wants_product = self.problem.gradient == "exact" and (step > 0 or needed.start)
        return (
            PRODUCT * wants_product
            + IMAGES * needed.sources[at.images]
            + LABELS * needed.sources[at.labels]
            + LR * needed.lr
        )


def match_fused(problem: Problem) -> Match:
    """Match with backend `fused`."""
    return match_by_sweep(FusedSweep(problem))


def match_many_fused(problems: Sequence[Problem]) -> list[Match]:
    """Match several problems of one device with backend `fused`: on a GPU side by side, on the CPU in turn.

    On a GPU the training of all of them is queued, over a few streams, before the step of the first is chosen; each
    one's way back is queued on its stream as well.
    """
    device = problems[0].start.device
    if device.type == "cpu":
        return [match_fused(problem) for problem in problems]
    sweeps = [FusedSweep(problem) for problem in problems]
    streams = [stream_of("matches", device, number) for number in range(min(len(problems), STREAMS))]
    callers = torch.cuda.current_stream(device)
    for stream in streams:
        stream.wait_stream(callers)
    try:
        for number, sweep in enumerate(sweeps):
            sweep.stream = streams[number % len(streams)]
            with sweep.on_stream():
                sweep.launch()
        return [match_by_sweep(sweep) for sweep in sweeps]
    except BaseException:  # nobody may free what a stream still works on
        for stream in streams:
            callers.wait_stream(stream)
        raise
