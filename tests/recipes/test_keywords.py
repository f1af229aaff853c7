"""Recipes and settings from what a Python call passes."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from pydistill.data import DsaSettings
from pydistill.distillation.distiller import DistillSettings
from pydistill.errors import InputError
from pydistill.evaluation.evaluate import EvaluationSettings
from pydistill.recipes.keywords import recipe_from, with_values
from pydistill.recipes.recipe import Recipe, load_recipe, preset_path
from pydistill.training.experts import ExpertSettings
from pydistill.training.train import TrainingSettings


def test_fields_of_the_settings_and_of_their_training() -> None:
    settings = with_values(ExpertSettings(), {"count": 3, "epochs": 7, "lr": 0.5})
    assert (settings.count, settings.training.epochs, settings.training.lr) == (3, 7, 0.5)
    assert settings.training.dsa == DsaSettings()
    whole = with_values(EvaluationSettings(), {"training": TrainingSettings(batch_size=8), "epochs": 2})
    assert whole.training == TrainingSettings(batch_size=8, epochs=2)
    assert with_values(DistillSettings(), {}) == DistillSettings()


def test_an_augmentation_as_a_mapping() -> None:
    assert with_values(DistillSettings(), {"dsa": {"flip": 0.0}}).dsa == DsaSettings(flip=0.0)
    assert with_values(DistillSettings(), {"dsa": {}}).dsa == DsaSettings()
    assert with_values(ExpertSettings(), {"dsa": None}).training.dsa is None


@pytest.mark.parametrize(
    ("values", "named"),
    [
        ({"itterations": 3}, "did you mean iterations"),
        ({"epochs": 3}, "epochs"),
        ({"dsa": {"flp": 0.5}}, "did you mean dsa.flip"),
    ],
)
def test_an_unknown_setting_is_named(values: dict[str, object], named: str) -> None:
    with pytest.raises(InputError, match=named):
        with_values(DistillSettings(), values)


def test_a_value_outside_its_limits_is_refused() -> None:
    for values in ({"count": 0}, {"epochs": 0}, {"lr": "fast"}):
        with pytest.raises(InputError, match=next(iter(values))):
            with_values(ExpertSettings(), values)


def test_recipes_by_preset_by_file_and_as_they_are(tmp_path: Path) -> None:
    preset = recipe_from("demo/digits-mct")
    assert preset == load_recipe(preset_path("demo/digits-mct"))
    file = tmp_path / "recipe.json"
    file.write_text(json.dumps(preset.as_dict()))
    assert recipe_from(file) == recipe_from(str(file)) == preset
    assert recipe_from(preset) is preset
    assert recipe_from(None) == Recipe()
    for wrong in ("demo/digits-abc", "", 3):
        with pytest.raises(InputError):
            recipe_from(wrong)  # type: ignore[arg-type]
