"""Arguments that several commands share: the recipe, the device, and what is made of them."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import jsonargparse

from pydistill._util.format import accuracy_of, networks
from pydistill.cli.help import GROUPS, hide
from pydistill.cli.messages import one_line, setting_error, too_large
from pydistill.errors import InputError

if TYPE_CHECKING:
    from pydistill.data import Dataset
    from pydistill.evaluation.evaluate import Evaluation
    from pydistill.recipes.recipe import Recipe

RECIPE_USAGE = "[--preset NAME | --config FILE] [--GROUP.SETTING VALUE …]"


class RecipeFile(jsonargparse.ActionConfigFile):  # type: ignore[misc]
    """Reads a recipe from a file, or from a preset by its name."""

    def __call__(self, parser: Any, config: Any, value: Any, option: str | None = None) -> None:
        """Put the values of the file into `config`."""
        from pydistill.recipes.recipe import preset_path, read_recipe_file

        path = preset_path(value) if option == "--preset" else value
        settings = read_recipe_file(path)
        try:
            super().__call__(parser, config, json.dumps(settings), option)
        except (TypeError, ValueError, KeyError, jsonargparse.ArgumentError) as error:
            raise InputError(f"recipe {path}: {setting_error(one_line(error))}") from error
        except OverflowError as error:
            raise InputError(f"recipe {path}: {too_large(())}") from error


def add_recipe(parser: Any, used: Sequence[str] = tuple(GROUPS)) -> None:
    """--preset, --config, and a flag for every setting of a recipe.

    Args:
        used: the groups of settings that matter to the command; the help does not show the others.
    """
    from pydistill.recipes.recipe import Recipe

    parser.add_argument("--config", "--preset", action=RecipeFile, metavar="FILE|NAME", help="a recipe; see below")
    parser.add_class_arguments(Recipe, None)
    hide(parser, [group for group in GROUPS if group not in used])


def recipe_of(values: Any) -> Recipe:
    """The recipe that `add_recipe`'s arguments make."""
    from pydistill.recipes.recipe import Recipe

    return Recipe(**{name: values[name] for name in ("data", "model", "expert", "distill", "evaluation")})


def add_device(parser: Any) -> None:
    """--device."""
    parser.add_argument(
        "--device", type=str, default="auto", help="cpu, cuda, cuda:1 …; auto takes a GPU if there is one"
    )


def add_quiet(parser: Any) -> None:
    """--quiet."""
    parser.add_argument("--quiet", action="store_true", help="show no progress, only warnings and errors")


def device_of(device: str) -> str:
    """What --device means on this machine.

    Raises:
        InputError: there is no such device.
    """
    import torch

    from pydistill._util.devices import usable_device

    if device == "auto":
        device = "cuda" if torch.cuda.is_available() else "cpu"
    return str(usable_device(device))


def load_dataset(recipe: Recipe, device: str) -> Dataset:
    """The recipe's data on the device that everything then runs on.

    Raises:
        InputError: there is no such device, or the data are not where the recipe says.
    """
    from pydistill import data

    return data.load(recipe.data, device_of(device))


def add_json(parser: Any) -> None:
    """--json."""
    parser.add_argument("--json", action="store_true", help="print the result as JSON, for machines")


def print_json(value: Any) -> None:
    """One JSON value on stdout; numbers that JSON does not have are null."""
    print(json.dumps(_plain(value), indent=2, allow_nan=False, ensure_ascii=False))


def _plain(value: Any) -> Any:
    if isinstance(value, Mapping):
        return {str(name): _plain(each) for name, each in value.items()}
    if isinstance(value, (list, tuple)):
        return [_plain(each) for each in value]
    if isinstance(value, float) and not math.isfinite(value):
        return None
    return str(value) if isinstance(value, Path) else value


def percent(evaluation: Evaluation) -> str:
    """An evaluation in a person's words."""
    count = len(evaluation.accuracies)
    return f"{accuracy_of(evaluation.mean, evaluation.std, count)} ({networks(count)})"
