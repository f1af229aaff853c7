"""The adjoint sweep: the exact hypergradient of a student's unrolled training, in the memory of one step.

The forward sweep stores θ_0 … θ_K and the distances only. The backward sweep starts from
λ_K = 2 w (θ_K − θ*) / Σ w (θ_0 − θ*)², with w = 1 or the weights of the loss, and computes

    for k = K−1 … 0:
        s = ⟨∇_θ ℓ(θ_k, X_k, Y_k), λ_{k+1}⟩
        ∂L/∂X_k = −α_k ∂s/∂X_k      ∂L/∂Y_k = −α_k ∂s/∂Y_k      ∂L/∂α_k = −s
        λ_k = λ_{k+1} − α_k ∂s/∂θ_k

A step's graph exists only while that step is differentiated. The result equals back-propagation through the full
unrolled graph. Differentiating the inner gradient step by step inside a reverse sweep is the idea of MixFlow-MG
(Kemaev et al., ICML 2025); the truncated variant (λ held at λ_K) is what TESLA (Cui et al., ICML 2023) computes.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, ClassVar

import torch
from torch import Tensor

from pydistill.matching.loss import matching_loss, weighted
from pydistill.matching.problem import Match, Problem
from pydistill.matching.selection import distance_from_sums, select_step

Points = Sequence[Tensor] | Tensor
"""θ_0, θ_1, …: vectors [P], or the rows of one tensor."""


class Sweep(ABC):
    """The student's training and the backward sweep through it; a backend runs and differentiates the single steps.

    Attributes:
        backend: the backend's name.
        problem: what is matched.
        points: θ_0 … θ_K after `forward`.
        step: K after `forward`.
        distances: d(θ_k, θ*) for k = 0 … N after `forward`.
        weights: w of the loss after `forward`; None for w = 1.
        stream: the CUDA stream that both sweeps run on; None for the caller's stream.
    """

    backend: ClassVar[str]

    def __init__(self, problem: Problem) -> None:
        self.problem = problem
        self.points: Points = []
        self.step = 0
        self.distances = torch.empty(0)
        self.weights: Tensor | None = None
        self.stream: torch.cuda.Stream | None = None
        self._sums: Tensor | None = None

    @abstractmethod
    def train(self) -> tuple[Points, Tensor]:
        """Train for N steps; return θ_0 … θ_N and the sums [N + 1, 2] = (Σ w|θ_k − θ*|, Σ w(θ_k − θ*)²)."""

    @abstractmethod
    def backward_steps(
        self, adjoint: Tensor, lr: Tensor, sources: tuple[Tensor, ...], needed: Needed
    ) -> tuple[Tensor, Tensor | None, list[Tensor | None]]:
        """Carry λ_K back to step 0; return (λ_0, ∂L/∂α in the shape of lr, ∂L/∂source of each source).

        A gradient that is not needed is None.
        """

    @contextmanager
    def on_stream(self) -> Iterator[None]:
        """Run the body on the sweep's stream."""
        if self.stream is None:
            yield
            return
        with torch.cuda.stream(self.stream):
            yield

    def join(self, results: Iterable[Tensor | None]) -> None:
        """Make the caller's stream wait for the sweep's, and record that it uses `results`."""
        if self.stream is None:
            return
        caller_stream = torch.cuda.current_stream(self.stream.device)
        caller_stream.wait_stream(self.stream)
        for result in results:
            if result is not None:
                result.record_stream(caller_stream)

    @torch.no_grad()
    def launch(self) -> None:
        """Train the student for N steps; on a GPU this only queues the work."""
        self.points, self._sums = self.train()

    @torch.no_grad()
    def forward(self) -> Tensor:
        """Train the student unless `launch` has done so, select K, drop the points after θ_K; return L."""
        if self._sums is None:
            self.launch()
        assert self._sums is not None
        self.distances = distance_from_sums(self._sums, self.problem.distance)
        self.step = select_step(self.distances, self.problem.selection)
        self.points = self.points[: self.step + 1]
        self.weights = self.problem.loss_weights(self.points[-1])
        return matching_loss(self.points[-1], self.points[0], self.problem.target.detach(), self.weights)

    def backward(
        self, loss: Tensor, target: Tensor, lr: Tensor, sources: tuple[Tensor, ...], needed: tuple[bool, ...]
    ) -> list[Tensor | None]:
        """Sweep from step K to 0; return ∂L/∂(start, target, lr, *sources), None where not `needed`."""
        of_steps = Needed(needed[0], needed[2], needed[3:])
        offset = self.points[0] - target
        scale = 2.0 / weighted(offset.square(), self.weights).sum()
        arrival_adjoint = weighted(scale * (self.points[-1] - target), self.weights)
        adjoint, lr_gradient, gradients = self.backward_steps(arrival_adjoint, lr, sources, of_steps)
        normaliser = weighted(loss * scale * offset, self.weights)
        start_gradient = adjoint - normaliser if of_steps.start else None
        target_gradient = normaliser - arrival_adjoint if needed[1] else None
        return [start_gradient, target_gradient, lr_gradient, *gradients]


@dataclass(frozen=True)
class Needed:
    """The gradients that the backward sweep must compute."""

    start: bool
    lr: bool
    sources: tuple[bool, ...]


class _FirstDerivativeOnly(torch.autograd.Function):
    """The identity on a gradient; differentiating it raises, where it would otherwise give a silent zero."""

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
        with sweep.on_stream():
            loss = sweep.forward()
        sweep.join([loss, sweep.distances, sweep.weights])
        ctx.sweep = sweep
        # The same tensors as in the sweep. Saved here, autograd raises if one was changed in place before backward.
        ctx.save_for_backward(loss, start, target, lr, sweep.weights, *sources)
        return loss

    @staticmethod
    def backward(ctx: Any, grad_loss: Tensor) -> tuple[Tensor | None, ...]:
        loss, start, target, lr, _, *sources = ctx.saved_tensors
        sweep, needed = ctx.sweep, ctx.needs_input_grad[1:]
        with torch.no_grad():
            with sweep.on_stream():  # needs nothing that the forward sweep did not already wait for
                gradients = sweep.backward(loss, target, lr, tuple(sources), needed)
            sweep.join(gradients)
            gradients = [None if gradient is None else gradient * grad_loss for gradient in gradients]
        if torch.is_grad_enabled():
            inputs = (start, target, lr, *sources)
            leaves = [tensor for tensor, is_needed in zip(inputs, needed, strict=True) if is_needed]
            gradients = [
                gradient if gradient is None else _FirstDerivativeOnly.apply(sweep.backend, gradient, *leaves)
                for gradient in gradients
            ]
        return None, *gradients


def match_by_sweep(sweep: Sweep) -> Match:
    """Match with an adjoint sweep.

    Memory: θ_0 … θ_N and one step's activations, for any N.

    Derivatives: first order in start, target, lr, images and label rows; a second one raises RuntimeError.
    """
    problem = sweep.problem
    loss = _AdjointMatching.apply(sweep, problem.start, problem.target, problem.lr, *problem.plan.sources)
    return Match(loss, sweep.step, sweep.distances, sweep.backend, sweep.weights)
