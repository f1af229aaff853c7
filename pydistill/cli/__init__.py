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
from pydistill.errors import Interrupted, MissingDependencyError, PydistillError

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
    given = list(sys.argv[1:] if arguments is None else arguments)
    debug = "--debug" in given
    given = [each for each in given if each != "--debug"]
    logging.basicConfig(format="pydistill: %(message)s", level=logging.INFO)
    if os.getcwd() not in sys.path:  # for a network of the user's own, `--model.name mynet:small`
        sys.path.append(os.getcwd())
    try:
        done = _run(given)
        if sys.stdout is not None:  # a shell can start a process without one
            sys.stdout.flush()
        return done
    except BrokenPipeError:  # whoever read the output, `head` say, has had enough
        _close_stdout()
        return status.DONE
    except KeyboardInterrupt:
        _tell("stopped")
        return status.INTERRUPTED
    except Exception as error:
        if debug:
            raise
        from pydistill.cli.failures import told

        sentence, code = told(error)
        if isinstance(error, OSError) and not isinstance(error, PydistillError):
            _close_stdout()  # it may be stdout itself that cannot be written, and Python would try again at its end
        _tell(sentence if isinstance(error, Interrupted) else f"error: {sentence}")
        return code


def _run(given: list[str]) -> int:
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
    return command.run(values)


def _tell(sentence: str) -> None:
    if sys.stderr is not None:
        print(f"pydistill: {sentence}", file=sys.stderr)


def _close_stdout() -> None:
    """Let what is still to be written to stdout go nowhere."""
    if sys.stdout is sys.__stdout__ and sys.stdout is not None:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
