"""From the command's words to its values: one parser for all commands, and its messages as sentences."""

from __future__ import annotations

import importlib
import keyword
from typing import Any, Protocol, cast

import jsonargparse

from pydistill.cli import COMMANDS
from pydistill.cli.messages import one_line, setting_error
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


class HelpFormatter(jsonargparse.DefaultHelpFormatter):  # type: ignore[misc]
    """jsonargparse's, with examples as they were written."""

    def _fill_text(self, text: str, width: int, indent: str) -> str:
        if text.startswith("examples:"):
            return text
        return cast(str, super()._fill_text(text, width, indent))


def command_module(name: str) -> Command:
    """The module of a command."""
    module = f"{name}_" if keyword.iskeyword(name) else name
    return cast(Command, importlib.import_module(f"pydistill.cli.{module}"))


def build_parser() -> Any:
    """The parser of all commands."""
    parser = jsonargparse.ArgumentParser(
        prog="pydistill",
        description="Dataset distillation by trajectory matching.",
        epilog="--debug with any command shows the whole traceback of an error.",
        exit_on_error=False,
        version=VERSION,
    )
    commands = parser.add_subcommands(dest="command", metavar="COMMAND")
    for name in COMMANDS:
        command = command_module(name)
        own = jsonargparse.ArgumentParser(
            description=command.ABOUT,
            usage=f"pydistill {name} {command.USAGE}",
            epilog=f"examples:\n{command.EXAMPLES.rstrip()}",
            formatter_class=HelpFormatter,
            exit_on_error=False,
        )
        command.add_arguments(own)
        commands.add_subcommand(name, own, help=command.ABOUT.split(". ")[0])
    return parser


def parse(given: list[str]) -> tuple[Command, Any]:
    """The command that is asked for, and its values.

    Raises:
        InputError: an unknown command or flag, a missing one, or a value outside its limits.
    """
    parser = build_parser()
    try:
        parsed = parser.parse_args(given)
    except jsonargparse.ArgumentError as error:
        listed = f"pydistill {given[0]} --help" if given[0] in COMMANDS else "pydistill --help"
        raise InputError(f"{setting_error(one_line(error))} ({listed} lists what there is)") from error
    name = parsed.command
    try:
        return command_module(name), parser.instantiate(parsed)[name]
    except (TypeError, ValueError) as error:
        from pydistill.recipe import refused_setting

        raise refused_setting(error) from error
