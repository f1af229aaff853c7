"""Handle Ctrl-C: the first stops a run once its state is saved, the second stops it immediately."""

from __future__ import annotations

import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType


class Stop:
    """A request to stop, set by Ctrl-C.

    Attributes:
        requested: true once Ctrl-C was pressed; checked between iterations.
    """

    def __init__(self) -> None:
        self.requested = False
        self._abandonable = False

    @contextmanager
    def abandonable(self) -> Iterator[None]:
        """Run work that can be repeated: inside, even the first Ctrl-C raises KeyboardInterrupt."""
        self._abandonable = True
        try:
            if self.requested:
                raise KeyboardInterrupt
            yield
        finally:
            self._abandonable = False

    def handle(self, number: int, frame: FrameType | None) -> None:
        """Handle SIGINT."""
        again, self.requested = self.requested, True
        if again or self._abandonable:
            raise KeyboardInterrupt


@contextmanager
def stopping_cleanly() -> Iterator[Stop]:
    """Turn the first Ctrl-C into a request to stop; the second raises KeyboardInterrupt.

    Only the main thread can handle signals: in any other thread no stop is ever requested.
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
