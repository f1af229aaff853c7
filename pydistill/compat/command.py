"""Run the command of a published script, and report its errors and exit status."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from pydistill.cli.errors import DONE, guarded
from pydistill.compat.flags import FLAGS
from pydistill.errors import PydistillError


def run_command(run: Callable[[list[str]], None], arguments: Sequence[str] | None) -> int:
    """Run a command with `arguments`, by default the process's; return the exit status of `pydistill`.

    Errors are reported as by `pydistill`, but name the flags of the script instead of settings.
    """

    def run_and_name_flags(words: list[str]) -> int:
        try:
            run(words)
        except PydistillError as error:
            error.spell = lambda name: "--resume" if name == "resume" else FLAGS.get(name, name)
            raise
        return DONE

    return guarded(run_and_name_flags, arguments)
