"""Ctrl-C: a run stops where its state can be saved, and at the second time at once."""

from __future__ import annotations

import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType


class Stop:
    """The state of Ctrl-C: pressed or not, and whether the current work may be dropped.

    Attributes:
        requested: it was; looked at between iterations.
    """

    def __init__(self) -> None:
        self.requested = False
        self._abandonable = False

    @contextmanager
    def abandonable(self) -> Iterator[None]:
        """Inside, the first Ctrl-C raises KeyboardInterrupt as well: what is done there can be done again."""
        self._abandonable = True
        try:
            if self.requested:
                raise KeyboardInterrupt
            yield
        finally:
            self._abandonable = False

    def handle(self, number: int, frame: FrameType | None) -> None:
        """The signal's handler."""
        again, self.requested = self.requested, True
        if again or self._abandonable:
            raise KeyboardInterrupt


@contextmanager
def stopping_cleanly() -> Iterator[Stop]:
    """Turn the first Ctrl-C into a request; a second one raises KeyboardInterrupt, wherever the program is.

    Outside the main thread, which alone may handle signals, nothing is ever requested.
    """
    stop = Stop()
    if threading.current_thread() is not threading.main_thread():
        yield stop
        return
    previous = signal.signal(signal.SIGINT, stop.handle)
    try:
        yield stop
    finally:
        signal.signal(signal.SIGINT, previous)
