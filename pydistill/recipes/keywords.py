"""Recipes and settings from what a Python call passes: a preset's name, a mapping, keywords."""

from __future__ import annotations

import difflib
import os
from collections.abc import Mapping
from dataclasses import fields, replace
from typing import Any, TypeVar

from pydistill._util.checks import check_path
from pydistill.data import DsaSettings
from pydistill.errors import InputError
from pydistill.recipes.recipe import Recipe, load_recipe, preset_names, preset_path

Settings = TypeVar("Settings")


def recipe_from(recipe: Recipe | str | os.PathLike[str] | None) -> Recipe:
    """The recipe itself, or that of a preset or a file; None gives the defaults.

    Raises:
        InputError: there is no such preset or file, or it is not a recipe.
        MissingDependencyError: a package that reads recipes is not installed.
    """
    if recipe is None or isinstance(recipe, Recipe):
        return recipe or Recipe()
    check_path("recipe", recipe)
    name = os.fspath(recipe)
    return load_recipe(preset_path(name) if name in preset_names() else name)


def with_values(settings: Settings, values: Mapping[str, Any]) -> Settings:
    """The settings with new values for some of their fields, or of the fields of their `training`.

    A mapping for `dsa` stands for `DsaSettings` of these values.

    Raises:
        InputError: there is no such setting, or a value is outside its limits.
    """
    training: Any = getattr(settings, "training", None)
    own, inner = _names(settings), [] if training is None else _names(training)
    for name in values:
        if name not in (*own, *inner):
            near = difflib.get_close_matches(str(name), (*own, *inner), 1)
            hint = f"did you mean {near[0]}?" if near else f"there are {', '.join((*own, *inner))}"
            raise InputError(f"{name} is not a setting here; {hint}")
    changed = {name: _value(name, value) for name, value in values.items()}
    of_training = {name: changed.pop(name) for name in inner if name in changed}
    if of_training:
        changed["training"] = replace(changed.get("training", training), **of_training)
    return replace(settings, **changed)  # type: ignore[type-var]


def _names(settings: Any) -> list[str]:
    return [field.name for field in fields(settings)]


def _value(name: str, value: Any) -> Any:
    return with_values(DsaSettings(), value) if name == "dsa" and isinstance(value, Mapping) else value
