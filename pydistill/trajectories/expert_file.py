"""One expert's file: a safetensors file whose rows are read one at a time, each checked by its hash."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor

from pydistill._util.files import atomic_path, sha256_of
from pydistill.errors import FormatError

DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16, "float64": torch.float64}
_SAFETENSORS_DTYPES = {"float32": "F32", "bfloat16": "BF16", "float64": "F64"}


def tensor_sha256(tensor: Tensor) -> str:
    """SHA-256 of a CPU tensor's elements, as 64 hexadecimal digits."""
    elements = tensor.contiguous().reshape(-1).view(torch.uint8)
    return hashlib.sha256(elements.numpy().data).hexdigest()


def write_tensors(path: Path, tensors: Mapping[str, Tensor], metadata: Mapping[str, str]) -> tuple[int, str]:
    """Write a safetensors file, atomically.

    Returns:
        Its size in bytes and its SHA-256.

    Raises:
        WriteError: the disk is full or the folder cannot be written; nothing is left behind.
    """
    with atomic_path(path) as temporary:
        save_file(dict(tensors), temporary, metadata=dict(metadata))
        return os.path.getsize(temporary), sha256_of(temporary)


class FileRows:
    """Rows of a matrix [n, P] in a safetensors file; reading one touches its own bytes and the header.

    The file is mapped for the time of one read: nothing is held open, and a store can be sent to another
    process. A row is compared with its hash when it is read for the first time only: what is changed in the file after
    that, while a run goes on, is not noticed (`TrajectoryStore.verify` reads everything anew).
    """

    def __init__(self, path: Path, tensor: str, shape: tuple[int, int], dtype: str, hashes: Sequence[str]) -> None:
        """Look at the file's header only.

        Args:
            path, tensor: the file and the name of the matrix in it.
            shape: what the index says of it.
            dtype: float32, bfloat16 or float64, likewise.
            hashes: SHA-256 of each row's stored bytes; checked the first time that a row is read.

        Raises:
            FormatError: missing, truncated, or not what the index says.
        """
        self._path, self._tensor, self._shape, self._hashes = path, tensor, shape, tuple(hashes)
        self._checked: set[int] = set()
        with _opened(path) as file:
            found = file.get_slice(tensor)
            if tuple(found.get_shape()) != shape or found.get_dtype() != _SAFETENSORS_DTYPES[dtype]:
                raise FormatError(
                    f"{path} holds '{tensor}' as {found.get_dtype()} {list(found.get_shape())}, "
                    f"but its index says {_SAFETENSORS_DTYPES[dtype]} {list(shape)}"
                )

    @property
    def shape(self) -> tuple[int, int]:
        """(n, P)."""
        return self._shape

    def row(self, index: int) -> Tensor:
        """Row `index` as a new tensor [P]; bfloat16 comes back as float32.

        Raises:
            FormatError: the file cannot be read, or the row is not the one that was written when it is first read.
        """
        with _opened(self._path) as file:
            row: Tensor = file.get_slice(self._tensor)[index].clone()
        if index not in self._checked:
            if tensor_sha256(row) != self._hashes[index]:
                raise FormatError(f"{self._path} is damaged: row {index} of '{self._tensor}' is not what was written")
            self._checked.add(index)
        return row.float() if row.dtype == torch.bfloat16 else row


def read_tensor(path: Path, tensor: str, sha256: str) -> Tensor:
    """A whole small tensor from a safetensors file.

    Raises:
        FormatError: the file cannot be read, or the tensor is not the one that was written.
    """
    with _opened(path) as file:
        value: Tensor = file.get_tensor(tensor).clone()
    if tensor_sha256(value) != sha256:
        raise FormatError(f"{path} is damaged: '{tensor}' is not what was written")
    return value


class UnreadableError(FormatError):
    """A file that is there cannot be opened or read; what it holds may be whole."""


class _opened:
    """`safe_open`, with every way in which a file can be bad told as a FormatError."""

    def __init__(self, path: Path) -> None:
        self._path = path

    def __enter__(self) -> Any:
        try:
            open(self._path, "rb").close()  # safetensors tells of no file whatever hinders it
            opener: Any = safe_open
            self._file = opener(str(self._path), framework="pt")
            return self._file.__enter__()
        except (SafetensorError, FileNotFoundError) as error:
            raise FormatError(f"{self._path} cannot be read ({error}); it is missing, truncated or damaged") from error
        except OSError as error:
            raise self._unreadable(error) from error

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: object) -> None:
        self._file.__exit__(kind, error, trace)
        if isinstance(error, SafetensorError):
            raise FormatError(f"{self._path} cannot be read ({error}); it is truncated or damaged") from error
        if isinstance(error, OSError):
            raise self._unreadable(error) from error

    def _unreadable(self, error: OSError) -> UnreadableError:
        told = error.strerror or error
        return UnreadableError(f"{self._path} is there and cannot be read ({told}); make it readable and try again")
