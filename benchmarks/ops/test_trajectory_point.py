"""Time of `trajectory_point` against its PyTorch reference and against a copy of as many bytes, the floor of memory.

    make benchmark-ops      or      pytest benchmarks/ops --benchmark-columns=median,iqr,rounds

`trajectory_point` reads two vectors and writes one, so the floor is a copy of one vector and a half. Each round takes
the next of several sets of inputs, so that they come from memory and not from the cache. On a GPU a round ends with a
synchronisation.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable

import pytest
import torch
from pytest_benchmark.fixture import BenchmarkFixture

from pydistill import ops, reference
from pydistill.nn import ConvNet, ResNet18
from pydistill.ops.build_info import build_config

NETWORKS = {
    "ConvNetD3-w128": lambda: ConvNet(3, 10, (32, 32)),
    "ResNet18": lambda: ResNet18(3, 10, (32, 32)),
}
CACHE_BYTES = 128 * 2**20  # more than the last cache of the machines we know of
DEVICES = ["cpu", pytest.param("cuda", marks=pytest.mark.cuda)]


@pytest.mark.parametrize("device", DEVICES)
@pytest.mark.parametrize("network", NETWORKS)
@pytest.mark.parametrize("provider", ["compiled", "reference", "copy"])
def test_trajectory_point(benchmark: BenchmarkFixture, provider: str, network: str, device: str) -> None:
    if device == "cuda" and not torch.cuda.is_available():
        pytest.skip("no NVIDIA GPU is visible")
    config = build_config()
    if provider == "compiled" and not (config["compiled"] if device == "cpu" else config["cuda"]):
        pytest.skip(f"no compiled kernel for {device}")
    sizes = [parameter.numel() for parameter in NETWORKS[network]().parameters()]
    total = sum(sizes)
    sets = max(2, -(-CACHE_BYTES // (12 * total)))
    inputs = itertools.cycle([torch.randn(2, total, device=device) for _ in range(sets)])
    weights = torch.linspace(0, 1, len(sizes), dtype=torch.float64, device=device)
    copied = torch.empty(3 * total // 2, device=device)

    def step(vectors: torch.Tensor) -> None:
        if provider == "copy":
            copied.copy_(vectors.flatten()[: len(copied)])
        else:
            run: Callable[..., object] = (ops if provider == "compiled" else reference).trajectory_point
            run(vectors[0], vectors[1], weights, sizes)
        if device == "cuda":
            torch.cuda.synchronize()

    benchmark.group = f"trajectory_point, {network}, P = {total} in {len(sizes)} tensors, float32, {device}"
    benchmark.extra_info.update(config, threads=torch.get_num_threads(), provider=provider)
    benchmark.pedantic(step, setup=lambda: ((next(inputs),), {}), rounds=40, warmup_rounds=5)
