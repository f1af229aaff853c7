"""From the command's words to its values: a parser per command, built when the command is asked for."""

from __future__ import annotations

import importlib
import json
import keyword
from argparse import SUPPRESS
from collections.abc import Sequence
from dataclasses import fields
from typing import Any, Protocol, cast

import jsonargparse

from pydistill.cli import COMMANDS
from pydistill.cli.help import HelpFormatter, print_help, print_overview
from pydistill.cli.messages import nearest, one_line, said, too_large
from pydistill.errors import InputError
from pydistill.version import VERSION


class Command(Protocol):
    """What the module of a command holds; see the package's docstring."""

    ABOUT: str
    USAGE: str
    EXAMPLES: str

    def add_arguments(self, parser: Any) -> None:
        """Add what the command takes."""

    def run(self, values: Any) -> int:
        """Do it; returns the exit status."""


def command_module(name: str) -> Command:
    """The module of a command."""
    module = f"{name}_" if keyword.iskeyword(name) else name
    return cast(Command, importlib.import_module(f"pydistill.cli.{module}"))


class Parser(jsonargparse.ArgumentParser):  # type: ignore[misc]
    """jsonargparse's, whose --print_config prints a recipe that --config reads again."""

    def dump(self, cfg: Any, **how: Any) -> str:
        """The recipe among the values, as YAML; of a parser without one all its values, as jsonargparse has them."""
        from pydistill._util.yaml import yaml_text
        from pydistill.recipes.recipe import Recipe

        recipe = [each.name for each in fields(Recipe)]
        if not all(name in cfg for name in recipe):
            return str(super().dump(cfg, **how))
        rest = [name for name in vars(cfg) if name not in recipe]
        cfg = cfg.clone()
        for name in rest:
            del cfg[name]
        hidden = [action for action in self._actions if action.help == SUPPRESS and action.dest.split(".")[0] in recipe]
        for action in hidden:  # those that do not matter to the command are of the recipe too, and else were left out
            action.help = None
        try:
            left_out = {name: value for name, value in how.items() if name.startswith("skip_")}
            return yaml_text(json.loads(super().dump(cfg, format="json", **left_out)))
        finally:
            for action in hidden:
                action.help = SUPPRESS


def command_parser(name: str) -> Any:
    """The parser of one command."""
    command = command_module(name)
    parser = Parser(
        prog=f"pydistill {name}",
        description=command.ABOUT,
        usage=f"pydistill {name} {command.USAGE}".rstrip(),
        formatter_class=HelpFormatter,
        exit_on_error=False,
    )
    command.add_arguments(parser)
    return parser


# The arguments that are files or folders; an empty one would be the current folder.
PATHS = {"out": "a folder", "run": "a folder or a file", "experts": "a folder", "data": "a folder or a file"}


def _check_paths(parser: Any, values: Any) -> None:
    """InputError for a path that is empty, as of a shell's variable that is not set."""
    for action in parser._actions:
        what = PATHS.get(action.dest)
        if action.dest == "out" and parser.prog.endswith((" import", " report")):
            what = "a file"
        if what is not None and values.get(action.dest) == "":
            name = action.option_strings[-1] if action.option_strings else action.dest.upper()
            raise InputError(f"{name} must name {what}, not be empty")


def parse(given: Sequence[str]) -> tuple[Command, Any] | None:
    """The command that is asked for, and its values; None if help or the version was asked for, and printed.

    Raises:
        InputError: an unknown command or flag, a missing one, or a value outside its limits.
    """
    name, rest = given[0], list(given[1:])
    if name in ("-h", "--help", "help"):
        if rest:  # `pydistill help distill` as well as `pydistill distill --help`
            return parse([rest[0], "--help", *rest[1:]])
        print_overview({each: command_module(each).ABOUT for each in COMMANDS})
        return None
    if name in ("-V", "--version"):
        print(f"pydistill {VERSION}")
        return None
    if name not in COMMANDS:
        if name.startswith("-"):
            raise InputError(f"the command goes before {name}: pydistill COMMAND … (pydistill --help lists them)")
        raise InputError(
            f"there is no command {name!r}{nearest(name, COMMANDS)} (pydistill --help lists what there is)"
        )
    command, parser = command_module(name), command_parser(name)
    asked = next((place for place, word in enumerate(rest) if word in ("-h", "--help")), None)
    if asked is not None:
        print_help(parser, name, command.EXAMPLES, rest[asked + 1 : asked + 2])
        return None
    try:
        parsed = parser.parse_args(rest)
    except jsonargparse.ArgumentError as error:
        raise InputError(
            f"{said(one_line(error), parser, rest)} (pydistill {name} --help lists what there is)"
        ) from error
    except OverflowError as error:
        raise InputError(too_large(rest)) from error
    _check_paths(parser, parsed)
    try:
        return command, parser.instantiate(parsed)
    except (TypeError, ValueError) as error:
        from pydistill.recipes.recipe import refused_setting

        raise refused_setting(error) from error
