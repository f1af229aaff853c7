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
from pydistill.errors import InputError, Interrupted, MismatchError, MissingDependencyError, PydistillError

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
    "doctor",
)


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one command; returns its exit status: 0 done, 1 failed, 2 wrong usage, 130 interrupted."""
    given = list(sys.argv[1:] if arguments is None else arguments)
    debug = "--debug" in given
    given = [each for each in given if each != "--debug"]
    logging.basicConfig(format="pydistill: %(message)s", level=logging.INFO)
    if os.getcwd() not in sys.path:  # for a network of the user's own, `--model.name mynet:small`
        sys.path.append(os.getcwd())
    try:
        done = _run(given)
        sys.stdout.flush()
        return done
    except BrokenPipeError:  # whoever read the output, `head` say, has had enough
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return status.DONE
    except KeyboardInterrupt:
        print("pydistill: stopped", file=sys.stderr)
        return status.INTERRUPTED
    except (PydistillError, OSError) as error:
        if debug:
            raise
        print(f"pydistill: error: {' '.join(str(error).split())}", file=sys.stderr)
        if isinstance(error, Interrupted):
            return status.INTERRUPTED
        return status.USAGE if isinstance(error, (InputError, MismatchError)) else status.FAILED


def _run(given: list[str]) -> int:
    try:
        from pydistill.cli.parser import build_parser, parse
    except ImportError as error:
        raise MissingDependencyError(
            "the command line needs jsonargparse; install it with: pip install 'pydistill[cli]'"
        ) from error
    if not given:
        build_parser().print_help()
        return status.USAGE
    command, values = parse(given)
    return command.run(values)
