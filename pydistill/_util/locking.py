"""Lock a folder for one writer at a time; the lock ends with its process."""

from __future__ import annotations

import os
import re
from collections.abc import Iterable, Iterator
from contextlib import AbstractContextManager, contextmanager, suppress
from pathlib import Path

from filelock import FileLock, Timeout

from pydistill._util.files import WriteError, creation_failure, open_regular, remove_leftovers
from pydistill._util.layout import LOCK, RESULTS, RESULTS_LOCK
from pydistill.errors import InputError


@contextmanager
def only_writer(folder: Path, *, name: str = LOCK, wait: bool = False, writes: Iterable[str] = ()) -> Iterator[None]:
    """Hold the lock of a folder, which is created if it does not exist, and delete what killed writers left in it.

    The system releases the lock when the process ends, even by a kill. The lock file remains, but does not lock.

    Args:
        folder: the folder to write.
        name: the lock file; a name other than `.lock` protects files that are written alongside the folder's writer.
        wait: wait until the lock is free instead of raising. (Nested in one thread, this would never return.)
        writes: names or shell patterns of the files that are written under this lock.

    Raises:
        InputError: another process (or this one, elsewhere) holds the lock, and `wait` is false.
        PathError: the folder cannot be created there.
        WriteError: the folder cannot be written, its file system has no locks, or the lock file is a link or holds
            anything but the number of a process.
    """
    path = folder / name
    lock = FileLock(path, timeout=-1 if wait else 0)
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with open(path, "a+b", opener=open_regular) as handle:
            handle.seek(0)
            content = handle.read(32)
    except OSError as error:
        kind, reason = creation_failure(error)
        raise kind(f"cannot write in {folder}: {reason}") from error
    if not re.fullmatch(rb"[0-9]{0,20}\n?", content):
        raise WriteError(f"{path} is no lock of pydistill's; move it, or choose another folder")
    try:
        lock.acquire()
    except Timeout as error:
        raise InputError(
            f"{folder} is being written by another process{_holder(content)}; "
            "wait for it, stop it, or choose another folder"
        ) from error
    except (OSError, NotImplementedError) as error:
        raise WriteError(f"cannot lock {path}: {error}; choose a folder on another file system") from error
    try:
        with suppress(OSError), open(path, "w", encoding="utf-8", opener=open_regular) as handle:
            handle.write(f"{os.getpid()}\n")
        remove_leftovers(folder, writes, of_safetensors=name == LOCK)
        yield
    finally:
        lock.release()


def _holder(content: bytes) -> str:
    """Return the process number in a lock file as part of a message."""
    return f" (process {content.decode().strip()})" if content.strip() else ""


def results_writer(run: Path) -> AbstractContextManager[None]:
    """Wait for and hold the lock of a run's results, which other processes write beside the one that distils."""
    return only_writer(run, name=RESULTS_LOCK, wait=True, writes=RESULTS)
