"""Backend `torch`: the adjoint sweep with every step differentiated by PyTorch, for any module."""

from __future__ import annotations

import logging
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import lru_cache
from itertools import zip_longest
from typing import Any

import torch
from torch import Tensor
from torch.autograd.graph import saved_tensors_hooks

from pydistill import ops
from pydistill.errors import InputError
from pydistill.matching.backends._graphed import GraphedSteps, can_be_graphed
from pydistill.matching.backends._replay import RandomReplay
from pydistill.matching.backends.sweep import Needed, Points, Sweep, match_by_sweep
from pydistill.matching.problem import Match, Problem
from pydistill.matching.second_derivative import derivative_errors
from pydistill.matching.selection import distance_sums

_log = logging.getLogger("pydistill")

_CHECKED = 1 << 14
"""Parameters compared, at most, when a step is run again."""


@dataclass(frozen=True)
class _StepGraph:
    """The graph of g = ∇_θ ℓ(θ_k, X_k, Y_k) over its leaves; the images are those before augmentation."""

    theta: Tensor
    images: Tensor
    labels: Tensor
    gradient: Tensor


class TorchSweep(Sweep):
    """The adjoint sweep in PyTorch.

    The forward sweep keeps the graphs of the first steps, as many as `problem.memory` holds. The graph of any other
    step exists while that step is differentiated. On a GPU the steps of plain networks are captured as CUDA graphs
    (`can_be_graphed`).
    """

    backend = "torch"

    def __init__(self, problem: Problem) -> None:
        super().__init__(problem)
        self._replay = RandomReplay(problem.start.device)
        inputs = (problem.start, problem.target, problem.lr, *problem.plan.sources)
        self._makes_graphs = (
            problem.memory is not None and torch.is_grad_enabled() and any(value.requires_grad for value in inputs)
        )
        self._kept: dict[int, _StepGraph] = {}
        device = problem.start.device.type
        # The autocast state of the forward sweep: backward may be called outside it.
        self._autocast: dict[str, Any] = {
            "device_type": device,
            "enabled": torch.is_autocast_enabled(device),
            "dtype": torch.get_autocast_dtype(device),
        }

        self._graphed: GraphedSteps | None = None
        if can_be_graphed(problem):
            with torch.no_grad():
                self._graphed = GraphedSteps(
                    problem.student, problem.start, *problem.plan.rows(problem.plan.sources, 0)
                )

    def train(self) -> tuple[Points, Tensor]:
        problem = self.problem
        theta, target = problem.start.detach().clone(), problem.target.detach()
        lr, weights = problem.lr.detach(), problem.distance_weights
        points = [theta]
        sums = [distance_sums(theta, target, weights)]
        budget = _Budget(problem.memory or 0, shared=problem.plan.sources)
        self._replay.store()
        for step in range(problem.steps):
            gradient = self._first_gradient(step, theta, budget)
            self._replay.store()
            theta, step_sums = ops.sgd_step(theta, gradient, problem.step_lr(lr, step), target, weights)
            points.append(theta)
            sums.append(step_sums)
        problem.student.check_unchanged()
        return points, torch.stack(sums)

    def _first_gradient(self, step: int, theta: Tensor, budget: _Budget) -> Tensor:
        """Compute g_k as a constant; keep its graph if the budget has room.

        With a budget all gradients are computed with a graph, since some operations then round otherwise: so the bits
        do not depend on how many steps fit.
        """
        plan = self.problem.plan
        if not self._makes_graphs:
            return self._constant_gradient(step, theta, plan.sources)
        with budget.measuring(plan.sources[plan.steps[step].images].shape, theta):
            graph = self._graph(step, theta, plan.sources)
        if len(self._kept) == step and budget.take():
            self._kept[step] = graph
        return graph.gradient.detach()

    def _constant_gradient(self, step: int, theta: Tensor, sources: Sequence[Tensor]) -> Tensor:
        plan = self.problem.plan
        images, labels = plan.rows(sources, step)
        if self._graphed is not None:
            return self._graphed.gradient(theta, plan.augmented(images, step), labels)
        leaf = theta.detach().requires_grad_()
        self.problem.student.track(leaf)
        with torch.autocast(**self._autocast):
            return self.problem.student.gradient(leaf, plan.augmented(images.detach(), step), labels)

    def backward_steps(
        self, adjoint: Tensor, lr: Tensor, sources: tuple[Tensor, ...], needed: Needed
    ) -> tuple[Tensor, Tensor | None, list[Tensor | None]]:
        self.problem.student.check_unchanged()
        plan = self.problem.plan
        gradients: list[Tensor | None] = [None] * len(sources)
        lr_gradient = torch.zeros_like(lr) if needed.lr else None
        gaps: dict[int, Tensor] = {}
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
            if step in self._kept:
                _, product, derivatives = self._differentiate(self._kept.pop(step), adjoint, of_leaves)
            else:
                gradient, product, derivatives = self._run_again(step, adjoint, sources, of_leaves)
                gaps[step] = self._gap(step, alpha, gradient)
            if lr_gradient is not None:
                (lr_gradient if lr.ndim == 0 else lr_gradient[step]).sub_(product)
            for source, derivative in ((at.images, derivatives[1]), (at.labels, derivatives[2])):
                if derivative is not None:
                    plan.add(gradients, source, step, -alpha * derivative)
            if derivatives[0] is not None:
                adjoint = adjoint - alpha * derivatives[0]
        self._check_gaps(gaps, sources)
        return adjoint, lr_gradient, gradients

    def _run_again(
        self, step: int, adjoint: Tensor, sources: Sequence[Tensor], of_leaves: tuple[bool, bool, bool]
    ) -> tuple[Tensor, Tensor, tuple[Tensor | None, ...]]:
        """Run step k once more; return g_k and what `_differentiate` returns."""
        with self._replay.replaying(step):
            if self._graphed is None:
                graph = self._graph(step, self.points[step], sources)
                return self._differentiate(graph, adjoint, of_leaves)
        plan = self.problem.plan
        images, labels = plan.rows(sources, step)
        with torch.enable_grad():
            images = images.detach().requires_grad_()
            augmented = plan.augmented(images, step)
        gradient, product, computed = self._graphed.differentiated(self.points[step], augmented, labels, adjoint)
        # Class numbers have no derivative.
        derivatives = [value if is_needed else None for value, is_needed in zip_longest(computed, of_leaves)]
        if augmented is not images and derivatives[1] is not None:
            (derivatives[1],) = torch.autograd.grad(augmented, images, derivatives[1])
        return gradient, product, tuple(derivatives)

    def _graph(self, step: int, theta: Tensor, sources: Sequence[Tensor]) -> _StepGraph:
        """Compute the gradient of step k with its graph."""
        plan, student = self.problem.plan, self.problem.student
        images, labels = plan.rows(sources, step)
        with torch.enable_grad(), torch.autocast(**self._autocast):
            leaf = theta.detach().requires_grad_()
            images = images.detach().requires_grad_()
            labels = labels.detach().requires_grad_(labels.is_floating_point())
            student.track(leaf, images)
            gradient = student.gradient(leaf, plan.augmented(images, step), labels, create_graph=True)
        student.check_leaves(gradient, leaf, images)
        return _StepGraph(leaf, images, labels, gradient)

    def _differentiate(
        self, graph: _StepGraph, adjoint: Tensor, of_leaves: tuple[bool, bool, bool]
    ) -> tuple[Tensor, Tensor, tuple[Tensor | None, ...]]:
        """Compute g = ∇_θ ℓ, s = ⟨g, λ⟩ and the derivatives of s in θ_k, the images and the labels.

        A derivative that `of_leaves` does not ask for is None.
        """
        student = self.problem.student
        leaves = (graph.theta, graph.images, graph.labels)
        inputs = [leaf for leaf, is_needed in zip(leaves, of_leaves, strict=True) if is_needed]
        with torch.enable_grad(), torch.autocast(**self._autocast), student.watching():
            product = torch.dot(graph.gradient, adjoint)
            with derivative_errors(student.name):
                computed = iter(torch.autograd.grad(product, inputs, materialize_grads=True) if inputs else ())
        derivatives = tuple(next(computed) if is_needed else None for is_needed in of_leaves)
        return graph.gradient.detach(), product.detach(), derivatives

    def _gap(self, step: int, alpha: Tensor, gradient: Tensor) -> Tensor:
        """Compare α_k g_k of a second run with θ_k − θ_{k+1} of the first; return their distance, 0-dim.

        Its unit is the largest distance that two runs of one function can have: they agree to half the digits in which
        they compute, and to the rounding of θ_{k+1}. A gradient that is not finite gives NaN and agrees with any other.
        """
        stride = -(-len(gradient) // _CHECKED)
        before, after, gradient = (vector[::stride] for vector in (self.points[step], self.points[step + 1], gradient))
        update = alpha * gradient
        computed_in = self._autocast["dtype"] if self._autocast["enabled"] else update.dtype
        digits = torch.finfo(computed_in).eps ** 0.5
        bound = digits * update.norm() + 2 * torch.finfo(update.dtype).eps * after.norm()
        gap: Tensor = (before - after - update).norm() / bound
        return gap

    def _check_gaps(self, gaps: dict[int, Tensor], sources: Sequence[Tensor]) -> None:
        """Repeat both runs of every step whose second run differed from its first; refuse results that do not recur.

        The second run keeps a graph, and PyTorch then computes some gradients by other formulas. Where these disagree
        by more than rounding, as for a norm of nearly constant numbers, no digit of the gradient is reliable, but both
        runs repeat their results, and a warning is logged.

        Raises:
            InputError: a run does not repeat its result.
        """
        for step, gap in gaps.items():
            if not bool(gap > 1):
                continue
            alpha = self.problem.step_lr(self.problem.lr, step)
            with self._replay.replaying(step):
                as_first = self._constant_gradient(step, self.points[step], sources)
            as_second, _, _ = self._run_again(step, self.points[step], sources, (False, False, False))
            is_first = ~(self._gap(step, alpha, as_first) > 1)
            is_second = ~((self._gap(step, alpha, as_second) - gap).abs() > 1)
            if not bool(is_first & is_second):
                raise InputError(
                    f"{self.problem.student.name} gave another gradient when step {step} ran a second time, so the "
                    "gradient of the matching loss would be wrong; the usual causes are random numbers from NumPy, "
                    "from Python's random or from a torch.Generator of the module's own (PyTorch's global generator "
                    "is replayed, but not if another thread draws from it meanwhile), and attributes that forward "
                    "changes"
                )
            _warn_of_rounding(self.problem.student.name, str(as_first.dtype).removeprefix("torch."))


@lru_cache
def _warn_of_rounding(network: str, dtype: str) -> None:
    _log.warning(
        "gradients of %s in %s are lost in rounding errors: PyTorch computes them in two ways, which disagree, as for "
        "a norm of nearly constant pixels; match in float64, or use backend 'fused' where it runs",
        network,
        dtype,
    )


class _Budget:
    """The memory that the graphs of steps may take."""

    def __init__(self, memory: int, shared: Sequence[Tensor]) -> None:
        self._left = memory
        self._shared = shared
        self._sizes: dict[torch.Size, int] = {}  # of a step's graph in bytes, by the shape of its images
        self._size = 0

    @contextmanager
    def measuring(self, shape: torch.Size, theta: Tensor) -> Iterator[None]:
        """Measure the graph that the body makes, once for each shape; θ and the shared tensors do not count."""
        if shape in self._sizes or not self._left:
            self._size = self._sizes.get(shape, 1)  # 1: nothing is left, so the graph does not fit
            yield
            return
        counter = _SavedBytes((theta, *self._shared))
        with counter:
            yield
        self._size = self._sizes[shape] = counter.bytes

    def take(self) -> bool:
        """Take the memory of the graph measured last; False if it is not left."""
        if self._size > self._left:
            return False
        self._left -= self._size
        return True


class _SavedBytes(saved_tensors_hooks):
    """Adds up the memory of the tensors that autograd saves, but for `shared` ones."""

    def __init__(self, shared: Iterable[Tensor]) -> None:
        super().__init__(self._count, lambda tensor: tensor)
        self._counted = {tensor.untyped_storage().data_ptr() for tensor in shared}
        self.bytes = 0

    def _count(self, tensor: Tensor) -> Tensor:
        storage = tensor.untyped_storage()
        if storage.data_ptr() not in self._counted:
            self._counted.add(storage.data_ptr())
            self.bytes += storage.nbytes()
        return tensor.detach()  # a node that holds its own output would never be freed


def match_torch(problem: Problem) -> Match:
    """Match with backend `torch`."""
    return match_by_sweep(TorchSweep(problem))
