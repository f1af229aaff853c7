"""CIFAR-10, CIFAR-100, Fashion-MNIST and SVHN as torchvision lays them out and downloads them."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import torch

from pydistill.data.idx import idx_folder, read_fashion_mnist
from pydistill.data.raw import RawData, raw_from
from pydistill.errors import FormatError, InputError, MissingDependencyError

LAYOUTS: dict[str, tuple[str, ...]] = {
    "cifar10": ("cifar-10-batches-py",),
    "cifar100": ("cifar-100-python",),
    "svhn": ("train_32x32.mat", "test_32x32.mat"),
    "fashion-mnist": ("FashionMNIST",),
}
"""The names of the sets, and what torchvision looks for below its root."""


def read_vision(name: str, root: Path, *, download: bool) -> RawData:
    """A data set of LAYOUTS; all but fashion-mnist through torchvision, which knows the checksums of their files.

    Raises:
        InputError: it is not below `root` and may not or cannot be downloaded; the message says what to give.
        FormatError: it is there but damaged.
        MissingDependencyError: torchvision (for svhn also SciPy) is not installed.
    """
    if name == "fashion-mnist":
        return _fashion_mnist(root, download)
    if not download and not all((root / file).exists() for file in LAYOUTS[name]):
        raise _absent(name, root)
    datasets = _torchvision_datasets(name)
    with _explained(name, root, download):
        if name == "svhn":
            train, test = (datasets.SVHN(str(root), split=split, download=download) for split in ("train", "test"))
        else:
            kind = datasets.CIFAR10 if name == "cifar10" else datasets.CIFAR100
            train, test = (kind(str(root), train=flag, download=download) for flag in (True, False))
    if name == "svhn":
        digits = tuple(str(digit) for digit in range(10))
        return raw_from(name, digits, train.data, train.labels, test.data, test.labels)
    arrays = [array for part in (train, test) for array in (_channels_first(part.data), np.asarray(part.targets))]
    return raw_from(name, tuple(train.classes), *arrays)


def _fashion_mnist(root: Path, download: bool) -> RawData:
    folder = idx_folder(root)
    if folder is None and download:
        datasets = _torchvision_datasets("fashion-mnist")
        with _explained("fashion-mnist", root, download):
            datasets.FashionMNIST(str(root), download=True)
        folder = idx_folder(root)
    if folder is None:
        raise _absent("fashion-mnist", root)
    return read_fashion_mnist(folder)


def _absent(name: str, root: Path) -> InputError:
    files = LAYOUTS[name]
    return InputError(
        f"{name} is not in {root} ({' and '.join(files)} missing): give data.path, a folder that holds"
        f" {'it' if len(files) == 1 else 'them'} or an image folder or archive with train/<class>/* and"
        " test/<class>/*, or allow data.download=true"
    )


def _torchvision_datasets(name: str) -> ModuleType:
    try:
        from torchvision import datasets
    except ImportError as error:
        raise MissingDependencyError(
            f"{name} in torchvision's layout needs torchvision: pip install torchvision"
        ) from error
    module: ModuleType = datasets
    return module


@contextmanager
def _explained(name: str, root: Path, download: bool) -> Iterator[None]:
    """Turn what torchvision raises into this package's errors."""
    try:
        yield
    except ModuleNotFoundError as error:
        raise MissingDependencyError(f"{name} needs {error.name}: pip install {error.name}") from error
    except (OSError, RuntimeError) as error:
        reason = " ".join(str(error).split())
        if download:
            raise InputError(
                f"{name} could not be downloaded to {root} ({reason}); fetch it by other means and give data.path"
            ) from error
        raise FormatError(
            f"{name} in {root} is incomplete or damaged ({reason}); remove it and give data.download=true"
        ) from error


def _channels_first(images: Any) -> torch.Tensor:
    return torch.from_numpy(np.asarray(images)).permute(0, 3, 1, 2).contiguous()
