"""`CudaGraphStep`: when work runs, is captured and replayed, and which networks may be. A stand-in plays the GPU."""

from __future__ import annotations

import logging
from collections.abc import Callable

import pytest
import torch
from torch import nn

from pydistill.engine import cuda_graph as graphs
from pydistill.engine.cuda_graph import WARM_CALLS, CudaGraphStep, is_plain
from tests.engine.captured import GPU, FakeGraphs, fresh, with_hook


def test_a_few_direct_calls_then_one_capture_then_replays(gpu: FakeGraphs) -> None:
    calls: list[int] = []
    work = CudaGraphStep(lambda: calls.append(1), GPU, capture=True)
    for number in range(1, WARM_CALLS + 4):
        work()
        assert len(calls) == number  # every call does the work once, the capture none
        assert (work._graph is not None) == (number > WARM_CALLS)
    assert gpu.done == ["warm"] * WARM_CALLS + ["capture"] + ["replay"] * 3


def test_after_invalidate_the_work_is_captured_again(gpu: FakeGraphs) -> None:
    work = CudaGraphStep(lambda: None, GPU, capture=True)
    for _ in range(WARM_CALLS + 2):
        work()
    work.invalidate(capture=True)
    assert work._graph is None
    for _ in range(WARM_CALLS + 1):
        work()
    once = ["warm"] * WARM_CALLS + ["capture", "replay"]
    assert gpu.done == [*once, "replay", *once]
    work.invalidate(capture=False)
    for _ in range(WARM_CALLS + 1):
        work()
    assert gpu.done == [*once, "replay", *once]


def test_a_failed_capture_is_logged_once_and_the_work_runs_directly(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    graphs._warn_once.cache_clear()
    gpu = FakeGraphs(monkeypatch, fails=True)
    calls: list[int] = []
    work = CudaGraphStep(lambda: calls.append(1), GPU, capture=True)
    other = CudaGraphStep(lambda: None, GPU, capture=True)
    with caplog.at_level(logging.WARNING, "pydistill"):
        for _ in range(WARM_CALLS + 3):
            work()
        assert gpu.done == ["warm"] * WARM_CALLS + ["capture"]
        for _ in range(WARM_CALLS + 1):
            other()
    assert len(calls) == WARM_CALLS + 3
    assert [record.getMessage() for record in caplog.records] == [
        "a training step could not be captured as a CUDA graph and runs directly: "
        "operation not permitted when stream is capturing"
    ]


@pytest.mark.parametrize("why", ["not wanted", "environment", "cpu"])
def test_what_is_not_captured_runs_directly(why: str, gpu: FakeGraphs, monkeypatch: pytest.MonkeyPatch) -> None:
    if why == "environment":
        monkeypatch.setenv(graphs.SWITCH, "0")
    calls: list[int] = []
    device = torch.device("cpu") if why == "cpu" else GPU
    work = CudaGraphStep(lambda: calls.append(1), device, capture=why != "not wanted")
    for _ in range(WARM_CALLS + 2):
        work()
    assert len(calls) == WARM_CALLS + 2
    assert gpu.done == []


class Own(nn.Module):
    """A layer of another package, which may run any Python code."""

    def __init__(self) -> None:
        super().__init__()
        self.layer = nn.Linear(64, 4)

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        return self.layer(images.flatten(1))


def with_listener(model: nn.Module) -> nn.Module:
    next(model.parameters()).register_hook(lambda gradient: gradient)
    return model


def with_forward(model: nn.Module) -> nn.Module:
    model.forward = model.forward
    return model


@pytest.mark.parametrize("name", ["convnet2-w4", "convnet2-w4-bn", "mlp", "alexnet-w2", "vgg11-w1-bn", "resnet18-w2"])
def test_our_networks_are_plain(name: str) -> None:
    assert is_plain(fresh(name))
    assert is_plain(nn.Sequential(fresh(name), nn.Softmax(1)))


@pytest.mark.parametrize(
    "make",
    [
        Own,
        lambda: nn.Sequential(fresh(), nn.Dropout(0.1)),
        lambda: nn.Sequential(fresh(), nn.RReLU()),
        lambda: with_hook(fresh()),
        lambda: with_listener(fresh()),
        lambda: with_forward(fresh()),
        lambda: nn.utils.parametrizations.weight_norm(nn.Linear(3, 3)),
    ],
    ids=["own", "dropout", "rrelu", "hook", "listener", "forward", "parametrised"],
)
def test_what_is_not_plain(make: Callable[[], nn.Module]) -> None:
    assert not is_plain(make())
