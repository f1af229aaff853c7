"""Show progress on standard error: bars on a terminal and in a notebook, occasional lines elsewhere."""

from __future__ import annotations

import sys
import time
from collections.abc import Callable
from contextlib import ExitStack
from types import TracebackType
from typing import Any

LINE_EVERY_SECONDS = 15.0


def in_notebook() -> bool:
    """Return whether this process runs in a Jupyter or Colab notebook."""
    interactive = sys.modules.get("IPython")  # a notebook has imported it
    shell = None if interactive is None else interactive.get_ipython()
    return hasattr(shell, "kernel")


def _on_terminal() -> bool:
    """Return whether standard error is a terminal; false if it is closed."""
    return sys.stderr is not None and sys.stderr.isatty()


def is_shown(progress: bool | None) -> bool:
    """Decide whether to show progress: as requested; by default on a terminal and in a notebook."""
    return _on_terminal() or in_notebook() if progress is None else progress


class Bar:
    """A progress bar with values after it on a terminal and in a notebook; a plain line every 15 seconds elsewhere.

    If standard error is closed, full or has lost its reader, the bar stops writing and the work continues.

    Args:
        title: the name of the work.
        total: the number of steps.
        done: steps that a resumed run has already done.
        quiet: write no output.
    """

    def __init__(self, title: str, total: int, *, done: int = 0, quiet: bool = False) -> None:
        self._title, self._total, self._done = title, total, done
        self._quiet = quiet or sys.stderr is None
        self._next_line = time.monotonic() + LINE_EVERY_SECONDS
        self._values: dict[str, str] = {}
        self._bar: Any = None
        self._lines = ExitStack()
        if not self._quiet and (_on_terminal() or in_notebook()):
            try:
                from tqdm import tqdm

                if in_notebook():
                    from tqdm.auto import tqdm
            except ImportError:
                return  # print plain lines instead
            # The delay postpones the first write to the first update, where errors are caught.
            self._bar = tqdm(total=total, initial=done, desc=title, dynamic_ncols=True, leave=True, delay=1e-3)

    def step(self, count: int = 1, **values: str) -> None:
        """Advance by `count` steps. Shows `values` after the bar, or the previous values if there are none."""
        self._done += count
        self._values = values or self._values
        if self._bar is not None:
            self._show(lambda: self._update(count))
        elif time.monotonic() >= self._next_line:
            self._next_line = time.monotonic() + LINE_EVERY_SECONDS
            shown = ", ".join(f"{name} {value}" for name, value in self._values.items())
            line = f"{self._title} {self._done}/{self._total}"
            self.say(f"{line}: {shown}" if shown else line)

    def _update(self, count: int) -> None:
        self._bar.set_postfix(self._values, refresh=False)
        self._bar.update(count)

    @property
    def done(self) -> int:
        """The number of steps done."""
        return self._done

    def say(self, line: str) -> None:
        """Print a line, above the bar if there is one."""
        if self._bar is not None:
            self._show(lambda: self._bar.write(line, file=sys.stderr))
        else:
            self._show(lambda: print(line, file=sys.stderr, flush=True))

    def _show(self, write: Callable[[], None]) -> None:
        """Write to standard error; stop writing after the first failure."""
        if self._quiet:
            return
        try:
            write()
        except (OSError, ValueError):  # ValueError: the stream is closed
            self._quiet = True
            if self._bar is not None:
                self._bar.disable = True

    def __enter__(self) -> Bar:
        if self._bar is not None:
            from tqdm.contrib.logging import logging_redirect_tqdm

            self._lines.enter_context(logging_redirect_tqdm())  # log lines go above the bar
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._bar is not None:
            self._show(self._bar.close)
        self._lines.close()
