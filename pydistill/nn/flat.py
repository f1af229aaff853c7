"""Flat parameter vectors: a network's parameters as one vector [P], in the order of `model.parameters()`."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from pydistill.errors import InputError


@dataclass(frozen=True)
class ParameterLayout:
    """Names and shapes of a network's parameters; converts between a flat vector and the tensors."""

    names: tuple[str, ...]
    shapes: tuple[tuple[int, ...], ...]

    @property
    def sizes(self) -> tuple[int, ...]:
        """Number of elements of each parameter tensor."""
        return tuple(int(torch.Size(shape).numel()) for shape in self.shapes)

    @property
    def total(self) -> int:
        """P, the length of the flat vector."""
        return sum(self.sizes)

    def split(self, flat: Tensor) -> dict[str, Tensor]:
        """Split `flat` [P] into views by parameter name, in their shapes; differentiable any number of times.

        Raises:
            InputError: `flat` does not have P elements.
        """
        if flat.shape != (self.total,):
            raise InputError(
                f"a flat parameter vector of this network has shape [{self.total}], not {list(flat.shape)}"
            )
        pieces = torch.split(flat, list(self.sizes))
        return {name: piece.view(shape) for name, piece, shape in zip(self.names, pieces, self.shapes, strict=True)}

    def join(self, tensors: Sequence[Tensor]) -> Tensor:
        """Join tensors in the layout's order into one flat vector [P]."""
        shapes = tuple(tuple(tensor.shape) for tensor in tensors)
        if shapes != self.shapes:
            raise InputError(f"parameter tensors of shapes {shapes} do not fit the network's {self.shapes}")
        return torch.cat([tensor.reshape(-1) for tensor in tensors])


def layout_of(model: nn.Module) -> ParameterLayout:
    """Return the layout of `model.parameters()`."""
    named = list(model.named_parameters())
    return ParameterLayout(tuple(name for name, _ in named), tuple(tuple(value.shape) for _, value in named))


def flatten(model: nn.Module) -> Tensor:
    """Copy the model's parameters to one detached vector [P].

    Raises:
        InputError: the model has no parameters.
    """
    parameters = [parameter.detach().reshape(-1) for parameter in model.parameters()]
    if not parameters:
        raise InputError(f"{type(model).__name__} has no parameters to flatten")
    return torch.cat(parameters)


def unflatten(model: nn.Module, flat: Tensor) -> None:
    """Copy the flat vector [P] into the model's parameters, in place.

    Raises:
        InputError: the vector's length is not the model's P.
    """
    pieces = layout_of(model).split(flat)
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            parameter.copy_(pieces[name])
