"""A network's loss as a function of a flat parameter vector and a batch."""

from __future__ import annotations

import re
from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch import Tensor, nn
from torch.func import functional_call

from pydistill._util.format import first_line
from pydistill.errors import InputError
from pydistill.matching.loss import student_loss
from pydistill.nn.flat import ParameterLayout, layout_of


class FunctionalStudent:
    """ℓ(θ, X, Y) of a module whose parameters are replaced by the flat vector θ [P].

    A module that changes its buffers while it runs (batch norm's running statistics in training mode) is refused: it is
    not a function of θ and the batch alone, so the backward sweep could not rerun its steps.

    Raises:
        InputError: the module has no parameters or keeps batch statistics in training mode.
    """

    def __init__(self, model: nn.Module) -> None:
        for name, module in model.named_modules():
            if isinstance(module, nn.modules.batchnorm._BatchNorm) and module.training and module.track_running_stats:
                raise InputError(
                    f"module '{name}' is a batch norm in training mode whose running statistics change at every step; "
                    "use an instance norm, track_running_stats=False, or model.eval() before matching"
                )
        self.model = model
        self.layout: ParameterLayout = layout_of(model)
        if not self.layout.names:
            raise InputError(f"{type(model).__name__} has no parameters to train")
        self._modes = [module.training for module in model.modules()]
        self._buffers = self._snapshot()

    def loss(self, theta: Tensor, images: Tensor, labels: Tensor) -> Tensor:
        """ℓ(θ, X, Y), a scalar; differentiable as often as the module is."""
        try:
            logits = functional_call(self.model, self.layout.split(theta), (images,))
        except torch.OutOfMemoryError:
            raise
        except RuntimeError as error:
            if "can't allocate memory" in str(error):
                raise
            raise InputError(
                f"{type(self.model).__name__} cannot run on images of shape {list(images.shape)}: {first_line(error)}"
            ) from error
        _check_logits(logits, labels)
        return student_loss(logits, labels)

    def gradient(self, theta: Tensor, images: Tensor, labels: Tensor) -> Tensor:
        """g = ∇_θ ℓ(θ, X, Y) as a constant, [P]; no graph is kept."""
        with torch.enable_grad():
            leaf = theta.detach().requires_grad_()
            loss = self.loss(leaf, images, labels)
            return torch.autograd.grad(loss, leaf, materialize_grads=True)[0]

    @contextmanager
    def second_derivative_errors(self) -> Iterator[None]:
        """Turn PyTorch's error about an operation without a second derivative into an InputError with the remedy."""
        try:
            yield
        except RuntimeError as error:
            missing = re.search(r"derivative for (\S+) is not implemented", str(error))
            if missing is None:
                raise
            remedy = "replace the layer that uses it"
            if "attention" in missing[1]:
                remedy = "call attention within torch.nn.attention.sdpa_kernel(SDPBackend.MATH) in the module's forward"
            raise InputError(
                f"{type(self.model).__name__} cannot be differentiated twice, which the matching gradient needs: "
                f"PyTorch has no derivative of {missing[1]}; {remedy}"
            ) from error

    def check_unchanged(self) -> None:
        """Raise InputError if the module's modes or buffers have changed since this object was made."""
        if self._modes != [module.training for module in self.model.modules()]:
            raise InputError(
                f"{type(self.model).__name__} was switched between training and evaluation mode after the student "
                "trained, so its steps cannot be run again; call backward before model.train() or model.eval()"
            )
        now = self._snapshot()
        for name in sorted(self._buffers.keys() | now.keys()):
            before, after = self._buffers.get(name), now.get(name)
            # written in place, or replaced by another tensor
            if before is None or after is None or before[0] is not after[0] or before[1] != after[1]:
                raise InputError(
                    f"buffer '{name}' of {type(self.model).__name__} changed while the student trained, "
                    "so its steps cannot be run again; call model.eval() or remove what updates it"
                )

    def _snapshot(self) -> dict[str, tuple[Tensor, int]]:
        return {name: (buffer, buffer._version) for name, buffer in self.model.named_buffers()}


def _check_logits(logits: Tensor, labels: Tensor) -> None:
    if logits.ndim != 2 or logits.shape[0] != labels.shape[0]:
        raise InputError(
            f"the model must return logits [B, K] for B = {labels.shape[0]} images, not shape {list(logits.shape)}"
        )
    classes = logits.shape[1]
    if labels.ndim == 2:
        if labels.shape[1] != classes:
            raise InputError(f"label rows have {labels.shape[1]} classes, the model's logits {classes}")
    elif labels.device.type == "cpu" and int(labels.max()) >= classes:
        raise InputError(f"hard labels must lie in [0, {classes - 1}] for {classes} classes, found {int(labels.max())}")


class RandomReplay:
    """Makes a module that draws random numbers (dropout) draw the same ones in both sweeps.

    Stores the states of the global generators (the device's, and the CPU's, which modules on a GPU may use too) before
    each step, unless the first step shows that the module draws none.
    """

    def __init__(self, device: torch.device) -> None:
        self._device = device
        self._states: list[tuple[Tensor, ...]] | None = []

    def _state(self) -> tuple[Tensor, ...]:
        if self._device.type == "cuda":
            return torch.get_rng_state(), torch.cuda.get_rng_state(self._device)
        return (torch.get_rng_state(),)

    def before_step(self) -> None:
        """Store the generators' states before a step of the forward sweep."""
        if self._states is not None:
            self._states.append(self._state())

    def after_first_step(self) -> None:
        """Stop storing states if the first step drew no random numbers."""
        if self._states is not None and all(map(torch.equal, self._states[0], self._state())):
            self._states = None

    @contextmanager
    def replaying(self, step: int) -> Iterator[None]:
        """Run the body with the generators in the state that step k saw, then restore them."""
        if self._states is None:
            yield
            return
        devices = [self._device] if self._device.type == "cuda" else []
        with torch.random.fork_rng(devices):
            torch.set_rng_state(self._states[step][0])
            if self._device.type == "cuda":
                torch.cuda.set_rng_state(self._states[step][1], self._device)
            yield
