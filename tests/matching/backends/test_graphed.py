"""The steps of backend `torch` as CUDA graphs: a recorder of operations plays the GPU."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from pydistill.data import DsaSettings
from pydistill.engine import cuda_graph
from pydistill.engine.cuda_graph import WARM_CALLS, CudaGraphStep
from pydistill.matching.backends import _graphed
from pydistill.matching.backends import torch as torch_backend
from tests.matching.problems import assert_same, make_case

GPU = torch.device("cuda")
BOUND = 1e-9


class Recording(TorchDispatchMode):
    """Records operations with the memory they read and write; `replay` repeats them there, and runs no Python."""

    def __init__(self) -> None:
        super().__init__()
        self.operations: list[tuple[Any, Any, Any, Any]] = []

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        waits = func is torch.ops.aten._local_scalar_dense.default
        assert not waits or args[0].dtype == torch.int64, (
            "a capture cannot wait for a value, other than the CPU's labels"
        )
        out = func(*args, **(kwargs or {}))
        self.operations.append((func, args, kwargs or {}, out))
        return out

    @torch.no_grad()
    def replay(self) -> None:
        for func, args, kwargs, out in self.operations:
            for old, new in zip(tree_leaves(out), tree_leaves(func(*args, **kwargs)), strict=True):
                if isinstance(old, Tensor) and old.data_ptr() != new.data_ptr():
                    old.copy_(new)


@pytest.fixture
def captures(monkeypatch: pytest.MonkeyPatch) -> list[Recording]:
    """Let the CPU's steps be captured; returns the captures."""
    made: list[Recording] = []

    def captured(work: Callable[[], None], device: torch.device) -> Recording:
        made.append(Recording())
        with made[-1]:
            work()
        return made[-1]

    begin = CudaGraphStep.__init__
    monkeypatch.setattr(cuda_graph, "_captured", captured)
    monkeypatch.setattr(CudaGraphStep, "_warm", lambda step: step._work())
    monkeypatch.setattr(
        CudaGraphStep, "__init__", lambda step, work, device, *, capture: begin(step, work, GPU, capture=capture)
    )
    monkeypatch.setattr(torch_backend, "can_be_graphed", lambda problem: True)
    return made


@pytest.mark.parametrize("labels", ["hard", "soft", "logits"])
@pytest.mark.parametrize("dsa", [None, DsaSettings()])
@pytest.mark.parametrize("options", [{}, {"selection": "nearest"}, {"gradient": "truncated"}])
def test_replayed_steps_give_the_oracle_s_gradients(
    labels: str, dsa: DsaSettings | None, options: dict[str, Any], captures: list[Recording]
) -> None:
    case = make_case("convnet2-w4-gn", steps=10, labels=labels, dsa=dsa, **options)
    replayed = case.run("torch")
    assert len(captures) == (2 if replayed[0].step > WARM_CALLS else 1)
    assert_same(replayed, case.run("autograd"), BOUND)
    assert all(len(capture.operations) > 20 for capture in captures)


def test_frozen_parameters_and_wanted_gradients(captures: list[Recording]) -> None:
    case = make_case("vgg11-w2", steps=WARM_CALLS + 3, labels="soft")
    next(case.model.parameters()).requires_grad_(False)
    for wanted in (["images"], ["lr"], ["labels", "start"]):
        assert_same(case.run("torch", wanted=wanted), case.run("autograd", wanted=wanted), BOUND)
    assert len(captures) == 6


@pytest.mark.cuda
@pytest.mark.skipif(not torch.cuda.is_available(), reason="no NVIDIA GPU is visible")
@pytest.mark.parametrize("network", ["convnet3-gn", "vgg11-w8", "resnet18-w4"])
def test_graphs_on_the_gpu(network: str, monkeypatch: pytest.MonkeyPatch) -> None:
    case = make_case(network, steps=12, dsa=DsaSettings())
    for name in ("start", "target", "images", "labels", "lr", "index"):
        setattr(case, name, getattr(case, name).cuda())
    case.model.cuda()
    used: list[bool] = []
    able = _graphed.can_be_graphed
    monkeypatch.setattr(torch_backend, "can_be_graphed", lambda problem: used.append(able(problem)) or used[-1])
    assert_same(case.run("torch"), case.run("autograd"), BOUND)
    assert used == [True]
