"""The sweep's memory does not grow with the number of steps, but for the parameter vectors; the whole graph's does."""

from __future__ import annotations

import sys
from dataclasses import replace

import pytest

from benchmarks.contestants import Setting, vectors_bytes
from benchmarks.harness import MEGABYTE
from benchmarks.hypergradient import measure_memory
from tests.matching.problems import needs_engine

pytestmark = pytest.mark.skipif(
    not sys.platform.startswith("linux"), reason="peak resident memory is read from Linux's /proc"
)


FEW, MANY = (Setting(batch=64, width=32, steps=steps, threads=1) for steps in (4, 50))


def without_vectors(peak: float, setting: Setting) -> float:
    """Subtract the parameter vectors from a peak; both in MB."""
    return peak - vectors_bytes(setting) / MEGABYTE


@pytest.fixture(scope="module")
def sweep_peak() -> float:
    """The peak of the sweep in PyTorch over few steps, in MB."""
    return measure_memory("torch", FEW)


def test_sweep_is_flat_and_the_graph_is_not(sweep_peak: float) -> None:
    more = replace(FEW, steps=4 * FEW.steps)
    assert without_vectors(measure_memory("torch", more), more) <= 1.15 * without_vectors(sweep_peak, FEW)
    assert measure_memory("autograd", FEW) >= 2 * sweep_peak


@needs_engine
def test_fused_is_flat(sweep_peak: float) -> None:
    """Parameter vectors excluded; it also needs less memory than the sweep in PyTorch."""
    first, last = (without_vectors(measure_memory("fused", setting), setting) for setting in (FEW, MANY))
    assert last <= 1.05 * first
    assert first < without_vectors(sweep_peak, FEW)


@pytest.mark.parametrize("budget", [0, 100])
def test_a_budget_is_used_and_not_exceeded(budget: int, sweep_peak: float) -> None:
    """In MB; the graphs of all four steps take more."""
    peak = measure_memory("torch-memory", replace(FEW, budget=f"{budget}MB"))
    assert 0.6 * budget <= peak - sweep_peak + 0.05 * sweep_peak
    assert peak <= 1.05 * sweep_peak + budget
