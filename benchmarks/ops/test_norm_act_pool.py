"""Time of `norm_act_pool` and its derivatives against their PyTorch reference and against a copy of as many bytes.

    make benchmark-ops      or      pytest benchmarks/ops --benchmark-columns=median,iqr,rounds

The floor that memory sets is a copy of half as many bytes as a phase reads and writes, each tensor counted once:
"copy" into memory that is there, "copy-new" into memory that is fresh from the allocator, as the results of the ops
are. The planes of batch 400 exceed the last cache of the machines we know of many times, those
of batch 10 do not.
"""

from __future__ import annotations

import pytest
import torch
from pytest_benchmark.fixture import BenchmarkFixture
from torch import Tensor

from pydistill import ops, reference
from pydistill.ops.build_info import build_config

# Phase: planes that it reads and writes, of the size of z and of the pooled size, which is a quarter.
PHASES = {"": (1, 1), "_backward": (2, 1), "_jvp": (2, 2), "_backward_jvp": (4, 2)}
SHAPES = [(400, 128, 32, 32), (100, 128, 32, 32), (10, 128, 32, 32)]
DEVICES = ["cpu", pytest.param("cuda", marks=pytest.mark.cuda)]


@pytest.mark.parametrize("device", DEVICES)
@pytest.mark.parametrize("shape", SHAPES, ids=str)
@pytest.mark.parametrize("phase", PHASES)
@pytest.mark.parametrize("provider", ["compiled", "reference", "copy", "copy-new"])
def test_norm_act_pool(
    benchmark: BenchmarkFixture, provider: str, phase: str, shape: tuple[int, int, int, int], device: str
) -> None:
    if device == "cuda" and not torch.cuda.is_available():
        pytest.skip("no NVIDIA GPU is visible")
    config = build_config()
    if provider == "compiled" and not (config["compiled"] if device == "cpu" else config["cuda"]):
        pytest.skip(f"no compiled kernel for {device}")

    def planes(*size: int) -> Tensor:
        return torch.randn(size, device=device).contiguous(memory_format=torch.channels_last)

    images, channels, height, width = shape
    z, z_tangent = planes(*shape), planes(*shape)
    grad, grad_tangent = (planes(images, channels, height // 2, width // 2) for _ in range(2))
    weight, weight_tangent, bias, bias_tangent = torch.randn(4, channels, device=device)
    stats = (
        torch.ops.pydistill.norm_act_pool_jvp(
            z, z_tangent, weight, weight_tangent, bias, bias_tangent, "instance", "average", 1e-5
        )[2]
        if config["compiled"]
        else None
    )
    pairs = (z, z_tangent, weight, weight_tangent, bias, bias_tangent)
    arguments = {
        "": (z, weight, bias),
        "_backward": (grad, z, weight, bias),
        "_jvp": pairs,
        "_backward_jvp": (grad, grad_tangent, *pairs),
    }[phase]
    complete, pooled = PHASES[phase]
    source = torch.randn((complete * z.numel() + pooled * grad.numel()) // 2, device=device)
    target = torch.empty_like(source)

    def run() -> None:
        if provider == "copy":
            target.copy_(source)
        elif provider == "copy-new":
            source.clone()
        elif provider == "reference":
            getattr(reference, f"norm_act_pool{phase}")(*arguments)
        elif stats is None or phase in ("", "_jvp"):
            getattr(ops, f"norm_act_pool{phase}")(*arguments)
        else:  # the statistics were kept, as in training
            stored = stats[:, :2].contiguous() if phase == "_backward" else stats
            getattr(torch.ops.pydistill, f"norm_act_pool{phase}")(*arguments, stored, "instance", "average", 1e-5)
        if device == "cuda":
            torch.cuda.synchronize()

    benchmark.group = f"norm_act_pool{phase}, {list(shape)}, float32, {device}"
    benchmark.extra_info.update(config, threads=torch.get_num_threads(), provider=provider)
    benchmark.pedantic(run, rounds=20, warmup_rounds=3)
