"""Lock a folder for one writer at a time; the lock ends with its process."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from filelock import FileLock, Timeout

from pydistill._util.files import WriteError, creation_failure, open_regular
from pydistill._util.layout import LOCK
from pydistill.errors import InputError


@contextmanager
def only_writer(folder: Path, *, name: str = LOCK, wait: bool = False) -> Iterator[None]:
    """Hold the lock of a folder, which is created if it does not exist.

    The system releases the lock when the process ends, even by a kill. The lock file remains, but does not lock.

    Args:
        folder: the folder to write.
        name: the lock file; a name other than `.lock` protects files that are written alongside the folder's writer.
        wait: wait until the lock is free instead of raising. (Nested in one thread, this would never return.)

    Raises:
        InputError: another process (or this one, elsewhere) holds the lock, and `wait` is false.
        PathError: the folder cannot be created there.
        WriteError: the folder cannot be written, its file system has no locks, or the lock file is a link.
    """
    path = folder / name
    lock = FileLock(path, timeout=-1 if wait else 0)
    try:
        folder.mkdir(parents=True, exist_ok=True)
        os.close(open_regular(path, os.O_RDWR | os.O_CREAT))
    except OSError as error:
        kind, reason = creation_failure(error)
        raise kind(f"cannot write in {folder}: {reason}") from error
    try:
        lock.acquire()
    except Timeout as error:
        raise InputError(
            f"{folder} is being written by another process{_holder(path)}; "
            "wait for it, stop it, or choose another folder"
        ) from error
    except (OSError, NotImplementedError) as error:
        raise WriteError(f"cannot lock {path}: {error}; choose a folder on another file system") from error
    try:
        with suppress(OSError), open(path, "w", encoding="utf-8", opener=open_regular) as handle:
            handle.write(f"{os.getpid()}\n")
        yield
    finally:
        lock.release()


def _holder(path: Path) -> str:
    """Return the process number in a lock file as part of a message."""
    try:
        with open(path, encoding="utf-8", opener=open_regular) as handle:
            number = handle.read(20).strip()
    except (OSError, UnicodeDecodeError):
        return ""
    return f" (process {number})" if number.isdigit() else ""
