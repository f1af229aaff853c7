"""Running a compatible command: its notes, its errors and its exit status."""

from __future__ import annotations

import logging
import sys
from collections.abc import Callable, Sequence

import torch

from pydistill.cli import status
from pydistill.errors import InputError, Interrupted, MismatchError, PydistillError

PREFIX = "pydistill: "


def run_command(run: Callable[[list[str]], None], arguments: Sequence[str] | None) -> int:
    """Run with the command line's arguments, or these; returns the exit status as `pydistill` has it.

    An error is one line on stderr; with --debug among the arguments it is raised.
    """
    given = list(sys.argv[1:] if arguments is None else arguments)
    debug = "--debug" in given
    logging.basicConfig(format=f"{PREFIX}%(message)s", level=logging.INFO)
    try:
        run([each for each in given if each != "--debug"])
        sys.stdout.flush()
    except KeyboardInterrupt:
        print(f"{PREFIX}stopped", file=sys.stderr)
        return status.INTERRUPTED
    except (PydistillError, OSError) as error:
        if debug:
            raise
        print(f"{PREFIX}error: {' '.join(str(error).split())}", file=sys.stderr)
        if isinstance(error, Interrupted):
            return status.INTERRUPTED
        return status.USAGE if isinstance(error, (InputError, MismatchError)) else status.FAILED
    return status.DONE


def note(line: str) -> None:
    """Tell something that is no result."""
    print(f"{PREFIX}{line}", file=sys.stderr)


def device() -> str:
    """A GPU if there is one, as the published scripts choose."""
    return "cuda" if torch.cuda.is_available() else "cpu"
