"""Recipes: one augmentation for all, and files that name code."""

from __future__ import annotations

from pathlib import Path

import pytest

from pydistill.data import DsaSettings
from pydistill.errors import InputError, SettingError
from pydistill.recipes.recipe import Recipe, load_recipe, merge, recipe_from_dict


def augmentations(recipe: Recipe) -> list[DsaSettings | None]:
    return [recipe.expert.training.dsa, recipe.distill.dsa, recipe.evaluation.training.dsa]


def merged(*settings: tuple[str, object]) -> Recipe:
    values: dict[str, object] = {}
    merge(values, settings)
    return recipe_from_dict(values)


def test_digits_are_not_mirrored_unless_asked() -> None:
    for name, mirrored in (("digits", False), ("svhn", False), ("cifar10", True), ("folder", True)):
        defaults = augmentations(recipe_from_dict({"data": {"name": name}}))
        assert defaults == [defaults[0]] * 3
        assert defaults[0] is not None
        assert ("flip" in defaults[0].parts) is mirrored
    strategy = {"strategy": "flip"}
    assert augmentations(merged(("data", {"name": "digits"}), ("dsa", strategy))) == [DsaSettings("flip")] * 3


def test_one_setting_for_all_unless_set_apart() -> None:
    data = ("data.name", "cifar10")
    assert augmentations(merged(data, ("dsa", None))) == [None] * 3
    assert augmentations(merged(data, ("dsa.flip", 0.0))) == [DsaSettings(flip=0.0)] * 3
    first, last = ("distill.dsa", None), ("dsa", {"flip": 0.0})
    for settings in ((data, first, last), (data, last, first)):
        assert augmentations(merged(*settings)) == [DsaSettings(flip=0.0), None, DsaSettings(flip=0.0)]
    with pytest.raises(SettingError) as refused:
        merged(("dsa.flp", 0.0))
    assert refused.value.setting == "dsa.flp"


def test_the_one_setting_in_a_file(tmp_path: Path) -> None:
    file = tmp_path / "mine.yaml"
    file.write_text("distill: {dsa: {flip: 0.25}}\ndsa: null\ndata: {name: cifar10}\n")
    assert augmentations(load_recipe(file)) == [None, DsaSettings(flip=0.25), None]
    assert augmentations(load_recipe(file, {"dsa.flip": 0.0})) == [
        DsaSettings(flip=0.0),
        DsaSettings(flip=0.0),
        DsaSettings(flip=0.0),
    ]


@pytest.mark.parametrize("text", ["model: {name: 'mine:net'}", "evaluation: {models: [convnet3, 'mine:net']}"])
def test_a_file_names_no_code_unless_trusted(text: str, tmp_path: Path) -> None:
    file = tmp_path / "theirs.yaml"
    file.write_text(text)
    with pytest.raises(InputError):
        load_recipe(file)
    assert "mine:net" in repr(load_recipe(file, trust=True))
    assert load_recipe(file, {"distill.steps": 3}, trust=True).distill.steps == 3
