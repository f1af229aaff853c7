"""Running a compatible command: its notes, its errors and its exit status."""

from __future__ import annotations

import sys
from collections.abc import Callable, Mapping, Sequence

import torch

from pydistill.cli import status
from pydistill.cli.ending import PREFIX, guarded
from pydistill.compat.messages import in_flags


def run_command(run: Callable[[list[str]], None], arguments: Sequence[str] | None, names: Mapping[str, str]) -> int:
    """Run with the command line's arguments, or these; returns the exit status as `pydistill` has it.

    Errors are told as those of `pydistill` are, with the command's flags (`names`, see `in_flags`) for settings.
    """

    def done(given: list[str]) -> int:
        with in_flags(names):
            run(given)
        return status.DONE

    return guarded(done, arguments)


def note(line: str) -> None:
    """Tell something that is no result."""
    print(f"{PREFIX}{line}", file=sys.stderr)


def device() -> str:
    """A GPU if there is one, as the published scripts choose."""
    return "cuda" if torch.cuda.is_available() else "cpu"
