"""The adjoint sweep: the exact hypergradient of a student's unrolled training at the memory of one step.

Forward, only θ_0 … θ_K and the distances are kept. Backward, with λ_K = 2 (θ_K − θ*) / ‖θ_0 − θ*‖²,

    for k = K−1 … 0:
        s = ⟨∇_θ ℓ(θ_k, X_k, Y_k), λ_{k+1}⟩
        ∂L/∂X_k = −α_k ∂s/∂X_k      ∂L/∂Y_k = −α_k ∂s/∂Y_k      ∂L/∂α_k = −s
        λ_k = λ_{k+1} − α_k ∂s/∂θ_k

so that each step's graph lives only while that step is differentiated. It equals back-propagation through the whole
unrolled graph. The idea of differentiating the inner gradient step by step inside a reverse sweep is that of MixFlow-MG
(Kemaev et al., ICML 2025); the truncated variant (λ held at λ_K) is what TESLA (Cui et al., ICML 2023) computes.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, ClassVar, cast

import torch
from torch import Tensor

from pydistill import ops
from pydistill.matching.loss import matching_loss
from pydistill.matching.problem import Match, Problem
from pydistill.matching.selection import distance_from_sums, distance_sums, select_step
from pydistill.matching.student import RandomReplay

Points = Sequence[Tensor] | Tensor
"""θ_0, θ_1, …: vectors [P], or the rows of one tensor."""


class Sweep(ABC):
    """The student's training and the way back through it; a backend says how a step is taken and differentiated.

    Attributes:
        backend: the backend's name.
        problem: what is matched.
        points: θ_0 … θ_K after `forward`.
        step: K after `forward`.
        distances: d(θ_k, θ*) for k = 0 … N after `forward`.
        stream: the CUDA stream that both sweeps run on, beside the caller's; None for the caller's own.
    """

    backend: ClassVar[str]

    def __init__(self, problem: Problem) -> None:
        self.problem = problem
        self.points: Points = []
        self.step = 0
        self.distances = torch.empty(0)
        self.stream: torch.cuda.Stream | None = None
        self._sums: Tensor | None = None

    @abstractmethod
    def train(self) -> tuple[Points, Tensor]:
        """θ_0 … θ_N, and the sums [N + 1, 2] = (Σ|θ_k − θ*|, Σ(θ_k − θ*)²)."""

    @abstractmethod
    def go_back(
        self, adjoint: Tensor, lr: Tensor, sources: tuple[Tensor, ...], needed: Needed
    ) -> tuple[Tensor, Tensor | None, list[Tensor | None]]:
        """From λ_K: (λ_0, ∂L/∂α in the shape of lr, ∂L/∂source of each source); None where not needed."""

    @contextmanager
    def beside(self) -> Iterator[None]:
        """Run the body on the sweep's stream."""
        if self.stream is None:
            yield
            return
        with torch.cuda.stream(self.stream):
            yield

    def join(self, results: Iterable[Tensor | None]) -> None:
        """Let the caller's stream wait for the sweep's and use what was made there."""
        if self.stream is None:
            return
        callers = torch.cuda.current_stream(self.stream.device)
        callers.wait_stream(self.stream)
        for each in results:
            if each is not None:
                each.record_stream(callers)

    @torch.no_grad()
    def launch(self) -> None:
        """Train the student for N steps: on a GPU this queues the work and waits for nothing."""
        self.points, self._sums = self.train()

    @torch.no_grad()
    def forward(self) -> Tensor:
        """Train the student, unless it was launched; select K, keep θ_0 … θ_K; returns L."""
        if self._sums is None:
            self.launch()
        assert self._sums is not None
        self.distances = distance_from_sums(self._sums, self.problem.distance)
        self.step = select_step(self.distances, self.problem.selection)
        self.points = self.points[: self.step + 1]
        return matching_loss(self.points[-1], self.points[0], self.problem.target.detach())

    def backward(
        self, loss: Tensor, target: Tensor, lr: Tensor, sources: tuple[Tensor, ...], needed: tuple[bool, ...]
    ) -> list[Tensor | None]:
        """Go back from step K to 0; returns ∂L/∂(start, target, lr, *sources), None where not `needed`."""
        wanted = Needed(needed[0], needed[2], needed[3:])
        offset = self.points[0] - target
        scale = 2.0 / offset.square().sum()
        arrival_adjoint = scale * (self.points[-1] - target)
        adjoint, lr_gradient, gradients = self.go_back(arrival_adjoint, lr, sources, wanted)
        normaliser = loss * scale * offset
        start_gradient = adjoint - normaliser if wanted.start else None
        target_gradient = normaliser - arrival_adjoint if needed[1] else None
        return [start_gradient, target_gradient, lr_gradient, *gradients]


@dataclass(frozen=True)
class Needed:
    """Which gradients the sweep back has to find."""

    start: bool
    lr: bool
    sources: tuple[bool, ...]


class TorchSweep(Sweep):
    """Each step in PyTorch, for any module; the step's graph lives while that step is differentiated."""

    backend = "torch"

    def __init__(self, problem: Problem) -> None:
        super().__init__(problem)
        self.replay = RandomReplay(problem.start.device)
        device = problem.start.device.type
        # The precision that the forward sweep runs in; whoever calls backward may have left it.
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

    def go_back(
        self, adjoint: Tensor, lr: Tensor, sources: tuple[Tensor, ...], needed: Needed
    ) -> tuple[Tensor, Tensor | None, list[Tensor | None]]:
        self.problem.student.check_unchanged()
        plan = self.problem.plan
        gradients: list[Tensor | None] = [None] * len(sources)
        lr_gradient = torch.zeros_like(lr) if needed.lr else None
        for step in reversed(range(self.step)):
            at = plan.steps[step]
            wants = (
                self.problem.gradient == "exact" and (step > 0 or needed.start),
                needed.sources[at.images],
                needed.sources[at.labels],
            )
            if not (needed.lr or any(wants)):
                continue
            alpha = self.problem.step_lr(lr, step)
            product, leaves = self._differentiate(step, adjoint, sources, wants)
            if lr_gradient is not None:
                (lr_gradient if lr.ndim == 0 else lr_gradient[step]).sub_(product)
            for source, leaf in ((at.images, leaves[1]), (at.labels, leaves[2])):
                if leaf is not None:
                    plan.add(gradients, source, step, -alpha * leaf)
            if leaves[0] is not None:
                adjoint = adjoint - alpha * leaves[0]
        return adjoint, lr_gradient, gradients

    def _differentiate(
        self, step: int, adjoint: Tensor, sources: tuple[Tensor, ...], wants: tuple[bool, bool, bool]
    ) -> tuple[Tensor, tuple[Tensor | None, Tensor | None, Tensor | None]]:
        """s = ⟨∇_θ ℓ, λ⟩ of step k and its derivatives in θ_k, the images (before augmentation) and the labels."""
        plan, student = self.problem.plan, self.problem.student
        images, labels = plan.rows(sources, step)
        with torch.enable_grad(), torch.autocast(**self.autocast), self.replay.replaying(step):
            leaves = (
                self.points[step].detach().requires_grad_(),
                images.detach().requires_grad_(wants[1]),
                labels.detach().requires_grad_(wants[2]),
            )
            loss = student.loss(leaves[0], plan.augmented(leaves[1], step), leaves[2])
            (gradient,) = torch.autograd.grad(loss, leaves[0], create_graph=any(wants), materialize_grads=True)
            product = torch.dot(gradient, adjoint)
            inputs = [leaf for leaf, wanted in zip(leaves, wants, strict=True) if wanted]
            with student.second_derivative():
                found = iter(torch.autograd.grad(product, inputs, materialize_grads=True) if inputs else ())
        derivatives = tuple(next(found) if wanted else None for wanted in wants)
        return product.detach(), cast(tuple[Tensor | None, Tensor | None, Tensor | None], derivatives)


class _FirstDerivativeOnly(torch.autograd.Function):
    """The identity on a gradient whose own derivative raises, where it would otherwise be a silent zero."""

    @staticmethod
    def forward(ctx: Any, backend: str, gradient: Tensor, *inputs: Tensor) -> Tensor:
        ctx.backend = backend
        return gradient.view_as(gradient)

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        raise RuntimeError(
            f"backend '{ctx.backend}' gives first derivatives only; backend 'autograd' gives derivatives of any order"
        )


class _AdjointMatching(torch.autograd.Function):
    """L as a function of (start, target, lr, *sources); a second derivative raises."""

    @staticmethod
    def forward(ctx: Any, sweep: Sweep, start: Tensor, target: Tensor, lr: Tensor, *sources: Tensor) -> Tensor:
        with sweep.beside():
            loss = sweep.forward()
        sweep.join([loss, sweep.distances])
        ctx.sweep = sweep
        ctx.save_for_backward(loss, start, target, lr, *sources)
        return loss

    @staticmethod
    def backward(ctx: Any, grad_loss: Tensor) -> tuple[Tensor | None, ...]:
        loss, start, target, lr, *sources = ctx.saved_tensors
        sweep, needed = ctx.sweep, ctx.needs_input_grad[1:]
        with torch.no_grad():
            with sweep.beside():  # which needs nothing of the caller's stream that the way forward did not wait for
                gradients = sweep.backward(loss, target, lr, tuple(sources), needed)
            sweep.join(gradients)
            gradients = [None if each is None else each * grad_loss for each in gradients]
        if torch.is_grad_enabled():
            inputs = (start, target, lr, *sources)
            leaves = [each for each, wanted in zip(inputs, needed, strict=True) if wanted]
            gradients = [
                each if each is None else _FirstDerivativeOnly.apply(sweep.backend, each, *leaves) for each in gradients
            ]
        return None, *gradients


def match_by_sweep(sweep: Sweep) -> Match:
    """Match with an adjoint sweep; holds the student's parameter vectors and one step's activations, whatever N.

    Derivatives: first order in start, target, lr, images and label rows; a second one raises RuntimeError.
    """
    problem = sweep.problem
    loss = _AdjointMatching.apply(sweep, problem.start, problem.target, problem.lr, *problem.plan.sources)
    return Match(loss, sweep.step, sweep.distances, sweep.backend)


def match_torch(problem: Problem) -> Match:
    """Match with backend `torch`."""
    return match_by_sweep(TorchSweep(problem))
