"""The sweep's memory does not grow with the number of steps, but for the parameter vectors; the whole graph's does."""

from __future__ import annotations

import sys

import pytest

from benchmarks.contestants import Setting, vectors_bytes
from benchmarks.harness import MEGABYTE
from benchmarks.hypergradient import measure_memory
from tests.matching.problems import needs_engine

pytestmark = pytest.mark.skipif(
    not sys.platform.startswith("linux"), reason="peak resident memory is read from Linux's /proc"
)


def test_sweep_is_flat_and_the_graph_is_not() -> None:
    few, many = (Setting(batch=64, width=32, steps=steps, threads=1) for steps in (4, 16))
    peaks = [measure_memory("torch", setting) for setting in (few, many)]
    without_vectors = [peak - vectors_bytes(at) / MEGABYTE for peak, at in zip(peaks, (few, many), strict=True)]
    assert without_vectors[1] <= 1.15 * without_vectors[0]
    assert measure_memory("autograd", few) >= 2 * peaks[0]


@needs_engine
def test_fused_is_flat() -> None:
    """Parameter vectors excluded; it also needs less memory than the sweep in PyTorch."""
    few, many = (Setting(batch=64, width=32, steps=steps, threads=1) for steps in (5, 50))
    first, last = (measure_memory("fused", at) - vectors_bytes(at) / MEGABYTE for at in (few, many))
    assert last <= 1.05 * first
    assert first < measure_memory("torch", few) - vectors_bytes(few) / MEGABYTE
