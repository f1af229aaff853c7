"""Values of the wrong kind, from Python, where no parser has looked at them: one sentence each."""

from __future__ import annotations

import json
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from pydistill._util.checks import check_generator, check_tensor, check_whole
from pydistill.data import DsaSettings
from pydistill.distillation.distiller import Distiller, DistillSettings
from pydistill.errors import InputError
from pydistill.evaluation.evaluate import EvaluationSettings
from pydistill.nn import build
from pydistill.runs.run import run_distillation
from pydistill.training.experts import ExpertSettings, train_experts
from pydistill.training.train import TrainingSettings, train
from tests.helpers.blobs import blobs
from tests.helpers.small_runs import EXPERT, MODEL, assert_same_outcome, experts, recipe


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"steps": "30"}, "steps must be a whole number, not '30'"),
        ({"steps": 2.5}, r"steps must be a whole number, not 2\.5"),
        ({"iterations": None}, "iterations must be a whole number, not None"),
        ({"ipc": True}, "ipc must be a whole number, not True"),
        ({"lr_image": "0.01"}, "lr_image must be a number, not '0.01'"),
        ({"lr_init": torch.tensor(0.1)}, "lr_init must be a number, not a Tensor"),
        (
            {"waypoints": "4"},
            "waypoints must be a whole number or a list of which each is a whole number or None, not '4'",
        ),
        (
            {"waypoints": [0, 2.5]},
            "waypoints must be a whole number or a list of which each is a whole number or None, not a list",
        ),
        ({"dsa": "color"}, "dsa must be a DsaSettings or None, not 'color'"),
        ({"distance": "l3"}, "distance must be one of l1, l2, not 'l3'"),
        ({"method": 3}, "method must be a text, not 3"),
        ({"growing": 1}, "growing must be true or false or None, not 1"),
    ],
)
def test_settings_of_a_distillation(changes: dict[str, Any], message: str) -> None:
    with pytest.raises(InputError, match=f"^{message}$"):
        DistillSettings(**changes).check()


def test_numbers_of_numpy_and_whole_numbers_for_real_ones_are_taken() -> None:
    settings = DistillSettings(steps=np.int64(3), lr_image=10, lr_lr=np.float32(1e-3), waypoints=(0, 2, 4))  # type: ignore[arg-type]
    settings.check()
    assert replace(settings, dsa=DsaSettings()).steps == 3


def test_settings_hold_python_s_own_numbers() -> None:
    settings = DistillSettings(
        steps=np.int64(3), lr_lr=np.float32(0.25), waypoints=range(0, 6, 2), max_lr=np.float64(2)
    )  # type: ignore[arg-type]
    settings.check()
    assert settings == DistillSettings(steps=3, lr_lr=0.25, waypoints=[0, 2, 4], max_lr=2.0)
    kept = [settings.steps, settings.lr_lr, settings.waypoints, settings.max_lr]
    assert [type(each) for each in kept] == [int, float, list, float]
    training = TrainingSettings(epochs=np.int64(6), lr=np.float32(0.5), dsa=DsaSettings(crop=np.float32(0.25)))  # type: ignore[arg-type]
    assert json.dumps(asdict(training)) == json.dumps(
        asdict(TrainingSettings(epochs=6, lr=0.5, dsa=DsaSettings(crop=0.25)))
    )


def test_a_recipe_of_numpy_s_numbers_is_written_as_one_of_python_s(tmp_path: Path) -> None:
    own = recipe(iterations=1, lr_image=0.5)
    numpy_s = replace(
        recipe(iterations=np.arange(3)[1], lr_image=np.float32(0.5)),
        expert=replace(EXPERT, count=np.int64(EXPERT.count), training=replace(EXPERT.training, epochs=np.uint8(6))),
        evaluation=replace(own.evaluation, repeats=np.int64(2), seed=np.int64(0)),
    )
    store = train_experts(blobs(), numpy_s.model, numpy_s.expert, tmp_path / "experts")
    for name, each in (("own", own), ("numpy", numpy_s)):
        run_distillation(each, blobs(), store, tmp_path / name)
    for file in ("recipe.json", "config.json"):
        assert (tmp_path / "own" / file).read_text() == (tmp_path / "numpy" / file).read_text()
    assert_same_outcome(tmp_path / "own", tmp_path / "numpy")


@pytest.mark.parametrize(
    ("kind", "changes", "message"),
    [
        (TrainingSettings, {"epochs": "5"}, "epochs must be a whole number, not '5'"),
        (TrainingSettings, {"lr": None}, "lr must be a number, not None"),
        (ExpertSettings, {"training": {"epochs": 5}}, "training must be a TrainingSettings, not a dict"),
        (ExpertSettings, {"count": 1.0}, r"count must be a whole number, not 1\.0"),
        (EvaluationSettings, {"models": "convnet3"}, "models must be a list of which each is a text, not 'convnet3'"),
        (EvaluationSettings, {"models": (MODEL,)}, "models must be a list of which each is a text, not a tuple"),
    ],
)
def test_other_settings(kind: type, changes: dict[str, Any], message: str) -> None:
    with pytest.raises(InputError, match=f"^{message}"):
        kind(**changes)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"settings": {}}, "settings must be DistillSettings, not a dict"),
        ({"dataset": None}, "dataset must be a Dataset; .* makes one of arrays, not None"),
        ({"store": "experts"}, "store must be a TrajectoryStore; .* opens one, not 'experts'"),
        ({"student": MODEL}, r"student must be a torch\.nn\.Module, not a ModelSettings"),
    ],
)
def test_a_distiller(changes: dict[str, Any], message: str, small_parts: dict[str, Any]) -> None:
    with pytest.raises(InputError, match=message):
        Distiller(**(small_parts | changes))


@pytest.fixture(scope="module")
def small_parts(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    store = experts(tmp_path_factory.mktemp("experts"))
    return {
        "settings": recipe().distill,
        "dataset": blobs(),
        "store": store,
        "student": build(MODEL, 1, 4, 8, seed=0),
    }


def test_a_training_without_a_generator() -> None:
    model = torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(4, 2))
    images, labels = torch.zeros(2, 1, 2, 2), torch.tensor([0, 1])
    with pytest.raises(InputError, match=r"generator must be a torch\.Generator, not None; .* makes one"):
        train(model, images, labels, EXPERT.training, generator=None)  # type: ignore[arg-type]


def test_the_checks_themselves() -> None:
    with pytest.raises(InputError, match=r"x must be a tensor, not a list; torch\.as_tensor makes one"):
        check_tensor("x", [1, 2])
    with pytest.raises(InputError, match=r"x must be a tensor, not a ndarray; torch\.as_tensor makes one"):
        check_tensor("x", np.zeros(2))
    with pytest.raises(InputError, match=r"x must be a tensor, not None$"):
        check_tensor("x", None)
    with pytest.raises(InputError, match="n must be at least 1, not 0"):
        check_whole("n", 0, 1)
    check_whole("n", np.int32(2), 1)
    check_generator(torch.Generator())
