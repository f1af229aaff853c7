"""Arguments that several commands share: the recipe, the device, and what is made of them."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import jsonargparse

from pydistill.cli.messages import one_line, setting_error
from pydistill.errors import InputError

if TYPE_CHECKING:
    from pydistill.data import Dataset
    from pydistill.evaluate import Evaluation
    from pydistill.recipe import Recipe

RECIPE_USAGE = "[--preset NAME | --config FILE] [--GROUP.SETTING VALUE …]"


class RecipeFile(jsonargparse.ActionConfigFile):  # type: ignore[misc]
    """Reads a recipe from a file, or from a preset by its name."""

    def __call__(self, parser: Any, config: Any, value: Any, option: str | None = None) -> None:
        """Put the values of the file into `config`."""
        from pydistill.recipe import preset_path

        path = preset_path(value) if option == "--preset" else value
        try:
            super().__call__(parser, config, str(path), option)
        except (TypeError, ValueError, KeyError, jsonargparse.ArgumentError) as error:
            raise InputError(f"recipe {path}: {setting_error(one_line(error))}") from error


def add_recipe(parser: Any) -> None:
    """--preset, --config, and a flag for every setting of a recipe."""
    from pydistill.recipe import Recipe, preset_names

    parser.add_argument(
        "--config",
        "--preset",
        action=RecipeFile,
        metavar="FILE|NAME",
        help=f"a recipe file, or with --preset one of {', '.join(preset_names())}; flags behind it override it",
    )
    parser.add_class_arguments(Recipe, None)


def recipe_of(values: Any) -> Recipe:
    """The recipe that `add_recipe`'s arguments make."""
    from pydistill.recipe import Recipe

    return Recipe(**{name: values[name] for name in ("data", "model", "expert", "distill", "evaluation")})


def add_device(parser: Any) -> None:
    """--device."""
    parser.add_argument(
        "--device", type=str, default="auto", help="cpu, cuda, cuda:1 …; auto takes a GPU if there is one"
    )


def add_quiet(parser: Any) -> None:
    """--quiet."""
    parser.add_argument("--quiet", action="store_true", help="show no progress")


def device_of(device: str) -> str:
    """What --device means on this machine.

    Raises:
        InputError: there is no such device.
    """
    import torch

    if device == "auto":
        device = "cuda" if torch.cuda.is_available() else "cpu"
    try:
        torch.empty(0, device=device)
    except (RuntimeError, AssertionError) as error:
        raise InputError(f"device {device!r} is not to be had: {str(error).splitlines()[0]}") from error
    return device


def load_dataset(recipe: Recipe, device: str) -> Dataset:
    """The recipe's data on the device that everything then runs on.

    Raises:
        InputError: there is no such device, or the data are not where the recipe says.
    """
    from pydistill import data

    return data.load(recipe.data, device_of(device))


def percent(evaluation: Evaluation) -> str:
    """An evaluation in a person's words."""
    return f"{100 * evaluation.mean:.1f} ± {100 * evaluation.std:.1f} % ({len(evaluation.accuracies)} networks)"
