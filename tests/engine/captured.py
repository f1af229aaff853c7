"""A stand-in for CUDA graphs, small networks, and how far apart two trainings end."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import nn

from pydistill.engine import cuda_graph as graphs
from pydistill.engine.cuda_graph import CudaGraphStep
from pydistill.nn import build, flatten, parse

GPU = torch.device("cuda")
COURSE_BOUND = 1e-3
"""Relative to how far a training moves the parameters: above rounding, below a step on another step's row."""


class FakeGraphs:
    """Lists what a GPU would do: warm, capture and replay; a replay runs the work."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, fails: bool = False) -> None:
        self.done: list[str] = []
        self.fails = fails
        monkeypatch.delenv(graphs.SWITCH, raising=False)
        monkeypatch.setattr(graphs, "_captured", self.captured)
        monkeypatch.setattr(CudaGraphStep, "_warm", lambda replayer: self.warm(replayer))

    def captured(self, work: Callable[[], None], device: torch.device) -> Any:
        self.done.append("capture")
        if self.fails:
            raise RuntimeError("operation not permitted when stream is capturing\nmore lines")
        gpu = self

        class Graph:
            def replay(self) -> None:
                gpu.done.append("replay")
                work()

        return Graph()

    def warm(self, replayer: CudaGraphStep) -> None:
        self.done.append("warm")
        replayer._work()


def with_hook(model: nn.Module) -> nn.Module:
    next(model.children()).register_forward_hook(lambda *_: None)
    return model


def fresh(name: str = "convnet2-w4") -> nn.Module:
    return build(parse(name), 1, 4, 8, seed=0)


def course_error(actual: torch.Tensor, expected: torch.Tensor, name: str = "convnet2-w4") -> float:
    """Return the distance between the ends of two trainings, relative to how far the second moved."""
    start = flatten(fresh(name))
    return float((actual - expected).norm() / (expected - start).norm())
