"""Write files atomically: under a temporary name, flushed to the disk, then renamed."""

from __future__ import annotations

import errno
import hashlib
import json
import math
import os
import re
import secrets
import shutil
import stat
import time
from collections.abc import Iterable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

from safetensors import SafetensorError

from pydistill.errors import FormatError, InputError, PydistillError


class WriteError(PydistillError, OSError):
    """A file cannot be written, for example because the disk is full or the folder is read-only."""


class PathError(WriteError):
    """A file or folder cannot be created at this path; another path is needed."""


def check_utf8(path: str | os.PathLike[str]) -> None:
    """Raise InputError unless the path is UTF-8: safetensors cannot open other paths, and JSON cannot record them."""
    try:
        os.fspath(path).encode()
    except UnicodeEncodeError as error:
        raise InputError(f"the path {os.fspath(path)!a} is not UTF-8; choose another, or rename it") from error


@contextmanager
def atomic_path(path: str | os.PathLike[str]) -> Iterator[Path]:
    """Yield a temporary path in the folder of `path`; on a clean exit flush the file and rename it to `path`.

    On any error the temporary file is removed and `path` is unchanged. Readers never see a half-written file. A link
    at `path` is replaced, not followed.

    Raises:
        InputError: the path is not UTF-8.
        PathError: the folder cannot be created, or `path` is a folder.
        WriteError: the folder cannot be written or the disk is full; or the folder cannot be flushed after the rename,
            in which case the message says that the file is written.
    """
    check_utf8(path)
    target = Path(path)
    temporary = target.with_name(f".{target.name}.{os.getpid()}-{secrets.token_hex(4)}.tmp")
    created = False
    try:
        if target.is_dir():
            raise IsADirectoryError(errno.EISDIR, os.strerror(errno.EISDIR))
        target.parent.mkdir(parents=True, exist_ok=True)
        try:
            temporary.touch(exist_ok=False)
            mode = stat.S_IMODE(temporary.stat().st_mode)
            created = True
            yield temporary
            temporary.chmod(mode)  # safetensors restricts its files to their owner; apply the umask's mode
            with open(temporary, "rb+") as handle:
                os.fsync(handle.fileno())
            os.replace(temporary, target)
        finally:
            temporary.unlink(missing_ok=True)
    except (OSError, SafetensorError) as error:  # safetensors reports a full disk by its own error
        if isinstance(error, PydistillError):
            raise
        kind, reason = (WriteError, with_remedy(error)) if created else creation_failure(error)
        raise kind(f"cannot write {target}: {reason}; the previous content is unchanged") from error
    try:
        _flush_folder(target.parent)
    except OSError as error:
        raise WriteError(f"{target} is written, but may not survive a power failure: {with_remedy(error)}") from error


# Error numbers of the operating system, grouped by remedy.
_NO_FOLDER = {errno.ENOENT, errno.ENOTDIR}
_REMEDIES = (
    ({errno.ENOSPC, errno.EDQUOT, errno.EFBIG}, "make room there, or choose a folder elsewhere"),
    ({errno.EROFS, errno.EACCES, errno.EPERM}, "choose a writable folder"),
    (_NO_FOLDER, "put the folder back"),
    ({errno.EIO}, "check the disk, or choose a folder on another one"),
    ({errno.EMFILE, errno.ENFILE}, "raise the limit of open files (ulimit -n 1024)"),
)
_NO_PLACE = {
    **dict.fromkeys((*_NO_FOLDER, errno.EEXIST), "choose another folder, as none can be created there"),
    errno.EISDIR: "name a file",
    errno.ENAMETOOLONG: "choose a shorter name",
}


def with_remedy(error: Exception) -> str:
    """Return the system's reason for a failed write, with the remedy."""
    reason = (error.strerror if isinstance(error, OSError) else None) or str(error)
    number = error.errno if isinstance(error, OSError) else None
    for numbers, remedy in _REMEDIES:
        if number in numbers or any(os.strerror(code) in reason for code in numbers):
            return f"{reason}; {remedy}"
    return reason


def creation_failure(error: Exception) -> tuple[type[WriteError], str]:
    """Return the error class and the reason with its remedy for a file or folder that could not be created."""
    if isinstance(error, OSError) and error.errno in _NO_PLACE:
        return PathError, f"{error.strerror}; {_NO_PLACE[error.errno]}"
    return WriteError, with_remedy(error)


def _flush_folder(folder: Path) -> None:
    """Flush the folder so that a rename in it survives a power failure (POSIX only)."""
    if os.name == "posix":
        descriptor = os.open(folder, os.O_RDONLY)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)


def copy_file(source: str | os.PathLike[str], path: str | os.PathLike[str]) -> None:
    """Copy a file's content to `path`, atomically; a source that cannot be opened raises OSError."""
    with open(source, "rb") as content, atomic_path(path) as temporary, open(temporary, "wb") as copy:
        shutil.copyfileobj(content, copy)


def open_regular(path: str | os.PathLike[str], flags: int) -> int:
    """Open a regular file without following links, as an `opener` of `open`.

    In a folder created by another user, a name may be a link to one of this user's files.

    Raises:
        OSError: the path is a link or not a regular file, or cannot be opened.
    """
    descriptor = os.open(path, flags | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC, 0o666)
    if not stat.S_ISREG(os.fstat(descriptor).st_mode):
        os.close(descriptor)
        raise OSError(errno.EINVAL, "Not a regular file", os.fspath(path))
    return descriptor


def remove_leftovers(
    folder: Path, names: Iterable[str], *, of_safetensors: bool, older_than: float | None = None
) -> None:
    """Delete the temporary files of killed writers as far as the system permits; anything but a file stays.

    The caller must hold the lock under which these files are written, or give an age that no writer reaches.

    Args:
        names: of the files that were written; shell patterns.
        of_safetensors: delete also the temporary files of safetensors, whose names do not show what was written.
        older_than: in seconds; None deletes files of any age.
    """
    youngest = math.inf if older_than is None else time.time() - older_than
    patterns = [f".{name}.[0-9]*-{'[0-9a-f]' * 8}.tmp" for name in names]
    if of_safetensors:
        patterns.append(f".tmp{'[0-9A-Za-z]' * 6}")
    for path in [path for pattern in patterns for path in folder.glob(pattern)]:
        with suppress(OSError):
            status = path.lstat()
            if stat.S_ISREG(status.st_mode) and status.st_mtime < youngest:
                path.unlink()


def refuse_links(folder: Path, names: Iterable[str]) -> None:
    """Raise WriteError if one of these folders in `folder` is a link, through which others' files would be written."""
    for path in (folder / name for name in names):
        if path.is_symlink():
            raise WriteError(f"{path} is a link, which is not followed; put a folder in its place")


def write_text(path: str | os.PathLike[str], text: str) -> None:
    """Write `text` to `path` in UTF-8, atomically; what UTF-8 cannot encode is written as an escape."""
    with atomic_path(path) as temporary:
        temporary.write_text(text, encoding="utf-8", errors="backslashreplace")


def write_json(path: str | os.PathLike[str], value: Any) -> None:
    """Write `value` as indented JSON to `path`, atomically; non-finite numbers are refused (ValueError)."""
    write_text(path, json.dumps(value, indent=2, allow_nan=False) + "\n")


def read_json(path: str | os.PathLike[str]) -> Any:
    """Read a JSON file.

    Raises:
        FormatError: the file is not JSON in UTF-8, or holds what `parse_json` refuses.
        OSError: the file cannot be opened.
    """
    try:
        return parse_json(Path(path).read_text(encoding="utf-8"))
    except (ValueError, RecursionError) as error:
        raise FormatError(
            f"{path} is not readable JSON ({error}); it is damaged or was not written by pydistill"
        ) from error


def parse_json(text: str) -> Any:
    """Parse JSON; raise ValueError for NaN, infinity, and half of a surrogate pair, which UTF-8 cannot encode."""
    value = json.loads(text, parse_float=_finite, parse_constant=_finite)
    if re.search(r"\\u[dD][89a-fA-F]", text):
        json.dumps(value, ensure_ascii=False).encode()
    return value


def _finite(text: str) -> float:
    number = float(text)
    if not math.isfinite(number):
        raise ValueError(f"{text} is not a finite number")
    return number


def sha256_of(path: str | os.PathLike[str]) -> str:
    """Return the SHA-256 of a file's content as 64 hexadecimal digits."""
    with open(path, "rb") as handle:
        return hashlib.file_digest(handle, "sha256").hexdigest()
