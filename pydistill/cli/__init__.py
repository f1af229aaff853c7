"""The command line: `pydistill COMMAND …`, one file of this package per command.

A command's module holds

    ABOUT: str                      one line: what it does
    USAGE: str                      what follows the command's name
    EXAMPLES: str                   indented command lines, shown at the end of --help
    add_arguments(parser) -> None   what it takes, of a jsonargparse parser
    run(values) -> int              do it; returns the exit status (pydistill.cli.status)

and imports heavy packages inside its functions, so that help is quick. What a command has as its result goes to
stdout; progress, warnings and errors go to stderr.
"""

from __future__ import annotations

import logging
import os
import sys
from collections.abc import Sequence

from pydistill.cli import status
from pydistill.cli.ending import guarded
from pydistill.errors import InputError, MissingDependencyError

__all__ = ["COMMANDS", "main"]

# In the order of the help. The module of a command has its name; that of a Python keyword has a "_" behind it.
COMMANDS = (
    "demo",
    "plan",
    "experts",
    "convexify",
    "distill",
    "evaluate",
    "show",
    "report",
    "export",
    "import",
    "doctor",
    "completion",
)


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one command; returns its exit status: 0 done, 1 failed, 2 wrong usage, 130 interrupted.

    An error is one line on stderr, with the way to mend it; with --debug it is raised, and shows its traceback.
    """
    return guarded(_run, arguments)


def _run(given: list[str]) -> int:
    try:
        return _command(given)
    except InputError as error:
        from pydistill.cli.messages import as_given

        told = as_given(str(error), given)
        if told == str(error):
            raise
        raise InputError(told) from error


def _command(given: list[str]) -> int:
    try:
        here = os.getcwd()
    except FileNotFoundError as error:
        raise InputError("the working directory does not exist any more; change to another one (cd)") from error
    if here not in sys.path:  # for a network of the user's own, `--model.name mynet:small`
        sys.path.append(here)
    try:
        from pydistill.cli.parser import parse
    except ImportError as error:
        raise MissingDependencyError(
            "the command line needs jsonargparse; install it with: pip install 'pydistill[cli]'"
        ) from error
    found = parse(given or ["--help"])
    if found is None:
        return status.DONE if given else status.USAGE
    command, values = found
    log = logging.getLogger("pydistill")
    level = log.level
    if getattr(values, "quiet", False):
        log.setLevel(logging.WARNING)
    try:
        return command.run(values)
    finally:
        log.setLevel(level)
