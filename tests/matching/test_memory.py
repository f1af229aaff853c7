"""The sweep's memory does not grow with the number of steps, but for the parameter vectors; the whole graph's does."""

from __future__ import annotations

import sys

import pytest

from benchmarks.memory import measure_apart


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="peak resident memory is read from Linux's /proc")
def test_sweep_is_flat_and_the_graph_is_not() -> None:
    shape = {"batch": 64, "width": 32, "size": 32}
    few, many = (measure_apart("torch", steps, **shape) for steps in (4, 16))
    without_vectors = [found["peak_mb"] - found["vectors_mb"] for found in (few, many)]
    assert without_vectors[1] <= 1.15 * without_vectors[0]
    graph = measure_apart("autograd", 4, **shape)
    assert graph["peak_mb"] >= 2 * few["peak_mb"]
