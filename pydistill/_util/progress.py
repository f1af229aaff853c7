"""What a command shows while it works: bars on a terminal, a line now and then elsewhere."""

from __future__ import annotations

import sys
import time
from contextlib import ExitStack
from types import TracebackType
from typing import Any

LINE_EVERY_SECONDS = 15.0


def in_notebook() -> bool:
    """Whether a Jupyter or Colab notebook runs this process."""
    interactive = sys.modules.get("IPython")  # a notebook has imported it
    shell = None if interactive is None else interactive.get_ipython()
    return hasattr(shell, "kernel")


def is_shown(progress: bool | None) -> bool:
    """Whether to show progress: as asked, and by default on a terminal and in a notebook."""
    return sys.stderr.isatty() or in_notebook() if progress is None else progress


class Bar:
    """A progress bar with values behind it, on a terminal and in a notebook; elsewhere a plain line every 15 seconds.

    Args:
        title: what is being done.
        total: how many steps there are.
        done: how many were done before (a resumed run).
        quiet: show nothing.
    """

    def __init__(self, title: str, total: int, *, done: int = 0, quiet: bool = False) -> None:
        self._title, self._total, self._done = title, total, done
        self._quiet = quiet
        self._next_line = time.monotonic() + LINE_EVERY_SECONDS
        self._values: dict[str, str] = {}
        self._bar: Any = None
        self._lines = ExitStack()
        if not quiet and (sys.stderr.isatty() or in_notebook()):
            try:
                from tqdm import tqdm

                if in_notebook():
                    from tqdm.auto import tqdm
            except ImportError:
                return  # plain lines need nothing
            self._bar = tqdm(total=total, initial=done, desc=title, dynamic_ncols=True, leave=True)

    def step(self, count: int = 1, **values: str) -> None:
        """So many steps are done; `values` are shown behind the bar, and where there are none, those before."""
        self._done += count
        self._values = values or self._values
        if self._bar is not None:
            self._bar.set_postfix(self._values, refresh=False)
            self._bar.update(count)
        elif not self._quiet and time.monotonic() >= self._next_line:
            self._next_line = time.monotonic() + LINE_EVERY_SECONDS
            told = ", ".join(f"{name} {value}" for name, value in self._values.items())
            line = f"{self._title} {self._done}/{self._total}"
            print(f"{line}: {told}" if told else line, file=sys.stderr, flush=True)

    @property
    def done(self) -> int:
        """How many steps are done."""
        return self._done

    def say(self, line: str) -> None:
        """A line above the bar."""
        if self._bar is not None:
            self._bar.write(line, file=sys.stderr)
        elif not self._quiet:
            print(line, file=sys.stderr, flush=True)

    def __enter__(self) -> Bar:
        if self._bar is not None:
            from tqdm.contrib.logging import logging_redirect_tqdm

            self._lines.enter_context(logging_redirect_tqdm())  # log lines go above the bar
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._bar is not None:
            self._bar.close()
        self._lines.close()
