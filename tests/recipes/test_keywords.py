"""Recipes and settings from the arguments of Python calls."""

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


def test_with_values_sets_fields_and_fields_of_training() -> None:
    settings = with_values(ExpertSettings(), {"count": 3, "epochs": 7, "lr": 0.5})
    assert (settings.count, settings.training.epochs, settings.training.lr) == (3, 7, 0.5)
    assert settings.training.dsa == DsaSettings()
    evaluation = with_values(EvaluationSettings(), {"training": TrainingSettings(batch_size=8), "epochs": 2})
    assert evaluation.training == TrainingSettings(batch_size=8, epochs=2)
    assert with_values(DistillSettings(), {}) == DistillSettings()


def test_augmentation_as_a_mapping() -> None:
    assert with_values(DistillSettings(), {"dsa": {"flip": 0.0}}).dsa == DsaSettings(flip=0.0)
    assert with_values(DistillSettings(), {"dsa": {}}).dsa == DsaSettings()
    assert with_values(ExpertSettings(), {"dsa": None}).training.dsa is None


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"itterations": 3}, "did you mean iterations"),
        ({"epochs": 3}, "epochs"),
        ({"dsa": {"flp": 0.5}}, "did you mean dsa.flip"),
    ],
)
def test_unknown_setting(values: dict[str, object], message: str) -> None:
    with pytest.raises(InputError, match=message):
        with_values(DistillSettings(), values)


def test_value_outside_its_limits() -> None:
    for values in ({"count": 0}, {"epochs": 0}, {"lr": "fast"}):
        with pytest.raises(InputError, match=next(iter(values))):
            with_values(ExpertSettings(), values)


def test_recipe_from_preset_file_and_recipe(tmp_path: Path) -> None:
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
