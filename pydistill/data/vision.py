"""CIFAR-10, CIFAR-100, Fashion-MNIST and SVHN as torchvision lays them out and downloads them."""

from __future__ import annotations

from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import torch

from pydistill.data.raw import RawData, raw_from
from pydistill.errors import FormatError, InputError, MissingDependencyError

# name: (torchvision's class, the files or folder that it looks for below its root)
LAYOUTS: dict[str, tuple[str, tuple[str, ...]]] = {
    "cifar10": ("CIFAR10", ("cifar-10-batches-py",)),
    "cifar100": ("CIFAR100", ("cifar-100-python",)),
    "svhn": ("SVHN", ("train_32x32.mat", "test_32x32.mat")),
}


def read_vision(name: str, root: Path, *, download: bool) -> RawData:
    """A data set through torchvision, which checks its files against known checksums.

    Raises:
        InputError: it is not below `root` and may not be downloaded; the message says what to give.
        FormatError: it is there but damaged.
        MissingDependencyError: torchvision (for svhn also SciPy) is not installed.
    """
    class_name, files = LAYOUTS[name]
    present = all((root / file).exists() for file in files)
    if not present and not download:
        raise InputError(
            f"{name} is not in {root} ({' and '.join(files)} missing): give data.path, a folder that holds"
            f" {'it' if len(files) == 1 else 'them'} or an image folder or archive with train/<class>/* and"
            " test/<class>/*, or allow data.download=true"
        )
    datasets = torchvision_datasets(name)
    try:
        if name == "svhn":
            train = datasets.SVHN(str(root), split="train", download=download)
            test = datasets.SVHN(str(root), split="test", download=download)
        else:
            train, test = (
                getattr(datasets, class_name)(str(root), train=flag, download=download) for flag in (True, False)
            )
    except ModuleNotFoundError as error:
        raise MissingDependencyError(f"{name} needs {error.name}: pip install {error.name}") from error
    except RuntimeError as error:  # torchvision's word for files that are missing or whose checksum is wrong
        raise FormatError(
            f"{name} in {root} is incomplete or damaged; remove it and give data.download=true"
        ) from error
    if name == "svhn":
        return raw_from(
            name, tuple(str(digit) for digit in range(10)), train.data, train.labels, test.data, test.labels
        )
    arrays = [array for part in (train, test) for array in (_channels_first(part.data), np.asarray(part.targets))]
    return raw_from(name, tuple(train.classes), *arrays)


def torchvision_datasets(name: str) -> ModuleType:
    """The module torchvision.datasets.

    Raises:
        MissingDependencyError: torchvision is not installed.
    """
    try:
        from torchvision import datasets
    except ImportError as error:
        raise MissingDependencyError(
            f"{name} in torchvision's layout needs torchvision: pip install torchvision"
        ) from error
    module: ModuleType = datasets
    return module


def _channels_first(images: Any) -> torch.Tensor:
    return torch.from_numpy(np.asarray(images)).permute(0, 3, 1, 2).contiguous()
