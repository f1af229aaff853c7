"""The checked input of every backend (`Problem`) and its output (`Match`)."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from numbers import Real
from typing import Literal, get_args

import torch
from torch import Tensor, nn

from pydistill._util.checks import check_instance, check_tensor
from pydistill._util.memory import memory_budget
from pydistill.errors import InputError, shown
from pydistill.matching.batches import Batches, BatchPlan, plan_of
from pydistill.matching.functional import FunctionalStudent
from pydistill.matching.selection import DISTANCES, SELECTIONS, Distance, Selection

Gradient = Literal["exact", "truncated"]
GRADIENTS: tuple[str, ...] = get_args(Gradient)

WeightRule = Callable[[Tensor, Tensor, Tensor], Tensor]
"""Makes w [P] of (θ_K, θ_0, θ*), constants of shape [P]."""
Weights = Tensor | WeightRule


@dataclass(frozen=True)
class Problem:
    """One matching problem: the student, its start, the target, its batches, and how they are compared.

    `memory` is the number of bytes that backend `torch` may spend on the graphs of steps, or None.
    """

    student: FunctionalStudent
    start: Tensor
    target: Tensor
    plan: BatchPlan
    lr: Tensor
    selection: Selection
    distance: Distance
    gradient: Gradient
    memory: int | None
    weights: Weights | None

    @property
    def steps(self) -> int:
        """N."""
        return len(self.plan)

    @property
    def distance_weights(self) -> Tensor | None:
        """w of the distances: None, for w = 1, if a rule makes the weights from the step that the distances select."""
        return self.weights if isinstance(self.weights, Tensor) else None

    @torch.no_grad()
    def loss_weights(self, arrival: Tensor) -> Tensor | None:
        """Return w of the loss, or None for w = 1; a rule makes it from θ_K.

        Raises:
            InputError: the rule returns no valid weights.
        """
        if self.weights is None or isinstance(self.weights, Tensor):
            return self.weights
        points = arrival.detach(), self.start.detach(), self.target.detach()
        weights = self.weights(*points)
        _check_weights("weights, as the rule returns them,", weights, self.start, self.target)
        return weights

    def step_lr(self, lr: Tensor, step: int) -> Tensor:
        """Return α of step k, 0-dim, from a scalar or a per-step learning rate."""
        return lr if lr.ndim == 0 else lr[step]


@dataclass(frozen=True)
class Match:
    """The result of `match`.

    Attributes:
        loss: L, 0-dim; `loss.backward()` reaches images, labels, lr, start and target.
        step: K, the student step that entered the loss, 1 ≤ K ≤ N.
        distances: d(θ_k, θ*) for k = 0 … N, float64 [N + 1], a constant.
        backend: the backend that ran.
        weights: w of the loss, a constant, [P]; None for w = 1.
    """

    loss: Tensor
    step: int
    distances: Tensor
    backend: str
    weights: Tensor | None = None

    @property
    def matched(self) -> float | None:
        """The share of the parameters with a weight above 0; None for w = 1."""
        return None if self.weights is None else float(self.weights.count_nonzero()) / len(self.weights)

    def __repr__(self) -> str:
        loss, steps = float(self.loss.detach()), len(self.distances) - 1
        return f"Match(loss={loss:.6g}, step={self.step} of {steps}, backend={self.backend!r})"


def check_problem(
    model: nn.Module,
    start: Tensor,
    target: Tensor,
    batches: Batches | Sequence[tuple[Tensor, Tensor]],
    lr: Tensor | float,
    selection: Selection,
    distance: Distance,
    gradient: Gradient,
    label_logits: bool,
    memory: str | float | None,
    weights: Weights | None,
) -> Problem:
    """Check every argument of `match` and normalise them into a Problem.

    Values (label range, finite pixels) are checked on the CPU only: on a GPU that would synchronise with the device.

    Raises:
        InputError: an argument is outside its limits; the message names both.
    """
    _check_choice("selection", selection, SELECTIONS)
    _check_choice("distance", distance, DISTANCES)
    _check_choice("gradient", gradient, GRADIENTS)
    if not isinstance(label_logits, bool):
        raise InputError(f"label_logits must be True or False, not {shown(label_logits)}")
    check_instance("model", model, nn.Module, "a torch.nn.Module")
    student = FunctionalStudent(model)
    _check_points(start, target, student.layout.total)
    if weights is not None and (isinstance(weights, Tensor) or not callable(weights)):
        _check_weights("weights", weights, start, target)
    plan = plan_of(batches, label_logits)
    if len(plan) == 0:
        raise InputError("batches is empty; the student needs at least one step (N ≥ 1)")
    if not isinstance(lr, Tensor):
        if not isinstance(lr, Real) or isinstance(lr, bool):
            raise InputError(f"lr must be a number or a floating tensor, not {shown(lr)}")
        lr = torch.tensor(float(lr), dtype=start.dtype)
        _check_rate(lr)
        lr = lr.to(start.device)
    check_tensor("lr", lr)
    if lr.shape not in ((), (len(plan),)):
        raise InputError(f"lr must be a scalar or have one value per step [{len(plan)}], not shape {list(lr.shape)}")
    if not lr.is_floating_point():
        raise InputError(f"lr must be a floating tensor, not {lr.dtype}")
    _check_rate(lr)
    _check_sources(plan, start)
    lr = lr.to(dtype=start.dtype, device=start.device)
    budget = memory_budget(memory, start.device)
    return Problem(student, start, target, plan, lr, selection, distance, gradient, budget, weights)


def _check_rate(lr: Tensor) -> None:
    if lr.device.type == "cpu" and not all(map(math.isfinite, lr.detach().flatten().tolist())):
        raise InputError(f"lr must be finite, not {lr.tolist()}")


def _check_choice(name: str, value: str, choices: tuple[str, ...]) -> None:
    if value not in choices:
        raise InputError(f"{name} must be one of {', '.join(map(repr, choices))}, not {value!r}")


def _check_points(start: Tensor, target: Tensor, total: int) -> None:
    for name, point in (("start", start), ("target", target)):
        check_tensor(name, point, f"the network's {total} parameters as one vector [{total}]")
        if point.shape != (total,):
            raise InputError(
                f"{name} must be the network's {total} parameters as one vector [{total}], "
                f"not shape {list(point.shape)}"
            )
        if not point.is_floating_point():
            raise InputError(f"{name} must be a floating tensor, not {point.dtype}")
        if point.device.type == "cpu" and not bool(torch.isfinite(point.detach()).all()):
            raise InputError(f"{name} holds parameters that are not finite")
    if (start.dtype, start.device) != (target.dtype, target.device):
        raise InputError(
            f"start ({start.dtype} on {start.device}) and target ({target.dtype} on {target.device}) "
            "must have the same dtype and device"
        )
    if start.device.type == "cpu" and torch.equal(start, target):
        raise InputError("start and target are equal, and the loss divides by their squared distance")


def _check_weights(name: str, weights: Tensor, start: Tensor, target: Tensor) -> None:
    check_tensor(name, weights, "a vector [P] with a weight for each parameter")
    if weights.shape != start.shape:
        raise InputError(f"{name} must have start's shape {list(start.shape)}, not {list(weights.shape)}")
    if (weights.dtype, weights.device) != (start.dtype, start.device):
        raise InputError(
            f"{name} ({weights.dtype} on {weights.device}) must have the dtype and device of start "
            f"({start.dtype} on {start.device})"
        )
    if weights.requires_grad:
        raise InputError(f"{name} must not require a gradient, as the loss has no derivative in them; detach them")
    if weights.device.type != "cpu":
        return
    low, high = (float(bound) for bound in weights.aminmax())
    if not (math.isfinite(low) and math.isfinite(high) and low >= 0):
        raise InputError(f"{name} must be finite and at least 0, but they range from {low:g} to {high:g}")
    if not bool((weights * (start - target).detach().square()).sum() != 0):
        raise InputError(
            f"{name} must not be 0 wherever start and target differ, as the loss divides by their weighted distance"
        )


def _check_sources(plan: BatchPlan, start: Tensor) -> None:
    checked: set[int] = set()
    for step, at in enumerate(plan.steps):
        images, labels = plan.sources[at.images], plan.sources[at.labels]
        if images.ndim < 2 or images.shape[0] == 0:
            raise InputError(f"images of step {step} must have shape [B, …] with B ≥ 1, not {list(images.shape)}")
        if labels.ndim not in (1, 2) or labels.shape[0] != images.shape[0]:
            raise InputError(
                f"labels of step {step} must be [B] or [B, K] with B = {images.shape[0]}, not {list(labels.shape)}"
            )
        for source, check in ((at.images, _check_images), (at.labels, _check_labels)):
            if source not in checked:
                checked.add(source)
                check(plan.sources[source], start, step)


def _check_images(images: Tensor, start: Tensor, step: int) -> None:
    if (images.dtype, images.device) != (start.dtype, start.device):
        raise InputError(
            f"images of step {step} ({images.dtype} on {images.device}) must have the dtype and device of start "
            f"({start.dtype} on {start.device})"
        )
    if images.device.type == "cpu" and not bool(torch.isfinite(images.detach()).all()):
        raise InputError(f"images of step {step} hold pixels that are not finite")


def _check_labels(labels: Tensor, start: Tensor, step: int) -> None:
    if labels.device != start.device:
        raise InputError(f"labels of step {step} are on {labels.device} and start is on {start.device}; move one")
    if labels.ndim == 1:
        if labels.dtype != torch.int64:
            raise InputError(f"hard labels of step {step} must be int64 class numbers, not {labels.dtype}")
        if labels.device.type == "cpu" and int(labels.min()) < 0:
            raise InputError(f"hard labels of step {step} must be at least 0, not {int(labels.min())}")
    elif labels.dtype != start.dtype:
        raise InputError(f"label rows of step {step} must have start's dtype {start.dtype}, not {labels.dtype}")
    elif labels.device.type == "cpu" and labels.numel():
        low, high = (float(bound) for bound in labels.detach().aminmax())
        if not (math.isfinite(low) and math.isfinite(high)):
            raise InputError(f"label rows of step {step} hold values that are not finite")
        if low < 0:
            raise InputError(
                f"label rows of step {step} must not be negative, but one is {low:g}; logits need label_logits=True"
            )
