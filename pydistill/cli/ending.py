"""How a command ends: its errors as a sentence on stderr, and its exit status."""

from __future__ import annotations

import logging
import os
import sys
from collections.abc import Callable, Sequence

from pydistill.cli import status
from pydistill.errors import Interrupted, PydistillError

PREFIX = "pydistill: "


def guarded(run: Callable[[list[str]], int], arguments: Sequence[str] | None) -> int:
    """Run with the command line's arguments, or these, less --debug; returns the exit status.

    An error is one line on stderr, with the way to mend it; with --debug it is raised, and shows its traceback.
    """
    given = list(sys.argv[1:] if arguments is None else arguments)
    debug = "--debug" in given
    if not logging.root.handlers:  # else the program that calls this tells records in its own way
        logging.basicConfig(format=f"{PREFIX}%(message)s")
        logging.getLogger("pydistill").setLevel(logging.INFO)  # of other packages warnings alone
    try:
        done = run([each for each in given if each != "--debug"])
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


def _tell(sentence: str) -> None:
    if sys.stderr is not None:
        print(f"{PREFIX}{sentence}", file=sys.stderr)


def _close_stdout() -> None:
    """Let what is still to be written to stdout go nowhere."""
    if sys.stdout is sys.__stdout__ and sys.stdout is not None:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
