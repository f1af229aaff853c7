"""Recipes: all settings of a run, from the data to the evaluation."""

from __future__ import annotations

import copy
import difflib
import json
from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass, fields, replace
from pathlib import Path
from typing import Any

from pydistill._util.settings import Settings, from_dict, in_group, setting
from pydistill.data import DataSettings, DsaSettings
from pydistill.distillation.distiller import DistillSettings
from pydistill.errors import InputError, Name, SettingError
from pydistill.evaluation.evaluate import EvaluationSettings
from pydistill.nn import ModelSettings
from pydistill.recipes.yaml import read_yaml_file
from pydistill.training.experts import ExpertSettings

_PRESETS = Path(__file__).parent / "presets"
_AUGMENTED = ("expert.training", "distill", "evaluation.training")
_DIGITS = ("digits", "svhn")
_DIGITS_STRATEGY = "color_crop_cutout_scale_rotate"


@dataclass(frozen=True)
class Recipe(Settings):
    """All settings of a run, except the folder of its experts."""

    data: DataSettings = setting(DataSettings(), "the data set and its preprocessing")
    model: ModelSettings = setting(ModelSettings(), "the network of the experts, the student and the evaluation")
    expert: ExpertSettings = setting(ExpertSettings(), "how experts are trained")
    distill: DistillSettings = setting(
        DistillSettings(dsa=DsaSettings()), "the distillation: method, steps, learning rates, starts and so on"
    )
    evaluation: EvaluationSettings = setting(EvaluationSettings(), "the protocol of the evaluations")

    def with_seed(self, seed: int) -> Recipe:
        """Return the recipe with one seed for experts, distillation and evaluation."""
        return replace(
            self,
            expert=replace(self.expert, seed=seed),
            distill=replace(self.distill, seed=seed),
            evaluation=replace(self.evaluation, seed=seed),
        )

    def with_dsa(self, dsa: DsaSettings | None) -> Recipe:
        """Return the recipe with one augmentation for experts, distillation and evaluation."""
        return replace(
            self,
            expert=replace(self.expert, training=replace(self.expert.training, dsa=dsa)),
            distill=replace(self.distill, dsa=dsa),
            evaluation=replace(self.evaluation, training=replace(self.evaluation.training, dsa=dsa)),
        )

    def as_dict(self) -> dict[str, Any]:
        """Return the recipe as nested JSON-able values."""
        return asdict(self)


def default_recipe(data: object = None) -> Recipe:
    """Return the defaults for the data set named `data`: digits are not mirrored."""
    return Recipe().with_dsa(DsaSettings(_DIGITS_STRATEGY)) if data in _DIGITS else Recipe()


def recipe_from_dict(values: Any, source: str = "") -> Recipe:
    """Make a recipe from nested mappings; settings that are not named have the defaults for the data set.

    Raises:
        SettingError: as `from_dict`.
    """
    data = values.get("data") if isinstance(values, Mapping) else None
    name = data.get("name", DataSettings.name) if isinstance(data, Mapping) else DataSettings.name
    return from_dict(Recipe, values, base=default_recipe(name), source=source)


def preset_names() -> list[str]:
    """Return the names of the package's presets, as `method/dataset-ipc`."""
    return sorted(f"{file.parent.name}/{file.stem}" for file in _PRESETS.glob("*/*.yaml"))


def preset_path(name: str) -> Path:
    """Return the path of a preset's file.

    Raises:
        InputError: the preset does not exist; the message suggests similar names.
    """
    names = preset_names()
    if name not in names:
        similar = difflib.get_close_matches(name, names, 3, cutoff=0.5)
        hint = f"did you mean {' or '.join(similar)}?" if similar else f"there are {', '.join(names)}"
        raise InputError(f"there is no preset {name!r}; {hint}")
    return _PRESETS / f"{name}.yaml"


def read_recipe_file(path: str | Path, base: Mapping[str, Any] | None = None, *, trust: bool = False) -> dict[str, Any]:
    """Read the settings in a recipe's file as nested plain values, and check them.

    Args:
        base: the settings that the file overrides, for the check; None: the defaults.
        trust: allow networks by import path, whose modules a run imports.

    Raises:
        InputError: the file cannot be read or is not a recipe, or a setting in it does not exist, has the wrong type or
            is outside its limits; or it names code to import. The message names the file, and shows nothing of a file
            that is not a recipe.
        MissingDependencyError: ruamel.yaml is not installed.
    """
    source = f"recipe {path}"
    values = read_yaml_file(path, source)
    if values is None:
        raise InputError(f"{source} is empty; give the settings of a run, such as distill: {{steps: 30}}")
    groups = [field.name for field in fields(Recipe)]
    if not isinstance(values, Mapping) or not any(name in values for name in (*groups, "dsa")):
        raise InputError(f"{source} is no recipe: it has none of the groups {', '.join(groups)} and dsa")
    settings: dict[str, Any] = {}
    try:
        # Through JSON, as YAML's aliases would share values; a date is text.
        merge(settings, json.loads(json.dumps(values, default=str)).items())
    except SettingError as error:
        error.source = source
        raise
    except TypeError as error:
        raise InputError(f"{source} has a list or a mapping as the name of a setting") from error
    checked = copy.deepcopy(dict(base or {}))
    merge(checked, settings.items())
    recipe = recipe_from_dict(checked, source)
    code = next((name for name in (recipe.model.name, *recipe.evaluation.models) if ":" in name), None)
    if code is not None and not trust:
        raise InputError(f"{source} names code to import, {code}: if you trust it, add ", Name("trust"))
    return settings


def load_recipe(path: str | Path, overrides: Mapping[str, Any] | None = None, *, trust: bool = False) -> Recipe:
    """Read a recipe from a YAML or JSON file; settings that it does not name have their defaults.

    Args:
        path: a YAML or JSON file with the fields of `Recipe`.
        overrides: settings that replace the file's, by dotted name, such as {"distill.steps": 3}.
        trust: allow networks by import path in the file, whose modules a run imports.

    Raises:
        InputError: the file cannot be read or names code to import, or a setting does not exist or is invalid.
        MissingDependencyError: ruamel.yaml is not installed.
    """
    values = read_recipe_file(path, trust=trust)
    merge(values, (overrides or {}).items())
    return recipe_from_dict(values)


def merge(values: dict[str, Any], settings: Iterable[tuple[str, Any]]) -> None:
    """Set dotted names in nested mappings, in order; `dsa` stands for the augmentation of experts, student, evaluation.

    A setting of one of these three overrides `dsa`, in any order.

    Raises:
        SettingError: the augmentation in `dsa` does not exist.
    """
    for name, value in sorted(settings, key=lambda setting: setting[0].partition(".")[0] != "dsa"):
        group, _, part = name.partition(".")
        if group != "dsa":
            _put(values, name, value)
            continue
        dsa = {part: value} if part else value
        if dsa is not None:
            with in_group("dsa"):
                from_dict(DsaSettings, dsa)
        for place in _AUGMENTED:
            _put(values, f"{place}.dsa", dsa if dsa is None else dict(dsa))


def _put(values: dict[str, Any], name: str, value: Any) -> None:
    """Set the value of a dotted name in nested mappings, merging mappings."""
    *groups, last = name.split(".")
    for group in groups:
        if not isinstance(values.get(group), dict):
            values[group] = {}
        values = values[group]
    if isinstance(value, dict) and isinstance(values.get(last), dict):
        for key, item in value.items():
            _put(values[last], key, item)
    else:
        values[last] = value
