"""The maps over the parameter vector with a reduction, `sgd_step` and `adjoint_step`, as the tests see them."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

import pydistill.ops
import pydistill.reference

Op = Callable[..., tuple[Tensor, Tensor]]
Inputs = tuple[Tensor, ...]


@dataclass(frozen=True)
class ParameterMap:
    """One of the maps: (x, …, α, …) ↦ (x', sums).

    Attributes:
        name: the op.
        case: the op, and which of its optional arguments it has.
        arguments: the names of its arguments, in order.
        direction: the argument d of x' = x − α d.
        sums: the reduction, from x' and the arguments, all in float64.
        sums_shape: its shape.
        known: the vectors among the arguments for α = 0.5, and the results x' and sums.
        of_ones: multiples of ones for the vectors, and the sums of one element at α = 0.
        depends_on: for either result, the numbers of the arguments that its gradient reaches.
    """

    name: str
    case: str
    arguments: tuple[str, ...]
    direction: str
    sums: Callable[[Tensor, dict[str, Tensor]], Tensor]
    sums_shape: tuple[int, ...]
    known: tuple[tuple[list[float], ...], list[float], list[float]]
    of_ones: tuple[tuple[float, ...], list[float]]
    depends_on: tuple[tuple[int, ...], tuple[int, ...]]

    @property
    def op(self) -> Op:
        return getattr(pydistill.ops, self.name)

    @property
    def reference(self) -> Op:
        return getattr(pydistill.reference, self.name)

    @property
    def compiled(self) -> Op:
        return getattr(torch.ops.pydistill, self.name)

    @property
    def lr(self) -> int:
        """The number of the argument α."""
        return self.arguments.index("lr")

    def inputs(self, vectors: tuple[Tensor, ...], lr: Tensor) -> Inputs:
        """The arguments in order, from the vectors and α."""
        return *vectors[: self.lr], lr, *vectors[self.lr :]

    def random(self, size: int, dtype: torch.dtype, device: str = "cpu", *, requires_grad: bool = False) -> Inputs:
        generator = torch.Generator().manual_seed(size)
        count = len(self.arguments) - 1
        vectors = [torch.randn(size, dtype=dtype, generator=generator).to(device) for _ in range(count)]
        if "weights" in self.arguments:
            vectors[-1] = vectors[-1].abs()
        inputs = self.inputs(tuple(vectors), torch.tensor(0.3, dtype=dtype, device=device))
        return tuple(value.requires_grad_(requires_grad) for value in inputs)

    def by_name(self, inputs: Inputs) -> dict[str, Tensor]:
        return dict(zip(self.arguments, inputs, strict=True))

    def formula(self, inputs: Inputs) -> Tensor:
        """x' in float64."""
        values = {name: value.double() for name, value in self.by_name(inputs).items()}
        return values[self.arguments[0]] - values["lr"] * values[self.direction]


def _distances(theta_next: Tensor, inputs: dict[str, Tensor]) -> Tensor:
    gap = (theta_next - inputs["target"]).double()  # the gap is taken in the dtype of θ
    weights = inputs.get("weights", torch.ones_like(gap)).double()
    return torch.stack([(weights * gap.abs()).sum(), (weights * gap.square()).sum()])


def _inner(adjoint_next: Tensor, inputs: dict[str, Tensor]) -> Tensor:
    return (inputs["adjoint"].double() * inputs["grad"].double()).sum()


SGD_STEP = ParameterMap(
    "sgd_step",
    "sgd_step",
    ("theta", "grad", "lr", "target"),
    "grad",
    _distances,
    (2,),
    (([1.0, 2.0], [2.0, -4.0], [1.0, 1.0]), [0.0, 4.0], [4.0, 10.0]),
    ((1.0, 1.0, 9.0), [8.0, 64.0]),
    ((0, 1, 2), (0, 1, 2, 3)),
)
WEIGHTED_SGD_STEP = ParameterMap(
    "sgd_step",
    "sgd_step with weights",
    ("theta", "grad", "lr", "target", "weights"),
    "grad",
    _distances,
    (2,),
    (([1.0, 2.0], [2.0, -4.0], [1.0, 1.0], [3.0, 0.5]), [0.0, 4.0], [4.5, 7.5]),
    ((1.0, 1.0, 9.0, 0.5), [4.0, 32.0]),
    ((0, 1, 2), (0, 1, 2, 3, 4)),
)
ADJOINT_STEP = ParameterMap(
    "adjoint_step",
    "adjoint_step",
    ("adjoint", "product", "grad", "lr"),
    "product",
    _inner,
    (),
    (([1.0, 2.0], [2.0, -4.0], [3.0, -1.0]), [0.0, 4.0], [1.0]),
    ((1.0, 1.0, 8.0), [8.0]),
    ((0, 1, 3), (0, 2)),
)
MAPS = (SGD_STEP, WEIGHTED_SGD_STEP, ADJOINT_STEP)


def sums_bound(step: ParameterMap, inputs: Inputs) -> float:
    """The absolute error that the sums may have: none for the distances, 1e-14 of the inner product's magnitudes."""
    if step is not ADJOINT_STEP:
        return 0.0
    adjoint, _, grad, _ = inputs
    return 1e-14 * (1 + (adjoint.double() * grad.double()).abs().sum().item())
