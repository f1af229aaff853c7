"""Running a published script's command: its notes, its errors and its exit status."""

from __future__ import annotations

import sys
from collections.abc import Callable, Sequence

import torch

from pydistill.cli.errors import DONE, PREFIX, guarded
from pydistill.compat.flags import FLAGS
from pydistill.errors import SettingError


def run_command(run: Callable[[list[str]], None], arguments: Sequence[str] | None) -> int:
    """Run with the process's arguments, or these; returns the exit status, as `pydistill` does.

    Errors are reported as those of `pydistill`, with the script's own flags in place of settings.
    """

    def done(words: list[str]) -> int:
        try:
            run(words)
        except SettingError as error:
            error.spell = lambda setting: FLAGS.get(setting, setting)
            raise
        return DONE

    return guarded(done, arguments)


def note(line: str) -> None:
    """Print a line that is not part of the result."""
    print(f"{PREFIX}{line}", file=sys.stderr)


def device() -> str:
    """A GPU if there is one, as the published scripts choose."""
    return "cuda" if torch.cuda.is_available() else "cpu"
