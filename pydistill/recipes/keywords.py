"""Make recipes and settings from the arguments of Python calls: preset names, mappings and keywords."""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import fields, replace
from typing import Any, TypeVar

from pydistill._util.checks import check_path
from pydistill._util.settings import Settings, from_dict
from pydistill.data import Dataset
from pydistill.errors import UnknownSettingError
from pydistill.recipes.recipe import (
    Recipe,
    default_recipe,
    load_recipe,
    preset_names,
    preset_path,
    read_recipe_file,
)

S = TypeVar("S", bound=Settings)


def recipe_from(recipe: Recipe | str | os.PathLike[str] | None, data: str = "", *, trust: bool = False) -> Recipe:
    """Return a recipe: the given one, that of a preset or a file, or the default one of the data set for None.

    Raises:
        InputError: the preset or file does not exist, or is not a recipe; or the file names code and `trust` is false.
        MissingDependencyError: a package that reads recipes is not installed.
    """
    if recipe is None or isinstance(recipe, Recipe):
        return recipe or default_recipe(data)
    check_path("recipe", recipe)
    name = os.fspath(recipe)
    return load_recipe(preset_path(name) if name in preset_names() else name, trust=trust)


def quick_preset(dataset: Dataset) -> str:
    """Return the name of the preset for a first try on the data: quick/table for images of one pixel, else images."""
    return "quick/table" if dataset.image_size == (1, 1) else "quick/images"


def quick_recipe(dataset: Dataset) -> Recipe:
    """Return the recipe for a first try on the data; digits are not mirrored."""
    values = read_recipe_file(preset_path(quick_preset(dataset)))
    return from_dict(Recipe, values, base=default_recipe(dataset.name))


def with_values(settings: S, values: Mapping[str, Any]) -> S:
    """Return the settings with new values for some of their fields, or of the fields of their `training`.

    Raises:
        SettingError: a setting does not exist, or a value is outside its limits.
    """
    training: Any = getattr(settings, "training", None)
    own, inner = _names(settings), [] if training is None else _names(training)
    for name in values:
        if name not in (*own, *inner):
            raise UnknownSettingError(name, (*own, *inner))
    settings = from_dict(type(settings), {name: values[name] for name in own if name in values}, base=settings)
    of_training = {name: values[name] for name in inner if name in values and name not in own}
    if not of_training:
        return settings
    training = from_dict(type(training), of_training, base=settings.training)  # type: ignore[attr-defined]
    return replace(settings, training=training)  # type: ignore[type-var]


def _names(settings: Any) -> list[str]:
    return [field.name for field in fields(settings)]
