"""Measure a device's peak rates: matrix products and copies."""

from __future__ import annotations

import statistics
from collections.abc import Callable
from dataclasses import dataclass

import torch

from benchmarks.harness import MEGABYTE, seconds

REPEATS = 10
WARM_CALLS = 3
SIDES = {"cuda": 8192, "cpu": 512}  # of the matrices
MEGABYTES = {"cuda": 4096, "cpu": 64}  # of the copy, far more than any cache holds


@dataclass(frozen=True)
class Ceilings:
    """Measured limits of a device.

    Attributes:
        matrix_rate: operations per second (two for a multiply-add) of a large matrix product in float32, at the
            precision that PyTorch's convolutions have here: TF32 where its switch allows it.
        copy_rate: bytes per second of a large copy, read and written bytes counted.
        cache: bytes of the largest cache (on a GPU its second level; elsewhere 0: unknown).
        precision: tf32 or float32.
    """

    matrix_rate: float
    copy_rate: float
    cache: int
    precision: str


@dataclass
class _Timed:
    call: Callable[[], object]
    scale: float = 1.0


def measure(device: str) -> Ceilings:
    """Measure the ceilings of a device on random numbers, as medians of ten calls."""
    side, elements = SIDES[device], MEGABYTES[device] * MEGABYTE // 4
    tf32 = device == "cuda" and torch.backends.cudnn.allow_tf32
    left, right, product = (torch.randn(side, side, device=device) for _ in range(3))
    before = torch.get_float32_matmul_precision()
    torch.set_float32_matmul_precision("high" if tf32 else "highest")
    try:
        matrix = _median(lambda: torch.mm(left, right, out=product))
    finally:
        torch.set_float32_matmul_precision(before)
    source = torch.randn(elements, device=device)
    target = torch.empty_like(source)
    copy = _median(lambda: target.copy_(source))
    return Ceilings(
        matrix_rate=2 * side**3 / matrix,
        copy_rate=8 * elements / copy,
        cache=torch.cuda.get_device_properties(device).L2_cache_size if device == "cuda" else 0,
        precision="tf32" if tf32 else "float32",
    )


def _median(call: Callable[[], object]) -> float:
    timed = _Timed(call)
    result = [seconds(timed) for _ in range(WARM_CALLS + REPEATS)]
    return statistics.median(result[WARM_CALLS:])
