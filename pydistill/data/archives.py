"""Unpack tar and zip archives of images, within limits."""

from __future__ import annotations

import lzma
import shutil
import tarfile
import tempfile
import time
import zipfile
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from pydistill.errors import FormatError

_LARGEST_HEADER = 2**20
_SMALLEST_LIMIT, _LARGEST_RATIO = 2**30, 100
"""An archive may unpack to 1 GiB or to 100 times its size, whichever is more; images are hardly compressible."""

# An encrypted zip raises RuntimeError, an unknown compression its subclass NotImplementedError.
_OF_FORMATS = (tarfile.TarError, zipfile.BadZipFile, lzma.LZMAError, zlib.error)
_FAULTS = (*_OF_FORMATS, EOFError, OSError, RuntimeError, ValueError, OverflowError)


@contextmanager
def unpacked(archive: Path, cache: Path) -> Iterator[Path]:
    """Unpack an archive into a temporary folder in the cache.

    Raises:
        FormatError: it is damaged or not an archive, a member lies or points outside of the folder or is a device, or
            it unpacks to more than the limit.
    """
    cache.mkdir(parents=True, exist_ok=True)
    for left in cache.glob(".unpacked-*"):  # by a killed process: nothing is unpacked for a day
        if left.lstat().st_mtime < time.time() - 24 * 3600:
            shutil.rmtree(left, ignore_errors=True)
    limit = max(_SMALLEST_LIMIT, _LARGEST_RATIO * archive.stat().st_size)
    with tempfile.TemporaryDirectory(prefix=".unpacked-", dir=cache) as folder:
        try:
            if zipfile.is_zipfile(archive):
                with zipfile.ZipFile(archive) as zipped:
                    if sum(member.file_size for member in zipped.infolist()) > limit:
                        raise _TooLargeError
                    zipped.extractall(folder)
            else:
                options: dict[str, Any] = {"limit": limit}
                with open(archive, "rb") as file, _LimitedTar.open(fileobj=file, **options) as members:
                    members.extractall(folder, filter="data")
        except _TooLargeError as error:
            raise FormatError(
                f"{archive} is not unpacked, as its content is more than {_LARGEST_RATIO} times its size and more than "
                "1 GiB, or the name of a file is longer than 1 MiB; unpack it yourself and give the folder"
            ) from error
        except _FAULTS as error:
            raise FormatError(
                f"{archive} cannot be unpacked ({error}): it is damaged, is not a tar or zip archive, or "
                f"{cache} is full"
            ) from error
        yield Path(folder)


class _TooLargeError(Exception):
    """An archive's header or content exceeds the limit."""


class _LimitedTar(tarfile.TarFile):
    """A tar archive whose decompressed stream is read up to `limit` bytes, in small pieces.

    tarfile reads the extended header of a member, which a few bytes can announce with gigabytes, in one piece.
    """

    def __init__(self, name: Any, mode: Any, fileobj: Any, *, limit: int, **options: Any) -> None:
        stream: Any = _LimitedStream(fileobj, limit)
        super().__init__(name, mode, stream, **options)


class _LimitedStream:
    def __init__(self, stream: Any, limit: int) -> None:
        self._stream, self._limit = stream, limit
        self.tell, self.close = stream.tell, stream.close

    def read(self, count: int) -> bytes:
        if count > _LARGEST_HEADER or self.tell() + count > self._limit:
            raise _TooLargeError
        return bytes(self._stream.read(count))

    def seek(self, position: int) -> int:
        if position > self._limit:
            raise _TooLargeError
        return int(self._stream.seek(position))
