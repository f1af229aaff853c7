"""Read an expert's safetensors file one row at a time and check rows against their hashes."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import torch
from torch import Tensor

from pydistill._util.tensor_file import open_tensors, tensor_sha256
from pydistill.errors import FormatError, InputError
from pydistill.trajectories.trajectory import Rows

KEY = "pydistill.expert"
DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16, "float64": torch.float64}
_SAFETENSORS_DTYPES = {"float32": "F32", "bfloat16": "BF16", "float64": "F64"}


class FileRows:
    """Rows of a matrix [n, P] in a safetensors file; reading a row accesses only its bytes and the header.

    The file is mapped only during a read, so no file stays open and a store can be sent to another process. A row is
    compared with its hash on the first read only: later changes to the file are not detected, except by
    `TrajectoryStore.verify`.
    """

    def __init__(self, path: Path, tensor: str, shape: tuple[int, int], dtype: str, hashes: Sequence[str]) -> None:
        """Check the header of the file, in which `tensor` names the matrix, against the index, which has the rest.

        Raises:
            FormatError: the file is missing, truncated, or does not agree with the index.
        """
        self._path, self._tensor, self._shape, self._hashes = path, tensor, shape, tuple(hashes)
        self._checked: set[int] = set()
        with open_tensors(path) as file:
            matrix = file.get_slice(tensor)
            if tuple(matrix.get_shape()) != shape or matrix.get_dtype() != _SAFETENSORS_DTYPES[dtype]:
                raise FormatError(
                    f"{path} holds '{tensor}' as {matrix.get_dtype()} {list(matrix.get_shape())}, "
                    f"but its index says {_SAFETENSORS_DTYPES[dtype]} {list(shape)}"
                )

    @property
    def shape(self) -> tuple[int, int]:
        """(n, P)."""
        return self._shape

    def row(self, index: int) -> Tensor:
        """Return row `index` as a new tensor [P]; bfloat16 is converted to float32.

        Raises:
            FormatError: the file cannot be read, or the row does not match its hash on the first read.
        """
        with open_tensors(self._path) as file:
            row: Tensor = file.get_slice(self._tensor)[index].clone()
        if index not in self._checked:
            if tensor_sha256(row) != self._hashes[index]:
                raise FormatError(f"{self._path} is damaged: row {index} of '{self._tensor}' does not match its hash")
            self._checked.add(index)
        return row.float() if row.dtype == torch.bfloat16 else row


def read_tensor(path: Path, tensor: str, sha256: str) -> Tensor:
    """Read one tensor from a safetensors file; raise FormatError if it does not match its hash."""
    with open_tensors(path) as file:
        value: Tensor = file.get_tensor(tensor).clone()
    if tensor_sha256(value) != sha256:
        raise FormatError(f"{path} is damaged: '{tensor}' does not match its hash")
    return value


def matrix_of(name: str, rows: Rows, shape: tuple[int, int], dtype: str) -> Tensor:
    """Read rows into a matrix [n, P] of the store's dtype; `name` names them if they do not fit or are not finite."""
    if rows.shape != shape:
        raise InputError(f"{name} must have the shape {list(shape)} of the record, not {list(rows.shape)}")
    matrix = torch.empty(shape, dtype=DTYPES[dtype])
    for index in range(shape[0]):
        matrix[index] = rows.row(index)
        if not bool(torch.isfinite(matrix[index]).all()):
            raise InputError(f"{name} must be finite numbers, but row {index} holds NaN or infinity as {dtype}")
    return matrix
