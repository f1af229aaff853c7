"""A recipe: everything that decides a distillation, from the data to the evaluation, in one place and one file."""

from __future__ import annotations

import difflib
import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, field, fields, replace
from importlib import resources
from pathlib import Path
from typing import Any

from pydistill._util.checks import plain
from pydistill._util.settings import settings_from_dict
from pydistill._util.yaml import plain_yaml
from pydistill.data import DataSettings
from pydistill.distillation.distiller import DistillSettings
from pydistill.errors import InputError, MissingDependencyError
from pydistill.evaluation.evaluate import EvaluationSettings
from pydistill.nn import ModelSettings
from pydistill.training.experts import ExpertSettings

PRESETS = "presets"
LARGEST_FILE = 2**20
"""Bytes; far above any recipe."""


@dataclass(frozen=True)
class Recipe:
    """What is distilled, by which networks, from which experts, how, and how the outcome is judged.

    Args:
        data: the data set and its preprocessing.
        model: the network of the experts, the student and the evaluation.
        expert: how experts are trained (the folder of experts is given beside the recipe).
        distill: the distillation.
        evaluation: the protocol that judges a distilled set.
    """

    data: DataSettings = field(default_factory=DataSettings)
    model: ModelSettings = field(default_factory=ModelSettings)
    expert: ExpertSettings = field(default_factory=ExpertSettings)
    distill: DistillSettings = field(default_factory=DistillSettings)
    evaluation: EvaluationSettings = field(default_factory=EvaluationSettings)

    def with_seed(self, seed: int) -> Recipe:
        """The recipe with one seed for experts, distillation and evaluation."""
        return replace(
            self,
            expert=replace(self.expert, seed=seed),
            distill=replace(self.distill, seed=seed),
            evaluation=replace(self.evaluation, seed=seed),
        )

    def as_dict(self) -> dict[str, Any]:
        """The recipe as nested JSON-able values."""
        values: dict[str, Any] = plain(asdict(self))
        return values


def refused_setting(error: Exception) -> InputError:
    """What a settings class said of a value, out of what jsonargparse makes of it; else its message in one line."""
    cause: BaseException | None = error
    while cause is not None:
        if isinstance(cause, InputError):
            return InputError(str(cause))
        cause = cause.__cause__
    return InputError(" ".join(str(error).split()))


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
        InputError: there is no preset of that name; those there are are named.
    """
    names = preset_names()
    if name not in names:
        near = difflib.get_close_matches(name, names, 3, cutoff=0.5)
        told = f"did you mean {' or '.join(near)}?" if near else f"there are {', '.join(names)}"
        raise InputError(f"there is no preset {name!r}; {told}")
    return Path(str(resources.files("pydistill.recipes") / PRESETS / f"{name}.yaml"))


def read_recipe_file(path: str | Path) -> dict[str, Any]:
    """The settings in a recipe's file as nested plain values, each known and of its kind.

    Raises:
        InputError: the file cannot be read or is no recipe; or a setting in it does not exist, has the wrong kind or is
            outside its limits. The message names the file and never shows its content.
        MissingDependencyError: pyyaml is not installed.
    """
    where = f"recipe {path}"
    try:
        if Path(path).is_file() and Path(path).stat().st_size > LARGEST_FILE:
            raise InputError(f"{where} has more than {LARGEST_FILE} bytes and is none; give a file such as recipe.json")
        text = Path(path).read_bytes().decode("utf-8")
        values = plain_yaml(text)
    except OSError as error:
        raise InputError(
            f"{where} cannot be read: {(error.strerror or str(error)).lower()}; name a recipe's file"
        ) from error
    except ValueError as error:
        told = "it holds bytes that are no text in UTF-8" if isinstance(error, UnicodeDecodeError) else error
        raise InputError(f"{where} is not readable as YAML or JSON: {told}") from error
    if not isinstance(values, dict):
        raise InputError(
            f"{where} holds no settings by name; write it like recipe.json of a run folder, in YAML or JSON"
        )
    settings_from_dict(Recipe, values, where)
    return values


def recipe_parser() -> Any:
    """A jsonargparse parser with the fields of `Recipe`, and `--config` for a file of them.

    Raises:
        MissingDependencyError: jsonargparse is not installed.
    """
    try:
        import jsonargparse
    except ImportError as error:
        raise MissingDependencyError(
            "reading a recipe needs jsonargparse; install it with: pip install 'pydistill[cli]'"
        ) from error
    parser = jsonargparse.ArgumentParser(exit_on_error=False)
    parser.add_argument("--config", action="config")
    parser.add_class_arguments(Recipe, None)
    return parser


def load_recipe(path: str | Path, overrides: Sequence[str] = ()) -> Recipe:
    """Read a recipe from a YAML or JSON file; what it does not name keeps its default.

    Args:
        path: a YAML or JSON file with the fields of `Recipe`.
        overrides: command-line style settings put over it, e.g. ["--distill.steps=3"].

    Raises:
        InputError: the file cannot be read, or a setting does not exist or has the wrong kind.
        MissingDependencyError: jsonargparse is not installed.
    """
    settings = json.dumps(read_recipe_file(path))
    parser = recipe_parser()
    return _parsed(parser, lambda: parser.parse_args([f"--config={settings}", *overrides]), f"recipe {path}")


def recipe_from_dict(values: Mapping[str, Any], where: str) -> Recipe:
    """The recipe that `Recipe.as_dict` was taken of; what it does not name keeps its default.

    Raises:
        InputError: a setting does not exist or has the wrong kind; `where` names its origin in the message.
    """
    return settings_from_dict(Recipe, values, where)


def _parsed(parser: Any, parse: Callable[[], Any], where: str) -> Recipe:
    import jsonargparse

    try:
        parsed = parser.instantiate(parse())
    except (jsonargparse.ArgumentError, OSError, TypeError, ValueError) as error:
        raise InputError(f"{where}: {refused_setting(error)}") from error
    return Recipe(**{each.name: parsed[each.name] for each in fields(Recipe)})
