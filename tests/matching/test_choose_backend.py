"""The choice of a backend: what `fused` cannot run, what `auto` takes instead and logs."""

from __future__ import annotations

import logging
import re
import sys
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import nn

from pydistill.errors import BackendError
from pydistill.matching import Batches, choose_backend
from pydistill.nn import MLP, ConvNet, ModelSettings, build, flatten
from pydistill.ops.extension import Extension
from tests.matching.problems import IMAGES, LABELS, SWEEPS, make_case, needs_engine, run_match


def _convnet(**settings: Any) -> ConvNet:
    return ConvNet(2, 3, 8, **({"width": 4, "depth": 2} | settings)).double()


def _changed(**layers: nn.Module) -> ConvNet:
    """A ConvNet of which some layers were replaced."""
    model = _convnet()
    for number, layer in layers.items():
        model.features[int(number.removeprefix("layer"))] = layer.double()
    return model


def _hooked(register: str) -> ConvNet:
    model = _convnet()
    getattr(model.features[2], register)(lambda *arguments: None)
    return model


def _other_eps() -> ConvNet:
    model = _convnet()
    model.features[1].eps = 0.5
    return model


def _other_forward() -> ConvNet:
    model = _convnet()
    model.forward = lambda images: 2 * ConvNet.forward(model, images)  # type: ignore[method-assign]
    return model


def _tied() -> ConvNet:
    model = _convnet()
    model.features[5].weight = model.features[1].weight
    return model


class Subclass(ConvNet):
    pass


def _several_shapes() -> dict[str, Any]:
    # The odd last row and column are dropped by the pooling, so the network takes both.
    images = [IMAGES, torch.ones(2, 2, 9, 9, dtype=torch.float64)]
    return {"model": _convnet(), "batches": [(value, LABELS) for value in images]}


OBSTACLES: dict[str, tuple[Callable[[], dict[str, Any]], str]] = {
    "network": (
        lambda: {"model": build(ModelSettings("resnet18", width=4), 2, 3, 8, seed=0).double()},
        "it runs pydistill.nn.ConvNet and MLP, not ResNet18",
    ),
    "subclass": (lambda: {"model": Subclass(2, 3, 8, width=4, depth=2).double()}, "ConvNet and MLP, not Subclass"),
    "norm": (lambda: {"model": _convnet(norm="group")}, "it knows the norms instance and none, not group"),
    "activation": (lambda: {"model": _convnet(activation="sigmoid")}, "it knows the activation relu, not sigmoid"),
    "another layer": (lambda: {"model": _changed(layer2=nn.Tanh())}, "this ConvNet was changed after it was made"),
    "another padding": (
        lambda: {"model": _changed(layer0=nn.Conv2d(2, 4, 3, padding=1, padding_mode="circular"))},
        "this ConvNet was changed after it was made",
    ),
    "a layer without bias": (
        lambda: {"model": _changed(layer0=nn.Conv2d(2, 4, 3, padding=1, bias=False))},
        "this ConvNet was changed after it was made",
    ),
    "another eps": (lambda: {"model": _other_eps()}, "this ConvNet was changed after it was made"),
    "another forward": (lambda: {"model": _other_forward()}, "this ConvNet was changed after it was made"),
    "tied parameters": (lambda: {"model": _tied()}, "this ConvNet was changed after it was made"),
    "forward hook": (lambda: {"model": _hooked("register_forward_hook")}, "this ConvNet has hooks"),
    "forward pre-hook": (lambda: {"model": _hooked("register_forward_pre_hook")}, "this ConvNet has hooks"),
    "backward hook": (lambda: {"model": _hooked("register_full_backward_hook")}, "this ConvNet has hooks"),
    "several image shapes": (_several_shapes, "it takes images of one shape, and here the steps have several"),
    "flat images": (
        lambda: {"model": MLP(2, 3, 8, width=4).double(), "batches": [(IMAGES.flatten(1), LABELS)]},
        r"it takes images \[B, C, H, W\], not \[B, 128\]",
    ),
}


def _with_points(changes: dict[str, Any]) -> dict[str, Any]:
    """The changes and, where the network is another, points of its own."""
    if "model" not in changes:
        return changes
    start = flatten(changes["model"])
    return {"start": start, "target": start + 0.02, **changes}


def _falls_back(changes: dict[str, Any], reason: str, caplog: pytest.LogCaptureFixture) -> None:
    """By name `fused` raises and names the backend that can; `auto` takes that one and says why."""
    inputs = _with_points(changes)
    with pytest.raises(BackendError, match=f"'fused'.*{reason}.*'torch'"):
        run_match(**inputs, backend="fused")
    with caplog.at_level(logging.INFO, logger="pydistill"):
        outcome = run_match(**inputs, backend="auto")
    assert outcome.backend == "torch"
    assert torch.equal(outcome.loss, run_match(**inputs, backend="torch").loss)
    text = [record.message for record in caplog.records if "with backend 'torch'" in record.message]
    assert len(text) == 1
    assert re.search(f"runs any module in the memory of one step; 'fused' cannot: .*{reason}", text[0])


@pytest.fixture
def unannounced(monkeypatch: pytest.MonkeyPatch) -> None:
    """As in a process that has not matched anything yet."""
    monkeypatch.setattr(sys.modules["pydistill.matching.match"], "_announced", set())


@needs_engine
@pytest.mark.usefixtures("unannounced")
@pytest.mark.parametrize("name", OBSTACLES)
def test_what_fused_cannot_run(name: str, caplog: pytest.LogCaptureFixture) -> None:
    make, reason = OBSTACLES[name]
    _falls_back(make(), reason, caplog)


@needs_engine
@pytest.mark.usefixtures("unannounced")
def test_fused_does_not_follow_autocast(caplog: pytest.LogCaptureFixture) -> None:
    with torch.autocast("cpu", dtype=torch.bfloat16):
        _falls_back({}, "it does not follow autocast", caplog)


@pytest.mark.usefixtures("unannounced")
def test_a_build_without_the_engine(caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch) -> None:
    absent = Extension(None, "the extension was not built", None)
    monkeypatch.setattr("pydistill.engine.student.load_extension", lambda: absent)
    _falls_back({}, "the extension was not built", caplog)


def test_a_device_without_kernels(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("pydistill.engine.student.load_extension", lambda: Extension({"cuda": False}, None, "here"))
    like = torch.empty(0, device="meta")
    assert choose_backend("auto", _convnet(), like)[0] == "torch"
    with pytest.raises(BackendError, match="'fused'"):
        choose_backend("fused", _convnet(), like)


@pytest.mark.parametrize("backend", SWEEPS)
def test_a_dtype_that_only_the_whole_graph_takes(backend: str) -> None:
    case = make_case(steps=2).to(torch.bfloat16)
    inputs = {name: getattr(case, name) for name in ("model", "start", "target")}
    inputs["batches"] = Batches(case.images, case.labels, case.index)
    text = "it computes in float32 or float64, not torch.bfloat16; backend 'autograd' can"
    with pytest.raises(BackendError, match=f"backend '{backend}' cannot run this: {text}"):
        run_match(**inputs, backend=backend)
    assert run_match(**inputs, backend="auto").backend == "autograd"


@needs_engine
@pytest.mark.usefixtures("unannounced")
def test_auto_says_once_what_runs_and_why(caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.INFO, logger="pydistill"):
        first = run_match(backend="auto")
        run_match(backend="auto")
    assert first.backend == "fused"
    text = [record.message for record in caplog.records if record.name == "pydistill"]
    assert text == ["matching ConvNet on cpu with backend 'fused': the adjoint sweep over fused kernels is the fastest"]
