"""Refuse operations that have no second derivative, by name: PyTorch leaves some of them out without an error."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import BackwardCFunction

from pydistill._util.format import first_line
from pydistill._util.memory import is_out_of_memory
from pydistill.errors import InputError

_ERROR = "torch::autograd::Error"
_MISSING = (_ERROR, "torch::autograd::NotImplemented", "WarnNotImplemented")


def checked_gradient(
    loss: Tensor, theta: Tensor, gradient_of: Callable[[], Tensor | None], network: str, *, rehearse: bool
) -> Tensor:
    """Compute ∇_θ ℓ, and check that its graph, if it has one, is complete.

    Args:
        loss: ℓ, with its graph.
        theta: θ.
        gradient_of: computes ∇_θ ℓ from it; None if ℓ does not depend on θ.
        network: the network's name, for the message.
        rehearse: differentiate the gradient once if others' operations take part, whose backward passes may raise then.

    Raises:
        InputError: ℓ does not depend on θ, or an operation has no second derivative; the message names it.
    """
    custom = [node for node in _nodes(loss) if _is_custom(node)]
    if any(_name(node) == "CheckpointFunction" for node in custom):
        raise InputError(
            f"{network} checkpoints its activations with use_reentrant=True, which hides its parameters; "
            "call checkpoint with use_reentrant=False"
        )
    cut: list[str] = []
    hooks = [node.register_hook(_recorder(node, cut)) for node in custom]
    gradient = gradient_of() if loss.requires_grad else None
    for hook in hooks:
        hook.remove()
    if gradient is None:
        raise InputError(f"the logits of {network} do not depend on its parameters, so there is nothing to train")
    cut += [_operation(node) for node in _nodes(gradient) if node.name() in _MISSING]
    if cut:
        raise _no_second_derivative(network, f"PyTorch has no derivative of the gradient of {cut[0]}")
    if rehearse and custom and gradient.requires_grad:
        with derivative_errors(network):
            torch.autograd.grad(gradient.sum(), theta, retain_graph=True, allow_unused=True)
    return gradient


def check_leaves(gradient: Tensor, others: list[Tensor], network: str) -> None:
    """Raise InputError if ∇_θ ℓ of one step depends on a leaf of another step's graph."""
    variables = {id(getattr(node, "variable", None)) for node in _nodes(gradient)} if others else set()
    if any(id(leaf) in variables for leaf in others):
        raise InputError(
            f"{network} computes with a tensor that an earlier step stored, and the gradient through it would be "
            "lost: store it detached, compute it in every step, or use backend 'autograd'"
        )


@contextmanager
def derivative_errors(network: str) -> Iterator[None]:
    """Turn an error of PyTorch's about a derivative into an InputError with the remedy."""
    try:
        yield
    except RuntimeError as error:
        if is_out_of_memory(error):
            raise
        raise _no_second_derivative(network, first_line(error)) from error


def _no_second_derivative(network: str, reason: str) -> InputError:
    return InputError(
        f"{network} cannot be differentiated twice, which the matching gradient needs: {reason}; "
        "replace the layer that uses it"
    )


def _nodes(output: Tensor) -> list[Any]:
    """List the nodes of the graph that computed a tensor."""
    seen: dict[Any, None] = {}
    ahead = [output.grad_fn]
    while ahead:
        node = ahead.pop()
        if node is not None and node not in seen:
            seen[node] = None
            ahead += [following for following, _ in node.next_functions]
    return list(seen)


def _is_custom(node: Any) -> bool:
    """Return True for an `autograd.Function`, whose backward pass need not be differentiable."""
    return isinstance(node, BackwardCFunction) or "CppNode" in type(node).__name__


def _name(node: Any) -> str:
    return type(node).__name__.removesuffix("Backward")


def _recorder(node: Any, cut: list[str]) -> Callable[..., None]:
    """Return a hook that records the node's name if its backward pass lost the graph."""

    def record(gradients: tuple[Tensor | None, ...], of_outputs: tuple[Tensor | None, ...]) -> None:
        if not any(gradient is not None and gradient.requires_grad for gradient in of_outputs):
            return
        for gradient in gradients:
            if gradient is None or not bool(gradient.any()):
                continue
            if gradient.grad_fn is None or gradient.grad_fn.name() == _ERROR:
                cut.append(_name(node))

    return record


def _operation(node: Any) -> str:
    """Name the operation that a placeholder in the graph stands for."""
    try:
        node(torch.zeros(()))
    except RuntimeError as error:
        return first_line(error)
    return str(node.name())
