"""Read CIFAR-10, CIFAR-100, Fashion-MNIST and SVHN from the files of torchvision."""

from __future__ import annotations

from pathlib import Path
from types import ModuleType
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor

from pydistill.data.raw import RawData, raw_from
from pydistill.errors import FormatError, InputError, MissingDependencyError, Name


class _Source(NamedTuple):
    reader: str
    """The class in torchvision.datasets."""
    files: tuple[str, ...]
    """The files expected below the root."""


SOURCES = {
    "cifar10": _Source("CIFAR10", ("cifar-10-batches-py",)),
    "cifar100": _Source("CIFAR100", ("cifar-100-python",)),
    "svhn": _Source("SVHN", ("train_32x32.mat", "test_32x32.mat")),
    "fashion-mnist": _Source("FashionMNIST", ("FashionMNIST/raw",)),
}


def read_vision(name: str, root: Path, *, download: bool) -> RawData:
    """Read a data set of SOURCES through torchvision, which verifies the checksums of CIFAR's and SVHN's files.

    Raises:
        InputError: the files are not below `root` and cannot or may not be downloaded; the message names the settings.
        FormatError: a file is damaged.
        MissingDependencyError: torchvision (for svhn also SciPy) is not installed.
    """
    reader, files = SOURCES[name]
    if not download and not all((root / file).exists() for file in files):
        raise InputError(
            f"{name} is not in {root} ({' and '.join(files)} missing): give ",
            Name("data.path"),
            f", a folder that holds {'it' if len(files) == 1 else 'them'} or an image folder or archive with "
            "train/<class>/* and test/<class>/*, or allow ",
            Name("data.download"),
        )
    kind = getattr(_torchvision_datasets(name), reader)
    splits: list[dict[str, Any]] = [{"split": split} for split in ("train", "test")]
    if name != "svhn":
        splits = [{"train": True}, {"train": False}]
    try:
        train, test = (kind(str(root), download=download, **split) for split in splits)
    except ModuleNotFoundError as error:
        raise MissingDependencyError(f"{name} needs {error.name}: pip install {error.name}") from error
    except Exception as error:  # torchvision's readers can raise any error on damaged bytes
        reason = " ".join(f"{type(error).__name__} {error}".split())
        if download:
            raise InputError(
                f"{name} could not be downloaded to {root} ({reason}); get the files another way and set ",
                Name("data.path"),
            ) from error
        raise FormatError(
            f"{name} in {root} is incomplete or damaged ({reason}); remove it and set ", Name("data.download")
        ) from error
    classes = tuple(train.classes) if name != "svhn" else tuple(str(digit) for digit in range(10))
    arrays = [array for part in (train, test) for array in (_images(part.data), _labels(part, name))]
    return raw_from(name, classes, *arrays)


def _torchvision_datasets(name: str) -> ModuleType:
    try:
        from torchvision import datasets
    except ImportError as error:
        raise MissingDependencyError(
            f"{name} in torchvision's layout needs torchvision: pip install torchvision"
        ) from error
    module: ModuleType = datasets
    return module


def _images(data: Any) -> Tensor:
    """Convert [n, H, W], [n, H, W, 3] or [n, 3, H, W] to uint8 [n, C, H, W]."""
    images = torch.as_tensor(data)
    if images.ndim == 3:
        return images[:, None]
    return images.permute(0, 3, 1, 2).contiguous() if images.shape[3] == 3 else images


def _labels(part: Any, name: str) -> Any:
    return part.labels if name == "svhn" else np.asarray(part.targets)
