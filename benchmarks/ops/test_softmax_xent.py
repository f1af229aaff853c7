"""Time of `softmax_xent`'s ops against their PyTorch references, and against PyTorch's own softmax of the same logits.

    make benchmark-ops      or      pytest benchmarks/ops --benchmark-columns=median,iqr,rounds

The batches are small enough for the cache, as a student's are: what counts is the number of passes and of calls. The
softmax is no floor but the least that any of the ops has to do. On a GPU a round ends with a synchronisation.
"""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from pytest_benchmark.fixture import BenchmarkFixture

from pydistill import ops, reference
from pydistill.ops.build_info import build_config

SHAPES = {"CIFAR-10": (100, 10), "Tiny ImageNet": (1000, 200)}
OPS = ["softmax_xent", "softmax_xent_backward", "softmax_xent_jvp", "softmax_xent_backward_jvp"]
DEVICES = ["cpu", pytest.param("cuda", marks=pytest.mark.cuda)]


@pytest.mark.parametrize("device", DEVICES)
@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("name", OPS)
@pytest.mark.parametrize("provider", ["compiled", "reference", "softmax"])
def test_softmax_xent(benchmark: BenchmarkFixture, provider: str, name: str, shape: str, device: str) -> None:
    if device == "cuda" and not torch.cuda.is_available():
        pytest.skip("no NVIDIA GPU is visible")
    config = build_config()
    if provider == "compiled" and not (config["compiled"] if device == "cpu" else config["cuda"]):
        pytest.skip(f"no compiled kernel for {device}")
    logits, tangent = torch.randn(2, *SHAPES[shape], device=device)
    labels = torch.randn(*SHAPES[shape], device=device).softmax(dim=1)
    inputs = {
        "softmax_xent": (logits, labels),
        "softmax_xent_backward": (torch.ones((), device=device), logits, labels),
        "softmax_xent_jvp": (logits, tangent, labels),
        "softmax_xent_backward_jvp": (logits, tangent, labels),
    }[name]

    def step() -> None:
        if provider == "softmax":
            torch.softmax(logits, dim=1)
        else:
            run: Callable[..., object] = getattr(ops if provider == "compiled" else reference, name)
            run(*inputs)
        if device == "cuda":
            torch.cuda.synchronize()

    benchmark.group = f"{name}, {shape}, [B, K] = {list(SHAPES[shape])}, label rows, float32, {device}"
    benchmark.extra_info.update(config, threads=torch.get_num_threads(), provider=provider)
    benchmark.pedantic(step, rounds=200, warmup_rounds=20)
