"""Arguments of the wrong type raise an error that names them."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch

from pydistill._util.checks import check_generator, check_integer, check_path, check_seed, check_tensor
from pydistill.distillation.distiller import Distiller
from pydistill.errors import InputError, SettingError
from pydistill.nn import build
from pydistill.training.train import train
from tests.helpers.blobs import blobs
from tests.helpers.small_runs import EXPERT, MODEL, experts, recipe


@pytest.mark.parametrize(
    ("name", "value"),
    [("settings", {}), ("dataset", None), ("store", "experts"), ("student", MODEL)],
)
def test_distiller_arguments(name: str, value: Any, small_parts: dict[str, Any]) -> None:
    with pytest.raises(SettingError) as raised:
        Distiller(**(small_parts | {name: value}))
    assert raised.value.setting == name


@pytest.fixture(scope="module")
def small_parts(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    store = experts(tmp_path_factory.mktemp("experts"))
    return {
        "settings": recipe().distill,
        "dataset": blobs(),
        "store": store,
        "student": build(MODEL, 1, 4, 8, seed=0),
    }


def test_training_needs_a_generator() -> None:
    model = torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(4, 2))
    images, labels = torch.zeros(2, 1, 2, 2), torch.tensor([0, 1])
    with pytest.raises(SettingError) as raised:
        train(model, images, labels, EXPERT.training, generator=None)  # type: ignore[arg-type]
    assert raised.value.setting == "generator"


@pytest.mark.parametrize("value", [[1, 2], np.zeros(2), None])
def test_check_tensor(value: Any) -> None:
    with pytest.raises(SettingError) as raised:
        check_tensor("x", value)
    assert (raised.value.setting, raised.value.hint) == ("x", "" if value is None else "torch.as_tensor makes one")


@pytest.mark.parametrize("value", [0, 1.0, True, "1", None])
def test_check_integer(value: Any) -> None:
    with pytest.raises(SettingError, match="n must be an integer"):
        check_integer("n", value, 1)
    check_integer("n", np.int32(2), 1)


@pytest.mark.parametrize("value", [-1, 2**63, 0.5, None])
def test_check_seed(value: Any) -> None:
    with pytest.raises(SettingError):
        check_seed(value)
    check_seed(2**63 - 1)


@pytest.mark.parametrize("value", ["", None, 3])
def test_check_path(value: Any) -> None:
    with pytest.raises(InputError):
        check_path("path", value)


def test_check_generator() -> None:
    check_generator(torch.Generator())
    with pytest.raises(SettingError):
        check_generator(0)
