"""`match` and `match_many`: the matching loss of a student trained for N steps, and its gradient.

The backend is chosen here (`choose_backend`).
"""

from __future__ import annotations

import functools
import logging
from collections.abc import Callable, Sequence
from typing import Literal, ParamSpec, TypeVar, get_args

import torch
from torch import Tensor, nn

from pydistill.errors import BackendError, InputError, shown
from pydistill.matching.backends.autograd import match_autograd
from pydistill.matching.backends.fused import (
    match_fused,
    match_many_fused,
    why_not_fused,
    why_not_these_images,
    why_not_trained,
)
from pydistill.matching.backends.torch import match_torch
from pydistill.matching.batches import Batches, BatchPlan
from pydistill.matching.problem import Gradient, Match, Problem, Weights, check_problem
from pydistill.matching.selection import Distance, Selection

Backend = Literal["auto", "fused", "torch", "autograd"]
BACKENDS: tuple[str, ...] = get_args(Backend)

WHY_FUSED = "the adjoint sweep over fused kernels is the fastest"
WHY_TORCH = "the adjoint sweep in PyTorch runs any module in the memory of one step"
WHY_AUTOGRAD = "the whole graph is computed in any dtype"

SWEEP_DTYPES = (torch.float32, torch.float64)

_Arguments = ParamSpec("_Arguments")
_Result = TypeVar("_Result")
_log = logging.getLogger("pydistill")
_runners: dict[str, Callable[[Problem], Match]] = {
    "fused": match_fused,
    "torch": match_torch,
    "autograd": match_autograd,
}
_announced: set[tuple[str, str, str, str]] = set()


def choose_backend(backend: str, model: nn.Module, like: Tensor, plan: BatchPlan | None = None) -> tuple[str, str]:
    """Choose the backend; return its name and the reason. `auto` takes the fastest that supports the model.

    Args:
        like: a tensor with the student's dtype and device.
        plan: the student's batches, if known.

    Raises:
        InputError: no backend has that name.
        BackendError: the backend asked for cannot run here; the message says which can.
    """
    if backend not in BACKENDS:
        raise InputError(f"backend must be one of {', '.join(map(repr, BACKENDS))}, not {backend!r}")
    if backend == "autograd":
        return backend, "asked for"
    if like.dtype not in SWEEP_DTYPES:
        limit = f"it computes in float32 or float64, not {like.dtype}"
        if backend != "auto":
            raise BackendError(f"backend '{backend}' cannot run this: {limit}; backend 'autograd' can")
        return "autograd", f"{WHY_AUTOGRAD}; the sweep cannot: {limit}"
    if backend == "torch":
        return backend, "asked for"
    obstacle = _obstacle(model, like, plan)
    if backend == "fused":
        if obstacle is not None:
            raise BackendError(
                f"backend 'fused' cannot run this: {obstacle}; "
                "backend 'torch' computes the same gradient in the same memory"
            )
        return backend, "asked for"
    if obstacle is None:
        return "fused", WHY_FUSED
    return "torch", f"{WHY_TORCH}; 'fused' cannot: {obstacle}"


def _obstacle(model: nn.Module, like: Tensor, plan: BatchPlan | None) -> str | None:
    """Return why `fused` cannot run this, or None if it can."""
    obstacle = why_not_fused(model, like) or why_not_trained(model)
    return why_not_these_images(model, plan) if obstacle is None and plan is not None else obstacle


def _announce(model: nn.Module, device: torch.device, chosen: str, why: str) -> None:
    """Log the backend that `auto` chose and why, once per network, device and reason."""
    key = (type(model).__name__, str(device), chosen, why)
    if key not in _announced:
        _announced.add(key)
        _log.info("matching %s on %s with backend '%s': %s", *key)


def _outside_inference_mode(function: Callable[_Arguments, _Result]) -> Callable[_Arguments, _Result]:
    """Run a function that is called under `torch.inference_mode` under `torch.no_grad`, as it differentiates itself."""

    @functools.wraps(function)
    def run(*args: _Arguments.args, **kwargs: _Arguments.kwargs) -> _Result:
        if not torch.is_inference_mode_enabled():
            return function(*args, **kwargs)
        with torch.inference_mode(False), torch.no_grad():
            return function(*args, **kwargs)

    return run


@_outside_inference_mode
def match(
    model: nn.Module,
    start: Tensor,
    target: Tensor,
    batches: Batches | Sequence[tuple[Tensor, Tensor]],
    lr: Tensor | float,
    *,
    selection: Selection = "last",
    distance: Distance = "l1",
    gradient: Gradient = "exact",
    label_logits: bool = False,
    backend: str = "auto",
    memory: str | float | None = None,
    weights: Weights | None = None,
) -> Match:
    """Train a student for N steps of SGD and compare its parameters with the expert's.

        θ_{k+1} = θ_k − α_k ∇_θ ℓ(θ_k, X_k, Y_k),    k = 0 … N − 1
        L = Σ w (θ_K − θ*)² / Σ w (θ_0 − θ*)²,    w = 1 without `weights`

    Equivalent to (for hard labels, K = N, w = 1)::

        theta = start
        for images, labels in batches:
            loss = F.cross_entropy(functional_call(model, split(theta), images), labels)
            theta = theta - lr * torch.autograd.grad(loss, theta, create_graph=True)[0]
        loss = (theta - target).square().sum() / (start - target).square().sum()

    Args:
        model: any module whose output is a function of its parameters and the batch; it runs as a copy, and is not
            changed. Frozen parameters (`requires_grad` False) stay at their values in `start`. Batch norm in training
            mode with running statistics is refused. Dropout draws from PyTorch's global generator, the same numbers in
            every backend.
        start: θ_0, [P] in the order of `model.parameters()`.
        target: θ*, [P].
        batches: N pairs (images [B, C, H, W], labels), or a `Batches` recipe. Labels are class numbers [B] (int64) or
            rows [B, K] (floating; non-negative, of any mass).
        lr: α, a number, a 0-dim tensor, or one value per step [N]; its sign is not checked.
        selection: `last` (K = N, MTT) or `nearest` (ATT: the step of 1 … N nearest to the target; ties go to the later
            step).
        distance: d of the selection and of `distances`: `l1` (Σ w|θ − θ*|) or `l2` (√Σ w(θ − θ*)²).
        gradient: `exact`, or `truncated` (a step's dependence on earlier steps through θ_k is dropped, as TESLA does).
        label_logits: label rows are logits; the student trains on their softmax, and the gradient reaches the logits.
        backend: `fused` (adjoint sweep in C++: `ConvNet` with norm instance or none, and `MLP`, with ReLU), `torch`
            (the same sweep in PyTorch, any module), both in memory independent of N and for first derivatives;
            `autograd` (full graph, any order); or `auto`: the fastest that supports the model and the device.
        memory: what `torch` may spend on the graphs of steps, which it then does not run again: "4GB", or "50%" or a
            fraction of the memory that is free. The gradients are the same bits for every budget.
        weights: w ≥ 0, [P], start's dtype and device, a constant: parameters of weight 0 have no part in the loss. Or a
            rule `(arrival, start, target) → w`, which is called once, with θ_K, θ_0 and θ*. The step is then selected
            with w = 1, and the derivative takes w as a constant although θ_K is not, as the published masks do.

    Returns:
        Match(loss, step, distances, backend, weights); `loss.backward()` reaches images, labels, lr, start and target.
        A student that diverges gives a loss that is not finite.

    Raises:
        InputError: an argument is outside its limits; the module has an operation without a second derivative, changes
            its buffers, or gives another gradient when `backward` runs a step again.
        BackendError: the requested backend cannot run this model.

    Source: Cazenavette et al., *Dataset Distillation by Matching Training Trajectories*, CVPR 2022 (MTT); Liu et al.,
    *Dataset Distillation by Automatic Training Trajectories*, ECCV 2024 (selection).
    """
    problem = check_problem(
        model, start, target, batches, lr, selection, distance, gradient, label_logits, memory, weights
    )
    return _runners[_chosen_backend(backend, problem)](problem)


@_outside_inference_mode
def match_many(
    model: nn.Module,
    starts: Sequence[Tensor],
    targets: Sequence[Tensor],
    batches: Sequence[Batches | Sequence[tuple[Tensor, Tensor]]],
    lr: Tensor | float,
    *,
    selection: Selection = "last",
    distance: Distance = "l1",
    gradient: Gradient = "exact",
    label_logits: bool = False,
    backend: str = "auto",
    memory: str | float | None = None,
    weights: Weights | Sequence[Weights | None] | None = None,
) -> list[Match]:
    """Run `match` for several starts and targets of one network.

    On a GPU, backend `fused` runs them concurrently: all are trained before the first choice of step is read back. The
    sum or mean of the losses can be differentiated in one call of `backward`.

    Equivalent to::

        [match(model, *problem, lr) for problem in zip(starts, targets, batches)]

    Args:
        starts: θ_0 of every match, E vectors [P].
        targets: θ* of every match.
        batches: the batches of every match, as in `match`.
        lr: α of all matches, as in `match`.
        selection, distance, gradient, label_logits, backend, memory: as in `match`; each match has a budget of its own.
        weights: of all matches, as in `match`, or a list with the weights of every match.

    Returns:
        E matches, in the order of the starts.

    Raises:
        InputError: the numbers of starts, targets, batches and weights differ or are 0, or an argument is outside its
            limits.
        BackendError: the requested backend cannot run this model.
    """
    for name, several in (("starts", starts), ("targets", targets), ("batches", batches)):
        if not isinstance(several, (Sequence, Tensor)):
            raise InputError(f"{name} must be a list, one for each match, not {shown(several)}")
    if not len(starts) == len(targets) == len(batches) >= 1:
        raise InputError(
            "starts, targets and batches must have one length of at least 1, "
            f"not {len(starts)}, {len(targets)} and {len(batches)}"
        )
    each = weights if isinstance(weights, (list, tuple)) else [weights] * len(starts)
    if len(each) != len(starts):
        raise InputError(f"weights must be one for all matches, or a list of {len(starts)}, not of {len(each)}")
    problems = [
        check_problem(model, start, target, pairs, lr, selection, distance, gradient, label_logits, memory, own)
        for start, target, pairs, own in zip(starts, targets, batches, each, strict=True)
    ]
    chosen = [_chosen_backend(backend, problem) for problem in problems]
    if set(chosen) == {"fused"} and len({problem.start.device for problem in problems}) == 1:
        return match_many_fused(problems)
    return [_runners[name](problem) for name, problem in zip(chosen, problems, strict=True)]


def _chosen_backend(backend: str, problem: Problem) -> str:
    """Choose the backend of this problem; log the choice of `auto`."""
    model, start = problem.student.model, problem.start
    chosen, why = choose_backend(backend, model, start, problem.plan)
    if backend == "auto":
        _announce(model, start.device, chosen, why)
    return chosen
