"""The command line: `pydistill COMMAND …`, one file of this package per command.

A command's module holds

    ABOUT: str                      one line: what it does
    USAGE: str                      what follows the command's name
    EXAMPLES: str                   indented command lines, shown at the end of --help
    add_arguments(parser) -> None   add its flags to a pydistill.cli.parser.Parser
    run(values) -> Output           run the command; returns what to print, as JSON (--json) and as text

and imports heavy packages inside its functions, so that help is quick. A command's output goes to stdout; progress,
warnings and errors go to stderr.
"""

from __future__ import annotations

import importlib
import keyword
import logging
import os
import sys
from collections.abc import Sequence
from typing import Any

from pydistill.cli.errors import DONE, USAGE, guarded, listing, print_result
from pydistill.errors import InputError, PydistillError, UnknownSettingError

__all__ = ["COMMANDS", "main"]

# In the order of the help. A command's module has its name, with a trailing "_" if the name is a Python keyword.
COMMANDS = (
    "demo",
    "plan",
    "experts",
    "convexify",
    "distill",
    "evaluate",
    "score",
    "show",
    "report",
    "export",
    "import",
    "doctor",
)


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one command; returns its exit status: 0 done, 1 failed, 2 wrong usage, 130 interrupted.

    An error is printed as one line on stderr, with its remedy; with --debug it is raised, so that its traceback shows.
    """
    return guarded(_run, arguments)


def command_module(name: str) -> Any:
    """Import the module of a command; the package's docstring describes its contents."""
    return importlib.import_module(f"pydistill.cli.{name}{'_' if keyword.iskeyword(name) else ''}")


def _run(words: list[str]) -> int:
    from pydistill.cli.arguments import as_json, print_config
    from pydistill.cli.help import print_help, print_overview
    from pydistill.cli.parser import Parser, did_you_mean
    from pydistill.version import VERSION

    _prepare_imports()
    name, *rest = words or ["--help"]
    if name in ("-h", "--help", "help") and rest:  # `pydistill help distill` as well as `pydistill distill --help`
        name, *rest = [rest[0], "--help", *rest[1:]]
    if name in ("-h", "--help", "help"):
        with listing():
            print_overview({command: command_module(command).ABOUT for command in COMMANDS})
        return DONE if words else USAGE
    if name in ("-V", "--version"):
        with listing():
            print(f"pydistill {VERSION}")
        return DONE
    if name not in COMMANDS:
        problem = "the command goes before" if name.startswith("-") else "there is no command"
        raise InputError(f"{problem} {name}{did_you_mean(name, COMMANDS)} (pydistill --help lists the commands)")
    command = command_module(name)
    parser = Parser(
        prog=f"pydistill {name}",
        description=command.ABOUT,
        usage=f"pydistill {name} {command.USAGE}".rstrip(),
        optional="--print_config" in rest or "--print-config" in rest,
    )
    command.add_arguments(parser)
    parser.add_argument("--json", action="store_true", help="print the result as JSON, for machines")
    help_flag = next((word for word in rest if word in ("-h", "--help")), None)
    if help_flag is not None:
        topics = [word for word in rest[rest.index(help_flag) + 1 :][:1] if not word.startswith("-")]
        with listing():
            print_help(parser, command.EXAMPLES, topics[0] if topics else None)
        return DONE
    log = logging.getLogger("pydistill")
    level = log.level
    try:
        values = parser.parse(rest)
        if getattr(values, "print_config", False):
            with listing():
                print_config(values)
            return DONE
        if getattr(values, "quiet", False):
            log.setLevel(logging.WARNING)
        record, text, status = command.run(values)
        print_result(as_json(record) if values.json else text)
        return int(status)
    except PydistillError as error:
        if not getattr(error, "source", ""):  # a setting in a file is not spelt as a flag
            error.spell = "--{}".format if isinstance(error, UnknownSettingError) else parser.spell
        raise
    finally:
        log.setLevel(level)


def _prepare_imports() -> None:
    """Put the working directory on the import path, so that `--model.name mynet:small` finds the user's mynet.py."""
    try:
        here = os.getcwd()
    except FileNotFoundError as error:
        raise InputError("the working directory no longer exists; change to another one (cd)") from error
    if here not in sys.path:
        sys.path.append(here)
