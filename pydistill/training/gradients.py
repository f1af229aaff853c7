"""What training and testing ask of a network, loss and gradient or logits: of the C++ engine, or of PyTorch.

The engine runs ConvNet (norm instance or none) and MLP with ReLU in fp32 and fp64 on devices that it has kernels for;
every other network, and one whose parameters are not all to be trained, is PyTorch's.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Protocol

import torch
from torch import Tensor, nn
from torch.nn import functional

from pydistill.data.pictures import Pictures
from pydistill.engine.student import fused_student, why_not_fused
from pydistill.nn.flat import flatten, unflatten

DTYPES = (torch.float32, torch.float64)


class GradientBackend(Protocol):
    """A network in training. `parameters` are what the optimiser moves, between `to_model` and `from_model` alone."""

    parameters: list[nn.Parameter]

    def gradient(self, images: Tensor, labels: Tensor) -> tuple[Tensor, Tensor]:
        """The mean loss [] and the logits [B, K] as constants; the gradients are left in the parameters."""
        ...

    def to_model(self) -> None:
        """Write the parameters into the network."""
        ...

    def from_model(self) -> None:
        """Read the parameters from the network."""
        ...


class TorchGradients:
    """Any network, by PyTorch: the parameters are the network's own."""

    def __init__(self, model: nn.Module) -> None:
        self._model = model
        self.parameters = [parameter for parameter in model.parameters() if parameter.requires_grad]

    def gradient(self, images: Tensor, labels: Tensor) -> tuple[Tensor, Tensor]:
        for parameter in self.parameters:
            parameter.grad = None
        logits = self._model(images)
        loss = functional.cross_entropy(logits, labels)
        loss.backward()  # type: ignore[no-untyped-call]
        return loss.detach(), logits.detach()

    def to_model(self) -> None:
        pass

    def from_model(self) -> None:
        pass


class EngineGradients:
    """By the engine: the one parameter is the flat vector θ [P]."""

    def __init__(self, model: nn.Module, student: Any) -> None:
        self._model = model
        self._student = student
        self._theta = flatten(model)
        self.parameters = [nn.Parameter(self._theta)]

    def gradient(self, images: Tensor, labels: Tensor) -> tuple[Tensor, Tensor]:
        self.parameters[0].grad, losses, logits = self._student.gradient(self._theta, images, labels)
        return losses.sum(), logits

    def to_model(self) -> None:
        unflatten(self._model, self._theta)

    def from_model(self) -> None:
        self._theta.copy_(flatten(self._model))


def gradients_for(
    model: nn.Module, images: Tensor | Pictures, labels: Tensor, batch_size: int, *, engine: bool
) -> GradientBackend:
    """The passes that train `model` on batches of up to `batch_size` of these: the engine's if it is wanted and can."""
    if engine and _engine_runs(model, images) and _all_trained(model) and labels.dtype in (torch.int64, images.dtype):
        return EngineGradients(model, _student(model, images, batch_size))
    return TorchGradients(model)


def logits_of(
    model: nn.Module, images: Tensor | Pictures, batch_size: int, *, engine: bool
) -> Callable[[Tensor], Tensor]:
    """What gives the logits [B, K] of up to `batch_size` of these images: the engine if it is wanted and can."""
    if engine and _engine_runs(model, images):
        student, theta = _student(model, images, batch_size), flatten(model)
        return lambda batch: student.classify(theta, batch)
    return model


def _student(model: nn.Module, images: Tensor | Pictures, batch_size: int) -> Any:
    return fused_student(model, [min(batch_size, len(images)), *images.shape[1:]], _like(images))


def _like(images: Tensor | Pictures) -> Tensor:
    """Nothing, of the dtype and on the device of a batch."""
    return torch.empty(0, dtype=images.dtype, device=images.device)


def _engine_runs(model: nn.Module, images: Tensor | Pictures) -> bool:
    """Whether the engine runs the network on these images, of its own shape, dtype and device."""
    if images.dtype not in DTYPES or why_not_fused(model, _like(images)) is not None:
        return False
    like = {(images.dtype, images.device)}
    same = {(parameter.dtype, parameter.device) for parameter in model.parameters()} == like
    return same and tuple(images.shape[1:]) == (model.in_channels, *model.image_size)  # type: ignore[misc]


def _all_trained(model: nn.Module) -> bool:
    """Whether every parameter is to be trained, and nothing listens to its gradient."""
    return all(
        parameter.requires_grad and not parameter._backward_hooks and not parameter._post_accumulate_grad_hooks
        for parameter in model.parameters()
    )
