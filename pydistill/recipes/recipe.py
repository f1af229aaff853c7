"""Recipes: all settings of a run, from the data to the evaluation."""

from __future__ import annotations

import difflib
import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

from pydistill._util.settings import Settings, from_dict, setting
from pydistill.data import DataSettings
from pydistill.distillation.distiller import DistillSettings
from pydistill.errors import FormatError, InputError
from pydistill.evaluation.evaluate import EvaluationSettings
from pydistill.nn import ModelSettings
from pydistill.recipes.yaml import read_yaml
from pydistill.training.experts import ExpertSettings

PRESETS = Path(__file__).parent / "presets"
LARGEST_FILE = 2**20
"""In bytes; recipes are far smaller."""


@dataclass(frozen=True)
class Recipe(Settings):
    """All settings of a run, except the folder of its experts."""

    data: DataSettings = setting(DataSettings(), "the data set and its preprocessing")
    model: ModelSettings = setting(ModelSettings(), "the network of the experts, the student and the evaluation")
    expert: ExpertSettings = setting(ExpertSettings(), "how experts are trained")
    distill: DistillSettings = setting(
        DistillSettings(), "the distillation: method, steps, learning rates, starts and so on"
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

    def as_dict(self) -> dict[str, Any]:
        """Return the recipe as nested JSON-able values."""
        return asdict(self)


def preset_names() -> list[str]:
    """Return the names of the package's presets, as `method/dataset-ipc`."""
    return sorted(f"{file.parent.name}/{file.stem}" for file in PRESETS.glob("*/*.yaml"))


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
    return PRESETS / f"{name}.yaml"


def read_recipe_file(path: str | Path, base: Recipe | None = None) -> dict[str, Any]:
    """Read the settings in a recipe's file as nested plain values, and check them.

    Args:
        base: the recipe that the file overrides, for the check; None: the defaults.

    Raises:
        InputError: the file cannot be read or is not a recipe, or a setting in it does not exist, has the wrong type or
            is outside its limits. The message names the file.
        MissingDependencyError: ruamel.yaml is not installed.
    """
    source = f"recipe {path}"
    try:
        with open(path, "rb") as file:
            content = file.read(LARGEST_FILE + 1)
        if len(content) > LARGEST_FILE:
            raise InputError(f"{source} is larger than 1 MiB; a recipe is a small file such as a run's recipe.json")
        values = read_yaml(content.decode("utf-8"))
    except OSError as error:
        raise InputError(f"{source} cannot be read: {(error.strerror or str(error)).lower()}") from error
    except UnicodeDecodeError as error:
        raise InputError(f"{source} is not text in UTF-8") from error
    except FormatError as error:
        raise InputError(f"{source}: {error}") from error
    if values is None:
        raise InputError(f"{source} is empty; give the settings of a run, such as distill: {{steps: 30}}")
    from_dict(Recipe, values, base=base, source=source)
    return dict(json.loads(json.dumps(values)))  # resolves YAML's aliases, which would share values


def load_recipe(path: str | Path, overrides: Mapping[str, Any] | None = None) -> Recipe:
    """Read a recipe from a YAML or JSON file; settings that it does not name have their defaults.

    Args:
        path: a YAML or JSON file with the fields of `Recipe`.
        overrides: settings that replace the file's, by dotted name, such as {"distill.steps": 3}.

    Raises:
        InputError: the file cannot be read, or a setting does not exist or is invalid.
        MissingDependencyError: ruamel.yaml is not installed.
    """
    values = read_recipe_file(path)
    for name, value in (overrides or {}).items():
        put(values, name, value)
    return from_dict(Recipe, values)


def put(values: dict[str, Any], name: str, value: Any) -> None:
    """Set the value of a dotted name in nested mappings, merging mappings."""
    *groups, last = name.split(".")
    for group in groups:
        if not isinstance(values.get(group), dict):
            values[group] = {}
        values = values[group]
    if isinstance(value, dict) and isinstance(values.get(last), dict):
        for key, item in value.items():
            put(values[last], key, item)
    else:
        values[last] = value
