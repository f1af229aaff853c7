"""Arguments of `norm_act_pool` and its derivatives."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

import pydistill.ops
import pydistill.reference

DTYPES = [torch.float32, torch.float64]
NORMS = ["instance", "none"]
POOLINGS = ["average", "max", "none"]
PHASES = ["", "_backward", "_jvp", "_backward_jvp"]


class Problem:
    """Arguments of all four functions, of one shape."""

    def __init__(
        self,
        shape: tuple[int, int, int, int],
        norm: str = "instance",
        pooling: str = "average",
        dtype: torch.dtype = torch.float64,
        bias: bool = True,
    ) -> None:
        generator = torch.Generator().manual_seed(sum(shape))

        def normal(*size: int) -> Tensor:
            return torch.randn(2, *size, dtype=dtype, generator=generator)

        images, channels, height, width = shape
        side = 1 if pooling == "none" else 2
        self.settings = {"norm": norm, "pooling": pooling}
        self.z = normal(*shape)
        self.grad = normal(images, channels, height // side, width // side)
        self.weight = normal(channels) if norm == "instance" else [None, None]
        self.bias = normal(channels) if bias else [None, None]

    def arguments(self, phase: str) -> tuple[Any, ...]:
        values = (self.z[0], self.weight[0], self.bias[0])
        pairs = (*self.z, *self.weight, *self.bias)
        return {
            "": values,
            "_backward": (self.grad[0], *values),
            "_jvp": pairs,
            "_backward_jvp": (*self.grad, *pairs),
        }[phase]

    def run(self, phase: str, where: Any = pydistill.ops) -> tuple[Tensor | None, ...]:
        results = getattr(where, f"norm_act_pool{phase}")(*self.arguments(phase), **self.settings)
        return results if isinstance(results, tuple) else (results,)


def assert_same(actual: tuple[Tensor | None, ...], expected: tuple[Tensor | None, ...], tolerance: float) -> None:
    assert len(actual) == len(expected)
    for one, other in zip(actual, expected, strict=True):
        assert (one is None) == (other is None)
        if one is not None and other is not None:
            torch.testing.assert_close(one.to(other.dtype), other, rtol=tolerance, atol=tolerance)
