"""Time of `adjoint_step` against its PyTorch reference and against a copy of as many bytes, the floor that memory sets.

    make benchmark-ops      or      pytest benchmarks/ops --benchmark-columns=median,iqr,rounds

`adjoint_step` reads three vectors and writes one, so the floor is a copy of two vectors. Each round takes the next of
several sets of inputs, so that they come from memory and not from the cache. On a GPU a round ends with a
synchronisation.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable

import pytest
import torch
from pytest_benchmark.fixture import BenchmarkFixture

from pydistill import ops, reference
from pydistill.ops.build_info import build_config

SIZES = {"ConvNetD3-w128": 320_010, "ResNet18": 11_173_962}
CACHE_BYTES = 128 * 2**20  # more than the last cache of the machines we know of
DEVICES = ["cpu", pytest.param("cuda", marks=pytest.mark.cuda)]


@pytest.mark.parametrize("device", DEVICES)
@pytest.mark.parametrize("network", SIZES)
@pytest.mark.parametrize("provider", ["compiled", "reference", "copy"])
def test_adjoint_step(benchmark: BenchmarkFixture, provider: str, network: str, device: str) -> None:
    if device == "cuda" and not torch.cuda.is_available():
        pytest.skip("no NVIDIA GPU is visible")
    config = build_config()
    if provider == "compiled" and not (config["compiled"] if device == "cpu" else config["cuda"]):
        pytest.skip(f"no compiled kernel for {device}")
    size = SIZES[network]
    sets = max(2, -(-CACHE_BYTES // (16 * size)))
    inputs = itertools.cycle([torch.randn(4, size, device=device) for _ in range(sets)])
    lr = torch.tensor(0.01, device=device)

    def step(vectors: torch.Tensor) -> None:
        if provider == "copy":
            vectors[:2].copy_(vectors[2:])
        else:
            run: Callable[..., object] = (ops if provider == "compiled" else reference).adjoint_step
            run(vectors[0], vectors[1], vectors[2], lr)
        if device == "cuda":
            torch.cuda.synchronize()

    benchmark.group = f"adjoint_step, {network}, P = {size}, float32, {device}"
    benchmark.extra_info.update(config, threads=torch.get_num_threads(), provider=provider)
    benchmark.pedantic(step, setup=lambda: ((next(inputs),), {}), rounds=40, warmup_rounds=5)
