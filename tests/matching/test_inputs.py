"""Bad input to `match` gives one clear sentence that names the argument."""

from __future__ import annotations

import logging
import re
import sys
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

from pydistill.data import DsaSettings
from pydistill.errors import BackendError, InputError
from pydistill.matching import Batches, choose_backend, match_many
from pydistill.matching import match as match_function
from pydistill.nn import MLP, ConvNet, ModelSettings, build, flatten
from pydistill.ops.extension import Extension
from tests.matching.problems import ALL, SWEEPS, make_case, needs_engine


def run(**changes: Any) -> Any:
    case = make_case(steps=2)
    arguments: dict[str, Any] = {
        "model": case.model,
        "start": case.start,
        "target": case.target,
        "batches": Batches(case.images, case.labels, case.index),
        "lr": 0.1,
    } | changes
    return match_function(**arguments)


IMAGES = torch.zeros(2, 2, 8, 8, dtype=torch.float64)
LABELS = torch.tensor([0, 1])
ROWS = torch.eye(3, dtype=torch.float64)[:2]


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"selection": "best"}, "selection"),
        ({"distance": "l3"}, "distance"),
        ({"gradient": "half"}, "gradient"),
        ({"backend": "gpu"}, "backend"),
        ({"batches": [(IMAGES[:, :1], LABELS)]}, "ConvNet"),
        ({"batches": []}, "batches"),
        ({"batches": [IMAGES]}, r"batches\[0\]"),
        ({"batches": [(IMAGES, LABELS[:1])]}, "labels of step 0"),
        ({"batches": [(IMAGES[:0], LABELS[:0])]}, "images of step 0"),
        (
            {"batches": [(IMAGES.float(), LABELS)]},
            "images of step 0",
        ),
        ({"batches": [(IMAGES / 0, LABELS)]}, "images of step 0"),
        ({"batches": [(IMAGES, LABELS + 2)]}, "hard labels"),
        ({"batches": [(IMAGES, LABELS - 1)]}, "hard labels of step 0"),
        ({"batches": [(IMAGES, LABELS.int())]}, "must be int64 class numbers"),
        ({"batches": [(IMAGES, torch.zeros(2, 4, dtype=torch.float64))]}, "label rows"),
        ({"batches": [(IMAGES, LABELS)], "label_logits": True}, "label_logits"),
        ({"lr": torch.ones(3)}, "lr"),
        ({"lr": torch.tensor(1)}, "lr"),
        (
            {"start": torch.zeros(3, dtype=torch.float64)},
            "start",
        ),
        ({"model": nn.Flatten()}, "Flatten"),
        ({"model": "convnet3"}, "model"),
        ({"start": None}, "start"),
        ({"target": [1.0, 2.0]}, "target"),
        ({"start": np.zeros(3)}, "start"),
        ({"target": "nan"}, "target"),
        ({"batches": None}, "batches"),
        ({"batches": IMAGES}, "batches"),
        ({"batches": [(IMAGES.tolist(), LABELS)]}, "images of step 0"),
        ({"batches": [(IMAGES, [0, 1])]}, "labels of step 0"),
        ({"batches": [(IMAGES, None)]}, "labels of step 0"),
        ({"batches": [(IMAGES, -ROWS)]}, "label rows of step 0"),
        ({"batches": [(IMAGES, ROWS / 0)]}, "label rows of step 0"),
        ({"lr": "0.01"}, "lr"),
        ({"lr": None}, "lr"),
        ({"lr": True}, "lr"),
        ({"lr": [0.1, 0.1]}, "lr"),
        ({"lr": float("nan")}, "lr"),
        ({"lr": float("inf")}, "lr"),
        ({"lr": torch.tensor([0.1, float("nan")])}, "lr"),
        ({"label_logits": "no"}, "label_logits"),
    ],
)
@pytest.mark.parametrize("backend", ALL)
def test_message(changes: dict[str, Any], message: str, backend: str) -> None:
    if changes.get("target") == "nan":
        changes = {"target": make_case(steps=2).target * float("nan")}
    with pytest.raises(InputError, match=message):
        run(**({"backend": backend} | changes))


def test_a_network_that_fails_without_a_word() -> None:
    class NoCallback(nn.Linear):
        def forward(self, images: torch.Tensor) -> torch.Tensor:
            raise RuntimeError

    model = NoCallback(2, 3).double()
    start = flatten(model)
    with pytest.raises(InputError, match="NoCallback"):
        run(model=model, start=start, target=start + 1, batches=[(IMAGES, LABELS)])


@pytest.mark.parametrize("backend", ALL)
def test_start_equal_to_target(backend: str) -> None:
    case = make_case()
    with pytest.raises(InputError, match="start and target"):
        run(target=case.start, backend=backend)


@pytest.mark.parametrize("backend", ALL)
def test_start_and_target_of_two_dtypes(backend: str) -> None:
    case = make_case()
    with pytest.raises(InputError, match="must"):
        run(target=case.target.float(), backend=backend)


@pytest.mark.parametrize("backend", ALL)
def test_batch_norm_in_training_mode(backend: str) -> None:
    model = ConvNet(2, 3, 8, width=4, depth=2, norm="batch").double()
    with pytest.raises(InputError, match=r"features\.1"):
        run(model=model, backend=backend)


@pytest.mark.parametrize("backend", ALL)
def test_labels_in_a_recipe(backend: str) -> None:
    """Only rows that a step trains on count: a label beyond the classes matters where the index names it."""
    case = make_case(steps=2)
    labels = case.labels.clone()
    labels[5] = 7
    index = torch.tensor([[0, 1], [3, 4]])
    assert torch.isfinite(run(batches=Batches(case.images, labels, index), backend=backend).loss)
    with pytest.raises(InputError, match="hard labels"):
        run(batches=Batches(case.images, labels, index + 1), backend=backend)


def test_a_buffer_that_changes() -> None:
    class Counting(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.linear = nn.Linear(128, 3)
            self.register_buffer("calls", torch.zeros(()))

        def forward(self, images: torch.Tensor) -> torch.Tensor:
            self.calls += 1
            return self.linear(images.flatten(1))

    model = Counting().double()
    total = 128 * 3 + 3
    for backend in ("torch", "autograd"):
        with pytest.raises(InputError, match="'calls'"):
            run(
                model=model,
                start=torch.zeros(total, dtype=torch.float64),
                target=torch.ones(total, dtype=torch.float64),
                backend=backend,
            )


def test_a_buffer_that_is_replaced() -> None:
    class Counting(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.linear = nn.Linear(128, 3)
            self.register_buffer("calls", torch.zeros(()))

        def forward(self, images: torch.Tensor) -> torch.Tensor:
            self.calls = self.calls + 1
            return self.linear(images.flatten(1)) * self.calls

    total = 128 * 3 + 3
    start = torch.zeros(total, dtype=torch.float64)
    for backend in ("torch", "autograd"):
        with pytest.raises(InputError, match="'calls'"):
            run(model=Counting().double(), start=start, target=start + 1, backend=backend)


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
        run(**inputs, backend="fused")
    with caplog.at_level(logging.INFO, logger="pydistill"):
        outcome = run(**inputs, backend="auto")
    assert outcome.backend == "torch"
    assert torch.equal(outcome.loss, run(**inputs, backend="torch").loss)
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
        run(**inputs, backend=backend)
    assert run(**inputs, backend="auto").backend == "autograd"


@needs_engine
@pytest.mark.usefixtures("unannounced")
def test_auto_says_once_what_runs_and_why(caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.INFO, logger="pydistill"):
        first = run(backend="auto")
        run(backend="auto")
    assert first.backend == "fused"
    text = [record.message for record in caplog.records if record.name == "pydistill"]
    assert text == ["matching ConvNet on cpu with backend 'fused': the adjoint sweep over fused kernels is the fastest"]


@pytest.mark.parametrize("backend", ALL)
@pytest.mark.parametrize(("dtype", "lr"), [(torch.float32, 1e6), (torch.float64, 1e200)])
def test_a_diverging_student_gives_a_loss_that_is_not_finite(dtype: torch.dtype, lr: float, backend: str) -> None:
    case = make_case("mlp-w8", steps=4, lr=lr).to(dtype)
    outcome, gradients = case.run(backend)
    assert not torch.isfinite(outcome.loss)
    assert not torch.isfinite(gradients["images"]).any()


@pytest.mark.parametrize("backend", ALL)
def test_the_nearest_step_of_a_diverging_student_is_one_before_it_diverged(backend: str) -> None:
    outcome, gradients = make_case("mlp-w8", steps=4, lr=1e6, selection="nearest").to(torch.float32).run(backend)
    assert outcome.step == 1
    assert torch.isfinite(outcome.loss)
    assert outcome.distances.isnan().tolist() == [False, False, False, True, True]
    assert torch.isfinite(gradients["images"]).all()


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"index": torch.tensor([[0, 6]])}, "index"),
        ({"index": torch.tensor([0, 1])}, "index"),
        ({"labels": torch.tensor([0])}, "images and labels"),
        ({"index": torch.zeros(3, 0, dtype=torch.int64)}, r"at least one image for each step, not shape \[3, 0\]"),
        ({"draws": ()}, "draws"),
        ({"draws": [None] * 3}, "draws"),
        ({"images": [[0.0]]}, "images"),
        ({"labels": None}, "labels"),
        ({"index": [[0, 1]]}, "index"),
        ({"index": torch.zeros(3, 2, dtype=torch.int64, device="meta")}, "index"),
    ],
)
def test_recipe_message(arguments: dict[str, Any], message: str) -> None:
    case = make_case()
    inputs = {"images": case.images, "labels": case.labels, "index": case.index, "draws": None} | arguments
    with pytest.raises(InputError, match=message):
        Batches(**inputs)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"steps": 0}, "steps"),
        ({"batch_size": 0}, "batch_size"),
        ({"steps": "2"}, "steps"),
        ({"batch_size": 2.5}, "batch_size"),
        ({"generator": None}, "generator"),
        ({"generator": 0}, "generator"),
        ({"dsa": "color"}, "dsa"),
        ({"dsa": DsaSettings(), "images": torch.zeros(6, 4)}, "images"),
        ({"images": None}, "images"),
        ({"images": torch.zeros(())}, "images"),
        ({"labels": [0, 1, 2]}, "labels"),
    ],
)
def test_drawing_a_recipe(arguments: dict[str, Any], message: str) -> None:
    case = make_case()
    inputs = {"images": case.images, "labels": case.labels, "steps": 2, "batch_size": 3, "generator": torch.Generator()}
    with pytest.raises(InputError, match=message):
        Batches.draw(**(inputs | arguments))


def test_matching_several_of_nothing() -> None:
    case = make_case(steps=2)
    batches = Batches(case.images, case.labels, case.index)
    with pytest.raises(InputError, match="targets"):
        match_many(case.model, [case.start], None, [batches], 0.1)  # type: ignore[arg-type]


def test_a_drawn_recipe_visits_every_image_equally_often() -> None:
    case = make_case()
    recipe = Batches.draw(case.images, case.labels, steps=9, batch_size=4, generator=torch.Generator())
    counts = torch.bincount(recipe.index.flatten(), minlength=6)
    assert recipe.index.shape == (9, 4)
    assert counts.tolist() == [6] * 6
