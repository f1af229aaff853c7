"""Loss and gradient of a network in training, and its logits in a test, by the C++ engine or by PyTorch.

The engine runs ConvNet (norm instance or none) and MLP with ReLU, in float32 and float64, on devices that it has
kernels for. PyTorch runs every other network, and those with frozen parameters.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional

from pydistill.data.pictures import Pictures
from pydistill.engine.student import fused_student, why_not_fused
from pydistill.nn.flat import flatten, unflatten

DTYPES = (torch.float32, torch.float64)


class TorchGradients:
    """Gradients by PyTorch, for any network; `parameters`, which the optimiser updates, are its trainable ones."""

    def __init__(self, model: nn.Module) -> None:
        self._model = model
        self.parameters = [parameter for parameter in model.parameters() if parameter.requires_grad]

    def gradient(self, images: Tensor, labels: Tensor) -> tuple[Tensor, Tensor]:
        """Return the mean loss [] and the logits [B, K] as constants; write the gradients to the parameters' `grad`."""
        for parameter in self.parameters:
            parameter.grad = None
        logits = self._model(images)
        loss = functional.cross_entropy(logits, labels)
        loss.backward()  # type: ignore[no-untyped-call]
        return loss.detach(), logits.detach()

    def to_model(self) -> None:
        """Copy the parameters to the network: nothing to do, as they are its own."""

    def from_model(self) -> None:
        """Copy the parameters from the network: nothing to do."""


class EngineGradients:
    """Gradients by the C++ engine; the only parameter is a copy of the network's, the flat vector θ [P]."""

    def __init__(self, model: nn.Module, student: Any) -> None:
        self._model = model
        self._student = student
        self._theta = flatten(model)
        self.parameters = [nn.Parameter(self._theta)]

    def gradient(self, images: Tensor, labels: Tensor) -> tuple[Tensor, Tensor]:
        """Return the mean loss and the logits, as `TorchGradients` does."""
        self.parameters[0].grad, losses, logits = self._student.gradient(self._theta, images, labels)
        return losses.sum(), logits

    def to_model(self) -> None:
        """Copy the parameters to the network."""
        unflatten(self._model, self._theta)

    def from_model(self) -> None:
        """Copy the parameters from the network."""
        self._theta.copy_(flatten(self._model))


GradientBackend = TorchGradients | EngineGradients


def gradients_for(
    model: nn.Module, images: Tensor | Pictures, labels: Tensor, batch_size: int, *, engine: bool
) -> GradientBackend:
    """Choose the backend that trains `model` in batches of up to `batch_size`: the engine if allowed and able."""
    if engine and _engine_runs(model, images) and _all_trained(model) and labels.dtype in (torch.int64, images.dtype):
        return EngineGradients(model, _student(model, images, batch_size))
    return TorchGradients(model)


def logits_of(
    model: nn.Module, images: Tensor | Pictures, batch_size: int, *, engine: bool
) -> Callable[[Tensor], Tensor]:
    """Return a function from up to `batch_size` images to logits [B, K]: the engine if allowed and able."""
    if engine and _engine_runs(model, images):
        student, theta = _student(model, images, batch_size), flatten(model)
        return lambda batch: student.classify(theta, batch)
    return lambda batch: model(batch.clone())  # the model may overwrite its input


def _student(model: nn.Module, images: Tensor | Pictures, batch_size: int) -> Any:
    return fused_student(model, [min(batch_size, len(images)), *images.shape[1:]], _like(images))


def _like(images: Tensor | Pictures) -> Tensor:
    """Return an empty tensor with the dtype and device of a batch."""
    return torch.empty(0, dtype=images.dtype, device=images.device)


def _engine_runs(model: nn.Module, images: Tensor | Pictures) -> bool:
    """Return True if the engine runs the network on these images, which have its shape, dtype and device."""
    if images.dtype not in DTYPES or why_not_fused(model, _like(images)) is not None:
        return False
    like = {(images.dtype, images.device)}
    same = {(parameter.dtype, parameter.device) for parameter in model.parameters()} == like
    return same and tuple(images.shape[1:]) == (model.in_channels, *model.image_size)  # type: ignore[misc]


def _all_trained(model: nn.Module) -> bool:
    """Return True if every parameter is trained and has no gradient hooks."""
    return all(
        parameter.requires_grad and not parameter._backward_hooks and not parameter._post_accumulate_grad_hooks
        for parameter in model.parameters()
    )
