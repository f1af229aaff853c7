"""One writer at a time: a lock on a folder that dies with its process."""

from __future__ import annotations

import errno
import fcntl
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from pydistill._util.files import WriteError, not_made, with_remedy
from pydistill._util.layout import LOCK
from pydistill.errors import InputError

ATTEMPTS = 100


@contextmanager
def only_writer(folder: Path, *, name: str = LOCK, wait: bool = False) -> Iterator[None]:
    """Be the only process that writes the folder, which is made if there is none.

    A file in it is locked by the system (flock), which releases it when the process ends, however it ends; the file
    itself stays and means nothing.

    Args:
        folder: what is written.
        name: the file's; another one than `.lock` for what is written beside the folder's writer.
        wait: until the other process has ended; else it is refused. (Never wait for oneself.)

    Raises:
        InputError: another process (or this one, elsewhere) is writing it, and `wait` is false.
        PathError: the folder cannot be made there.
        WriteError: the folder cannot be written, or its file system knows no locks.
    """
    path = folder / name
    for _ in range(ATTEMPTS):
        descriptor = _locked(path, wait=wait)
        if _lies_there(descriptor, path):
            break
        os.close(descriptor)  # whoever held it has removed it with the folder: it keeps nobody out
    else:
        raise WriteError(f"cannot lock {path}: it goes as often as it is made; choose a folder on another file system")
    try:
        try:
            os.ftruncate(descriptor, 0)
            os.pwrite(descriptor, f"{os.getpid()}\n".encode(), 0)
        except OSError as error:
            raise WriteError(f"cannot write {path}: {with_remedy(error)}") from error
        yield
    finally:
        os.close(descriptor)


def _locked(path: Path, *, wait: bool) -> int:
    """The file, made if there is none, opened and locked."""
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o666)
    except OSError as error:
        kind, told = not_made(error)
        raise kind(f"cannot write in {path.parent}: {told}") from error
    try:
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | (0 if wait else fcntl.LOCK_NB))
        except OSError as error:
            if error.errno in (errno.EAGAIN, errno.EACCES):
                raise InputError(
                    f"{path.parent} is being written by another process{_named(descriptor)}; "
                    "wait for it, stop it, or choose another folder"
                ) from error
            raise WriteError(f"cannot lock {path}: {error.strerror}; choose a folder on another file system") from error
    except BaseException:
        os.close(descriptor)
        raise
    return descriptor


def _lies_there(descriptor: int, path: Path) -> bool:
    """Whether the opened file still is the one of that name."""
    try:
        return os.path.samestat(os.fstat(descriptor), os.stat(path))
    except FileNotFoundError:
        return False


def _named(descriptor: int) -> str:
    """The number that the lock's owner wrote into the file, as part of the message."""
    content = os.pread(descriptor, 20, 0).strip()
    return f" (number {content.decode()})" if content.isdigit() else ""
