"""A recipe: all settings of a run, from the data to the evaluation, in one object and one file."""

from __future__ import annotations

import difflib
import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass, replace
from importlib import resources
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

PRESETS = "presets"
LARGEST_FILE = 2**20
"""Bytes; far above any recipe."""


@dataclass(frozen=True)
class Recipe(Settings):
    """The settings of a run as a whole; the folder of the experts is given beside it."""

    data: DataSettings = setting(DataSettings(), "the data set and its preprocessing")
    model: ModelSettings = setting(ModelSettings(), "the network of the experts, the student and the evaluation")
    expert: ExpertSettings = setting(ExpertSettings(), "how experts are trained")
    distill: DistillSettings = setting(
        DistillSettings(), "the distillation: method, steps, learning rates, starts and so on"
    )
    evaluation: EvaluationSettings = setting(EvaluationSettings(), "the protocol of the evaluations")

    def with_seed(self, seed: int) -> Recipe:
        """The recipe with one seed for experts, distillation and evaluation."""
        return replace(
            self,
            expert=replace(self.expert, seed=seed),
            distill=replace(self.distill, seed=seed),
            evaluation=replace(self.evaluation, seed=seed),
        )

    def as_dict(self) -> dict[str, Any]:
        """The recipe as nested values that JSON can hold."""
        return asdict(self)


def preset_names() -> list[str]:
    """The presets that come with the package, as `method/dataset-ipc`."""
    root = resources.files("pydistill.recipes") / PRESETS
    return sorted(
        f"{folder.name}/{file.name.removesuffix('.yaml')}"
        for folder in root.iterdir()
        if folder.is_dir()
        for file in folder.iterdir()
        if file.name.endswith(".yaml")
    )


def preset_path(name: str) -> Path:
    """The file of a preset.

    Raises:
        InputError: there is no preset of that name; the message suggests similar ones.
    """
    names = preset_names()
    if name not in names:
        near = difflib.get_close_matches(name, names, 3, cutoff=0.5)
        hint = f"did you mean {' or '.join(near)}?" if near else f"there are {', '.join(names)}"
        raise InputError(f"there is no preset {name!r}; {hint}")
    return Path(str(resources.files("pydistill.recipes") / PRESETS / f"{name}.yaml"))


def read_recipe_file(path: str | Path, base: Recipe | None = None) -> dict[str, Any]:
    """Read the settings in a recipe's file as nested plain values, and check them.

    Args:
        base: the recipe that the file overrides, for the check; None: the defaults.

    Raises:
        InputError: the file cannot be read or is no recipe, or a setting in it does not exist, has the wrong type or is
            outside its limits. The message names the file.
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
    from_dict(Recipe, values, base=base, source=source)
    return dict(json.loads(json.dumps(values)))  # without YAML's aliases, so that a change of one is not one of both


def load_recipe(path: str | Path, overrides: Mapping[str, Any] | None = None) -> Recipe:
    """Read a recipe from a YAML or JSON file; what it does not name keeps its default.

    Args:
        path: a YAML or JSON file with the fields of `Recipe`.
        overrides: settings that replace the file's, by dotted name, such as {"distill.steps": 3}.

    Raises:
        InputError: the file cannot be read, or a setting does not exist or is refused.
        MissingDependencyError: ruamel.yaml is not installed.
    """
    values = read_recipe_file(path)
    for name, value in (overrides or {}).items():
        put(values, name, value)
    return from_dict(Recipe, values)


def put(values: dict[str, Any], name: str, value: Any) -> None:
    """Set the value of a dotted name in nested mappings; mappings are merged."""
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
