"""Run as a user to whom file permissions apply."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager


@contextmanager
def as_unprivileged_user() -> Iterator[None]:
    """Drop root, which may write everywhere, for the duration of the block."""
    if os.geteuid() != 0:
        yield
        return
    os.seteuid(65534)
    try:
        yield
    finally:
        os.seteuid(0)
