"""The optimiser of experts and evaluations against PyTorch's own class."""

from __future__ import annotations

import subprocess
import sys

import pytest
import torch
from torch import nn

from pydistill.training import sgd as sgd_module
from pydistill.training.sgd import Sgd


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("momentum", [0.0, 0.9])
@pytest.mark.parametrize("weight_decay", [0.0, 5e-4])
@pytest.mark.parametrize("fused", [False, True])
def test_it_is_pytorchs_but_for_last_bits(
    dtype: torch.dtype, momentum: float, weight_decay: float, fused: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Five steps of two rates, one parameter that never has a gradient, gradients of both zeros."""
    monkeypatch.setattr(sgd_module, "WORTH_ALL_THREADS", 99 if fused else 100)
    generator = torch.Generator().manual_seed(0)

    def parameters() -> list[nn.Parameter]:
        values = torch.randn(3, 33, generator=torch.Generator().manual_seed(1), dtype=dtype)
        return [nn.Parameter(row.clone()) for row in values]

    ours, theirs = parameters(), parameters()
    sgd = Sgd(ours, momentum, weight_decay)
    reference = torch.optim.SGD(theirs, 0.0, momentum=momentum, weight_decay=weight_decay, fused=True)
    for step in range(5):
        lr = 0.1 if step < 3 else 0.01
        sgd.set_lr(lr)
        reference.param_groups[0]["lr"] = lr
        for mine, its in zip(ours[:2], theirs[:2], strict=True):
            gradient = torch.randn(33, generator=generator, dtype=dtype)
            gradient[::4], gradient[1::4] = 0.0, -0.0
            mine.grad, its.grad = gradient.clone(), gradient.clone()
        sgd.step()
        reference.step()
        for mine, its in zip(ours, theirs, strict=True):
            bound = 0.0 if fused else 4 * torch.finfo(dtype).eps
            torch.testing.assert_close(mine, its, rtol=bound, atol=bound)
    assert torch.equal(ours[2], parameters()[2])


def test_a_rate_in_memory_is_followed_likewise() -> None:
    """As a captured step follows it; here on the CPU, where it is read when the step is made."""
    plain, stored = nn.Parameter(torch.ones(3)), nn.Parameter(torch.ones(3))
    for parameter, in_memory in ((plain, False), (stored, True)):
        sgd = Sgd([parameter], momentum=0.9, weight_decay=0.1, lr_in_memory=in_memory)
        for lr in (0.5, 0.125):
            sgd.set_lr(lr)
            parameter.grad = torch.tensor([1.0, -2.0, 0.0])
            sgd.step()
    assert torch.equal(plain, stored)
    assert not torch.equal(plain, torch.ones(3))


@pytest.mark.parametrize("in_memory", [False, True])
@pytest.mark.parametrize("fused", [False, True])
@pytest.mark.parametrize(("lr", "weight_decay"), [(1e39, 0.0), (0.1, 1e39)])
def test_numbers_beyond_float32_diverge(
    lr: float, weight_decay: float, fused: bool, in_memory: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sgd_module, "WORTH_ALL_THREADS", 3 if fused else 4)
    parameter = nn.Parameter(torch.ones(3))
    assert not torch.isfinite(one_step(parameter, lr, weight_decay, in_memory=in_memory)).any()


@pytest.mark.parametrize("fused", [False, True])
@pytest.mark.parametrize(("lr", "weight_decay"), [(1e39, 0.0), (0.1, 1e39)])
def test_float64_has_numbers_beyond_float32(
    lr: float, weight_decay: float, fused: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sgd_module, "WORTH_ALL_THREADS", 3 if fused else 4)
    parameter = nn.Parameter(torch.ones(3, dtype=torch.float64))
    actual = one_step(parameter, lr, weight_decay, in_memory=False)
    assert actual.tolist() == pytest.approx([1 - lr * (1 + weight_decay)] * 3, rel=1e-15)


def test_a_rate_in_memory_is_for_float32() -> None:
    for dtype in (torch.float64, torch.bfloat16):
        with pytest.raises(ValueError, match="lr_in_memory"):
            one_step(nn.Parameter(torch.ones(3, dtype=dtype)), 0.1, 0.0, in_memory=True)


def one_step(parameter: nn.Parameter, lr: float, weight_decay: float, *, in_memory: bool) -> torch.Tensor:
    """The parameter after a step whose gradient is one."""
    sgd = Sgd([parameter], momentum=0.9, weight_decay=weight_decay, lr_in_memory=in_memory)
    sgd.set_lr(lr)
    parameter.grad = torch.ones_like(parameter)
    sgd.step()
    return parameter.detach()


def test_a_parameter_whose_first_gradient_comes_late_begins_then() -> None:
    early, late = nn.Parameter(torch.ones(2)), nn.Parameter(torch.ones(2))
    sgd = Sgd([early, late], momentum=0.5, weight_decay=0.0)
    sgd.set_lr(0.25)
    early.grad = torch.ones(2)
    sgd.step()
    late.grad = torch.ones(2)
    sgd.step()
    assert early.tolist() == [1 - 0.25 - 0.25 * 1.5] * 2
    assert late.tolist() == [0.75] * 2


def test_training_loads_no_compiler() -> None:
    """PyTorch's own class would: some 900 modules, two seconds of every command."""
    script = """
import sys, torch
from pydistill.nn import ModelSettings, build
from pydistill.training.train import TrainingSettings, train
labels = torch.arange(8) % 2
for name in ("mlp", "convnet"):
    model = build(ModelSettings(name, width=4, depth=1), 1, 2, (8, 8), seed=0)
    for engine in (True, False):
        train(model, torch.rand(8, 1, 8, 8), labels, TrainingSettings(epochs=1, batch_size=4),
              generator=torch.Generator().manual_seed(0), engine=engine)
print(sorted(name for name in sys.modules if name.startswith(("torch._dynamo.", "torch._inductor.", "sympy"))))
"""
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"
