"""Settings out of plain values: round trips, and one sentence for everything else."""

from __future__ import annotations

import json
from dataclasses import replace
from typing import Any

import pytest

from pydistill._util.settings import settings_from_dict
from pydistill.data import DsaSettings
from pydistill.errors import InputError
from pydistill.recipes.recipe import Recipe, load_recipe, preset_names, preset_path


@pytest.mark.parametrize("name", preset_names()[::5])
def test_a_recipe_survives_json(name: str) -> None:
    pytest.importorskip("jsonargparse")
    recipe = load_recipe(preset_path(name))
    assert settings_from_dict(Recipe, json.loads(json.dumps(recipe.as_dict())), "here") == recipe


def test_every_kind_of_setting_survives() -> None:
    recipe = Recipe()
    recipe = replace(
        recipe,
        distill=replace(recipe.distill, waypoints=[0, 3, 6], dsa=DsaSettings(mode="M"), expert_epochs=2, ema=0.5),
        evaluation=replace(recipe.evaluation, models=("convnet3", "mlp")),
    )
    found = settings_from_dict(Recipe, json.loads(json.dumps(recipe.as_dict())), "here")
    assert found == recipe
    assert type(found.distill.expert_epochs) is float
    assert type(found.evaluation.models) is tuple


def test_what_is_not_named_keeps_its_default() -> None:
    assert settings_from_dict(Recipe, {}, "here") == Recipe()
    assert settings_from_dict(Recipe, {"distill": {"steps": 3}}, "here").distill.steps == 3


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ([], "here: the settings must be settings by name, not []"),
        ({"distill": 3}, "here: distill must be settings by name, not 3"),
        ({"distill": {"stps": 3}}, "here: there is no setting distill.stps; did you mean distill.steps?"),
        ({"teacher": {}}, "here: there is no setting teacher; there are data, model, expert, distill, evaluation"),
        ({"distill": {"steps": "3"}}, "here: distill.steps must be a whole number, not '3'"),
        ({"distill": {"steps": True}}, "here: distill.steps must be a whole number, not True"),
        ({"distill": {"steps": 3.0}}, "here: distill.steps must be a whole number, not 3.0"),
        ({"distill": {"ema": "none"}}, "here: distill.ema must be a number or None, not 'none'"),
        (
            {"distill": {"backend": "gpu"}},
            "here: distill.backend must be one of auto, fused, torch, autograd, not 'gpu'",
        ),
        (
            {"distill": {"waypoints": [1, "x"]}},
            "here: distill.waypoints must be a whole number or a list of which each",
        ),
        ({"distill": {"dsa": {"flip": 2}}}, "here: flip=2.0 of the augmentation must be in [0, 1]"),
        ({"distill": {"lr_image": 10**400}}, None),
        (
            {"evaluation": {"training": {"epochs": None}}},
            "here: evaluation.training.epochs must be a whole number, not",
        ),
        ({"evaluation": {"repeats": 0}}, "here: repeats must be at least 1, not 0"),
    ],
)
def test_what_is_refused(values: Any, message: str | None) -> None:
    if message is None:
        assert settings_from_dict(Recipe, values, "here").distill.lr_image == float("inf")
        return
    with pytest.raises(InputError) as told:
        settings_from_dict(Recipe, values, "here")
    assert str(told.value).startswith(message)
