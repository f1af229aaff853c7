"""Read CIFAR-10, CIFAR-100, Fashion-MNIST and SVHN from the files of torchvision."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from pydistill.data.raw import RawData, raw_from
from pydistill.errors import FormatError, InputError, MissingDependencyError, Name

SOURCES = {
    "cifar10": ("CIFAR10", ["cifar-10-batches-py"]),
    "cifar100": ("CIFAR100", ["cifar-100-python"]),
    "svhn": ("SVHN", ["train_32x32.mat", "test_32x32.mat"]),
    "fashion-mnist": ("FashionMNIST", ["FashionMNIST/raw"]),
}
"""By data set: the class in torchvision.datasets, and the files that it reads below the root."""


def read_vision(name: str, root: Path, *, download: bool) -> RawData:
    """Read a data set of SOURCES through torchvision, which verifies the checksums of CIFAR's and SVHN's files."""
    reader, files = SOURCES[name]
    if not download and not all((root / file).exists() for file in files):
        raise InputError(
            f"{name} is not in {root} ({' and '.join(files)} missing): give ",
            Name("data.path"),
            f", a folder that holds {'it' if len(files) == 1 else 'them'} or an image folder or archive with "
            "train/<class>/* and test/<class>/*, or allow ",
            Name("data.download"),
        )
    try:
        from torchvision import datasets
    except ImportError as error:
        raise MissingDependencyError(
            f"{name} in torchvision's layout needs torchvision: pip install torchvision"
        ) from error
    kind = getattr(datasets, reader)
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
            f"{name} in {root} is incomplete or damaged ({reason}); set ",
            Name("data.path"),
            " to intact files, or to a new folder with ",
            Name("data.download"),
        ) from error
    if name == "svhn":  # images [n, 3, H, W]; the others are [n, H, W, 3] or [n, H, W]
        digits = [str(digit) for digit in range(10)]
        return raw_from(name, digits, train.data, train.labels, test.data, test.labels)
    return raw_from(name, train.classes, train.data, train.targets, test.data, test.targets)
