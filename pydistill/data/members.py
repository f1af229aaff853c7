"""The files of a folder or an archive, one after the other and in memory: nothing is ever extracted to the
disk.

A name inside an archive is only ever compared and sorted, never opened as a path, so a hostile one reaches
nothing.
"""

from __future__ import annotations

import hashlib
import lzma
import os
import tarfile
import zipfile
import zlib
from collections.abc import Callable, Iterator
from pathlib import Path

from pydistill.errors import FormatError, InputError

MAX_BYTES = 256 * 1024 * 1024
"""Largest member that is read, so that an archive cannot fill the memory."""

Wanted = Callable[[str], bool]


def members(path: Path, wanted: Wanted) -> Iterator[tuple[str, bytes]]:
    """Names (with "/") and contents of the wanted files below a folder or in a tar or zip archive.

    A directory appears as its name with a "/" at the end and no content. Links and devices in archives are
    left out; links in folders are followed.

    Raises:
        InputError: there is nothing at `path`.
        FormatError: an archive is damaged or of an unknown kind.
    """
    if path.is_dir():
        return _folder(path, wanted)
    if not path.is_file():
        raise InputError(f"data.path={str(path)!r} does not exist")
    if _starts_like_zip(path):
        return _zip(path, wanted)
    return _tar(path, wanted)


def identity(path: Path, wanted: Wanted) -> str:
    """A short text that changes when the files do: name, size and time of an archive, or of each file of a
    folder."""
    if path.is_file():
        status = path.stat()
        return f"{path.name} {status.st_size} {status.st_mtime_ns}"
    listing = hashlib.sha256()
    for name, file in _walk(path, wanted):
        if file is not None:
            status = file.stat()
            listing.update(f"{name}\0{status.st_size}\0{status.st_mtime_ns}\n".encode(errors="surrogateescape"))
        else:
            listing.update(f"{name}\n".encode(errors="surrogateescape"))
    return f"folder {listing.hexdigest()}"


def _folder(path: Path, wanted: Wanted) -> Iterator[tuple[str, bytes]]:
    for name, file in _walk(path, wanted):
        if file is None:
            yield name, b""
        elif file.stat().st_size > MAX_BYTES:
            raise FormatError(f"{file} is larger than {MAX_BYTES:,} bytes, too large for an image")
        else:
            yield name, file.read_bytes()


def _walk(path: Path, wanted: Wanted, prefix: str = "") -> Iterator[tuple[str, Path | None]]:
    """Wanted directories (no path) and files, sorted; a directory that is not wanted is not entered."""
    with os.scandir(path) as entries:
        ordered = sorted(entries, key=lambda entry: entry.name)
    for entry in ordered:
        if entry.is_dir():
            name = f"{prefix}{entry.name}/"
            if wanted(name):
                yield name, None
                yield from _walk(Path(entry.path), wanted, name)
        elif wanted(prefix + entry.name):
            yield prefix + entry.name, Path(entry.path)


def _tar(path: Path, wanted: Wanted) -> Iterator[tuple[str, bytes]]:
    try:
        with tarfile.open(path, "r|*") as archive:
            for member in archive:
                name = _plain(member.name) + ("/" if member.isdir() else "")
                if not (member.isdir() or member.isreg()) or not wanted(name):
                    continue
                _check_size(path, member.name, member.size)
                handle = archive.extractfile(member) if member.isreg() else None
                yield name, handle.read() if handle is not None else b""
    except FormatError:
        raise
    except (tarfile.TarError, lzma.LZMAError, zlib.error, EOFError, OSError, ValueError, OverflowError) as error:
        raise FormatError(f"{path} is no readable tar or zip archive ({error}); it is damaged or cut short") from error


def _zip(path: Path, wanted: Wanted) -> Iterator[tuple[str, bytes]]:
    try:
        with zipfile.ZipFile(path) as archive:
            for member in archive.infolist():
                name = _plain(member.filename) + ("/" if member.is_dir() else "")
                if not wanted(name):
                    continue
                _check_size(path, member.filename, member.file_size)
                yield name, b"" if member.is_dir() else archive.read(member)
    except FormatError:
        raise
    # an encrypted member is a RuntimeError, an unknown compression a NotImplementedError, which is one too
    except (zipfile.BadZipFile, zlib.error, lzma.LZMAError, EOFError, OSError, RuntimeError, ValueError) as error:
        raise FormatError(f"{path} is no readable zip archive ({error}); it is damaged or cut short") from error


def _plain(name: str) -> str:
    """A member's name without "./" in front and "/" at the end."""
    return name.removeprefix("./").rstrip("/")


def _starts_like_zip(path: Path) -> bool:
    with open(path, "rb") as handle:
        return handle.read(2) == b"PK"


def _check_size(path: Path, name: str, size: int) -> None:
    if size > MAX_BYTES:
        raise FormatError(f"member {name!r} of {path} has {size:,} bytes; the limit is {MAX_BYTES:,}")
