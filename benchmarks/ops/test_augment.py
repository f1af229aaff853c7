"""Time of `augment`, and of it with its gradient, against the PyTorch reference and against a copy of the images.

    make benchmark-ops      or      pytest benchmarks/ops --benchmark-columns=median,iqr,rounds

The floor that memory sets is a copy of the batch, and with the gradient two. "all" is mode M: all operations in a row.
"""

from __future__ import annotations

import pytest
import torch
from pytest_benchmark.fixture import BenchmarkFixture

from pydistill import ops, reference
from pydistill.data.dsa import COLUMNS, DsaSettings, draw_tables
from pydistill.ops.build_info import build_config

SHAPES = [(100, 3, 32, 32), (500, 3, 64, 64)]
DEVICES = ["cpu", pytest.param("cuda", marks=pytest.mark.cuda)]


@pytest.mark.parametrize("device", DEVICES)
@pytest.mark.parametrize("shape", SHAPES, ids=str)
@pytest.mark.parametrize("gradient", [False, True], ids=["forward", "both"])
@pytest.mark.parametrize("strategy", [*COLUMNS, "all"])
@pytest.mark.parametrize("provider", ["compiled", "reference", "copy"])
def test_augment(
    benchmark: BenchmarkFixture,
    provider: str,
    strategy: str,
    gradient: bool,
    shape: tuple[int, int, int, int],
    device: str,
) -> None:
    if device == "cuda" and not torch.cuda.is_available():
        pytest.skip("no NVIDIA GPU is visible")
    config = build_config()
    if provider == "compiled" and not (config["compiled"] if device == "cpu" else config["cuda"]):
        pytest.skip(f"no compiled kernel for {device}")
    settings = DsaSettings(strategy="_".join(COLUMNS) if strategy == "all" else strategy, mode="M")
    draw = settings.draw(shape[0], *shape[2:], torch.Generator().manual_seed(0))
    operations, parameters = (table[0] for table in draw_tables([draw], device, torch.float32))
    images = torch.randn(shape, device=device, requires_grad=gradient)
    grad = torch.randn(shape, device=device)
    op = (ops if provider == "compiled" else reference).augment

    def run() -> None:
        if provider == "copy":
            images.detach().clone()
            if gradient:
                grad.clone()
        else:
            batch = op(images, operations, parameters)
            if gradient:
                torch.autograd.grad(batch, images, grad)
        if device == "cuda":
            torch.cuda.synchronize()

    benchmark.group = f"augment {strategy}, {'both' if gradient else 'forward'}, {list(shape)}, float32, {device}"
    benchmark.extra_info.update(config, threads=torch.get_num_threads(), provider=provider)
    benchmark.pedantic(run, rounds=40, warmup_rounds=5)
