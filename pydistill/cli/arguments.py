"""Arguments that several commands share, and what commands make of their values."""

from __future__ import annotations

import argparse
import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import fields
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from pydistill.cli.errors import DONE

if TYPE_CHECKING:
    from pydistill.cli.parser import Parser
    from pydistill.recipes.recipe import Recipe
    from pydistill.runs.diagnosis import Finding

RECIPE_USAGE = "[--preset NAME] [--config FILE] [--GROUP.SETTING VALUE …]"


class Output(NamedTuple):
    """The output of a command, as JSON-able values and as text, and its exit status."""

    record: Any
    text: str
    status: int = DONE


def path(text: str) -> str:
    """Argument type of a file or a folder; refuses the empty string that an unset shell variable leaves."""
    if not text:
        raise argparse.ArgumentTypeError("must be a path, not be empty")
    return text


def add_recipe(parser: Parser, listed: Sequence[str] | None = None) -> None:
    """Add --preset, --config, --print_config, and a flag for every setting of a recipe.

    Args:
        listed: the groups of settings that --help lists; None for all.
    """
    from pydistill.data import DsaSettings
    from pydistill.recipes.recipe import Recipe

    parser.add_argument("--preset", action="append", default=[], metavar="NAME", help="a built-in recipe")
    parser.add_argument(
        "--config", action="append", default=[], metavar="FILE", help="a recipe of your own; overrides the preset"
    )
    parser.add_argument(
        "--trust", action="store_true", help="let --config name networks package.module:callable, which are imported"
    )
    parser.add_argument(
        "--print_config", action="store_true", help="print the resulting recipe as YAML for --config, and stop"
    )
    for group in fields(Recipe):
        shown = listed is None or group.name in listed
        parser.add_settings(group.name, group.metadata["help"], getattr(Recipe(), group.name), listed=shown)
    about = "the augmentation of experts, distillation and evaluation, unless one has its own"
    parser.add_settings("dsa", about, DsaSettings())


def recipe_of(values: Any, *, quick: str = "quick/images") -> Recipe:
    """Build the recipe of a command line from presets, then files, then flags; later ones override earlier ones.

    Args:
        quick: the preset of a command line with the place of the data instead of presets and files.
    """
    from pydistill.recipes.recipe import merge, preset_path, read_recipe_file, recipe_from_dict

    settings: dict[str, Any] = {}
    place = getattr(values, "place", None)
    presets = values.preset if place is None or values.preset or values.config else [quick]
    for file in [*map(preset_path, presets), *values.config]:
        merge(settings, read_recipe_file(file, settings, trust=values.trust).items())
    if place is not None:
        merge(settings, {"data.path": place}.items())
        if place.endswith(".npz") and settings["data"].get("name") == "folder":
            merge(settings, {"data.name": "tensors", "data.image_size": None}.items())
    if getattr(values, "ipc", None) is not None:
        merge(settings, {"distill.ipc": values.ipc}.items())
    merge(settings, ((name, value) for name, value in values.settings if not name.startswith("log.")))
    return recipe_from_dict(settings)


def print_config(values: Any) -> None:
    """Print the recipe of a command line as YAML that --config reads."""
    from pydistill.recipes.yaml import write_yaml

    print(write_yaml(recipe_of(values).as_dict()), end="")


def add_device(parser: Parser) -> None:
    """Add --device."""
    parser.add_argument(
        "--device", type=str, default="auto", help="cpu, cuda, cuda:1 …; auto uses a GPU if there is one"
    )


def add_protocol(parser: Parser) -> None:
    """Add --protocol, --repeats, --epochs, --seed and --data."""
    parser.add_argument(
        "--protocol", type=str, help="mtt, datm or ddranking: how they train and test (default: the recipe's own)"
    )
    parser.add_argument("--repeats", type=int, help="networks to train per architecture")
    parser.add_argument("--epochs", type=int, help="epochs of a training")
    parser.add_argument("--seed", type=int, help="seed of the trainings")
    parser.add_argument(
        "--data.path", "--data", dest="data", type=path, metavar="PATH", help="path of the data set, if it has moved"
    )


def add_quiet(parser: Parser) -> None:
    """Add --quiet."""
    parser.add_argument("--quiet", action="store_true", help="show no progress, only warnings and errors")


def device_of(device: str) -> str:
    """Return the device that --device names, with `auto` resolved.

    Raises:
        InputError: there is no such device.
    """
    from pydistill._util.devices import usable_device

    return str(usable_device(None if device == "auto" else device))


def diagnosis(findings: Sequence[Finding]) -> str:
    """Return findings as lines below a result, with settings as flags; nothing if there are none."""
    lines = [f"- {finding.sentence('--{}'.format)}" for finding in findings]
    return "\n\n" + "\n".join(lines) if lines else ""


def as_json(value: Any) -> str:
    """Return a value as JSON, with null for NaN and infinities."""
    return json.dumps(_plain(value), indent=2, allow_nan=False, ensure_ascii=False)


def _plain(value: Any) -> Any:
    if isinstance(value, Mapping):
        return {str(name): _plain(item) for name, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [_plain(item) for item in value]
    if isinstance(value, float) and not math.isfinite(value):
        return None
    return str(value) if isinstance(value, Path) else value
