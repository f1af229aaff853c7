"""Fashion-MNIST in its own binary files (IDX), plain or gzipped."""

from __future__ import annotations

import gzip
import struct
import zlib
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from pydistill.data.raw import RawData
from pydistill.errors import FormatError

FILES = {
    "train_images": ("train-images-idx3-ubyte", 3),
    "train_labels": ("train-labels-idx1-ubyte", 1),
    "test_images": ("t10k-images-idx3-ubyte", 3),
    "test_labels": ("t10k-labels-idx1-ubyte", 1),
}
"""File name and number of dimensions of each array."""

FASHION_CLASSES = (
    "T-shirt-top",
    "Trouser",
    "Pullover",
    "Dress",
    "Coat",
    "Sandal",
    "Shirt",
    "Sneaker",
    "Bag",
    "Ankle-boot",
)


def idx_folder(path: Path) -> Path | None:
    """The folder with all four files: `path` itself, or where torchvision puts them below it; None if
    neither."""
    for folder in (path, path / "FashionMNIST" / "raw"):
        if all(_file(folder, name) is not None for name, _ in FILES.values()):
            return folder
    return None


def read_fashion_mnist(folder: Path) -> RawData:
    """Fashion-MNIST as [n, 1, 28, 28] bytes.

    Raises:
        FormatError: a file is damaged, cut short or no IDX file; the message names it.
    """
    arrays: dict[str, Tensor] = {}
    for name, (file_name, dimensions) in FILES.items():
        values = _read_idx(_file(folder, file_name) or folder / file_name, dimensions)
        arrays[name] = values[:, None] if dimensions == 3 else values.long()
    return RawData("fashion-mnist", FASHION_CLASSES, **arrays)


def _file(folder: Path, name: str) -> Path | None:
    return next((path for path in (folder / name, folder / f"{name}.gz") if path.is_file()), None)


def _read_idx(path: Path, dimensions: int) -> Tensor:
    """One array of bytes: 0, 0, 8 (bytes), number of dimensions, each size as 4 bytes big-endian, then the
    values."""
    try:
        with gzip.open(path, "rb") if path.suffix == ".gz" else open(path, "rb") as handle:
            head = handle.read(4 + 4 * dimensions)
            if len(head) < 4 + 4 * dimensions or head[:4] != bytes([0, 0, 8, dimensions]):
                raise FormatError(f"{path} is no IDX file of bytes with {dimensions} dimensions")
            shape = struct.unpack(f">{dimensions}I", head[4:])
            count = int(np.prod(shape, dtype=np.float64))
            data = handle.read(count + 1) if count <= 2**32 else b""
    except (OSError, EOFError, zlib.error) as error:
        raise FormatError(f"{path} cannot be read ({error}); it is damaged or cut short") from error
    if len(data) != count:
        raise FormatError(f"{path} should hold {count:,} values, for shape {list(shape)}, and does not; it is damaged")
    return torch.from_numpy(np.frombuffer(data, dtype=np.uint8).copy().reshape(shape))
