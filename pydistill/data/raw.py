"""Data sets before preprocessing: checked images, as bytes or in [0, 1], and labels."""

from __future__ import annotations

import hashlib
import logging
import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any, Literal

import numpy as np
import torch
from torch import Tensor

from pydistill._util.format import counted
from pydistill.errors import InputError, Name

ARRAYS = ("train_images", "train_labels", "test_images", "test_labels")
Layout = Literal["auto", "nchw", "nhwc"]
_MOST_NAMES = 5
_FROM_ZERO = "labels count from 0, so subtract 1"
_log = logging.getLogger("pydistill")


@dataclass(frozen=True)
class RawData:
    """Checked images and labels before preprocessing.

    Args:
        name: of the data set, for records and reports.
        class_names: one per class.
        train_images, test_images: [n, C, H, W], uint8 0 … 255 or float32 in [0, 1], both of the same type and size.
        train_labels, test_labels: [n] int64 in [0, number of classes).
        notes: sentences on files that were not read.

    Raises:
        InputError: a shape, type, label or pixel is invalid, or a class has no training image; the message names the
            argument.
    """

    name: str
    class_names: tuple[str, ...]
    train_images: Tensor
    train_labels: Tensor
    test_images: Tensor
    test_labels: Tensor
    notes: tuple[str, ...] = field(default=(), kw_only=True)

    def __post_init__(self) -> None:
        check_class_names(self.class_names)
        for split in ("train", "test"):
            _check_images(f"{split}_images", getattr(self, f"{split}_images"))
            labels, images = getattr(self, f"{split}_labels"), getattr(self, f"{split}_images")
            check_labels(f"{split}_labels", labels, len(images), len(self.class_names))
        train, test = self.train_images, self.test_images
        if train.shape[1:] != test.shape[1:] or train.dtype != test.dtype:
            raise InputError(
                f"train_images {train.dtype} {list(train.shape)} and test_images {test.dtype}"
                f" {list(test.shape)} must have the same type, channels, height and width"
            )
        check_every_class("train_images", self.train_labels, self.class_names)

    @cached_property
    def train_digest(self) -> str:
        """The SHA-256 over the training images with their type and shape, as 64 hexadecimal digits."""
        return digest_of(self.train_images)

    @cached_property
    def digest(self) -> str:
        """The SHA-256 over all arrays with their types and shapes, as 64 hexadecimal digits; the name is ignored."""
        others = digest_of(self.train_labels, self.test_images, self.test_labels)
        return hashlib.sha256((self.train_digest + others).encode()).hexdigest()


def log_contents(
    name: str, class_names: Sequence[str], train_labels: Tensor, test_labels: Tensor, shape: Sequence[int]
) -> None:
    """Log the numbers of classes and images [C, H, W], and warn of classes too small to learn or to test."""
    _log.info(
        "%s: %s, %s train and %s test images of %s",
        name,
        counted(len(class_names), "class", "classes"),
        f"{len(train_labels):,}",
        f"{len(test_labels):,}",
        "×".join(map(str, shape)),
    )
    if len(class_names) == 1:
        _log.warning("%s has a single class, %r, so that there is nothing to tell apart", name, class_names[0])
    for labels, count, text in ((test_labels, 0, "no test image"), (train_labels, 1, "a single training image")):
        counts = torch.bincount(labels, minlength=len(class_names)).tolist()
        small = [repr(class_name) for class_name, number in zip(class_names, counts, strict=True) if number == count]
        if small:
            rest = f" and {len(small) - _MOST_NAMES} more" if len(small) > _MOST_NAMES else ""
            _log.warning("%s has %s of %s", name, text, ", ".join(small[:_MOST_NAMES]) + rest)


def raw_from(name: str, class_names: Sequence[str] | None, *arrays: Any, layout: Layout = "auto") -> RawData:
    """Make RawData from arrays that torch.as_tensor accepts, in the order of `ARRAYS`.

    Labels may be integers of any width, and images floating point of any precision, [n, H, W], [n, H, W, C] (nhwc) or
    [n, C, H, W] (nchw). With `layout` auto, channels are last if H, W > 4 and C is 3 or 4, or C is 1 and H = W; other
    images that look like [n, H, W, C] are refused.

    Raises:
        InputError: as RawData, or a value is not an array of numbers.
    """
    tensors = [
        labels_from(key, value) if key.endswith("labels") else _images_from(key, value, layout)
        for key, value in zip(ARRAYS, arrays, strict=True)
    ]
    return RawData(name, class_names_for(tensors[1], class_names), *tensors)


def tensor_from(name: str, value: Any) -> Tensor:
    """Return an array as a tensor on the CPU; raise InputError if it does not hold numbers."""
    try:
        return torch.as_tensor(value).detach().cpu()
    except (TypeError, ValueError, RuntimeError) as error:
        raise InputError(f"{name} is not an array of numbers: {error}") from error


def labels_from(name: str, value: Any) -> Tensor:
    """Return an array as a tensor on the CPU, int64 if it holds integers, for `check_labels`."""
    if not isinstance(value, Tensor) and any(isinstance(label, str) for label in np.array(value, dtype=object).flat):
        raise InputError(
            f"{name} holds text; give integers, as in class_names, labels = numpy.unique(labels, return_inverse=True)"
        )
    labels = tensor_from(name, value)
    is_integer = not labels.is_floating_point() and not labels.is_complex() and labels.dtype != torch.bool
    return labels.to(torch.int64).contiguous() if is_integer else labels


def class_names_for(train_labels: Tensor, names: Sequence[str] | None) -> tuple[str, ...]:
    """Return the names of the classes; without names "0", "1", … up to the largest label."""
    if names is not None:
        return tuple(names)
    count = train_labels.numel()
    classes = int(train_labels.max()) + 1 if train_labels.dtype == torch.int64 and count else 1
    if classes > max(count, 1):
        raise InputError(
            f"train_labels holds {classes - 1} as one of {count} labels, so that some class is empty; labels count "
            "from 0 without gaps"
        )
    if classes > 1 and int(train_labels.min()) == 1:
        raise InputError(f"train_labels holds labels from 1; {_FROM_ZERO}")
    return tuple(str(label) for label in range(max(classes, 1)))


def _images_from(name: str, value: Any, layout: Layout) -> Tensor:
    """Return images as a contiguous tensor [n, C, H, W] on the CPU, float32 if they are floating point."""
    images = tensor_from(name, value)
    if images.is_floating_point():
        images = images.float()
    if images.ndim == 3:
        images = images.unsqueeze(1)
    elif images.ndim == 4 and (layout == "nhwc" or (layout == "auto" and _has_channels_last(name, images.shape))):
        images = images.permute(0, 3, 1, 2)
    return images.contiguous()


def _has_channels_last(name: str, shape: Sequence[int]) -> bool:
    """Decide between [n, H, W, C] and [n, C, H, W]; raise InputError if the first is likely but not certain."""
    height, width, last = shape[1:]
    if min(height, width) <= 4:
        return False
    if last in (3, 4) or (last == 1 and height == width):
        return True
    if last == 2 or height == width != last:
        raise InputError(
            f"{name} {list(shape)} looks like [n, H, W, C]; set ",
            Name("data.layout"),
            f" to nhwc, or to nchw if there are {height} channels",
        )
    return False


def digest_of(*tensors: Tensor) -> str:
    """Return the SHA-256 over tensors in order, with their types and shapes, as 64 hexadecimal digits."""
    digest = hashlib.sha256()
    for tensor in tensors:
        digest.update(f"{tensor.dtype} {list(tensor.shape)};".encode())
        digest.update(tensor.cpu().contiguous().numpy().data)
    return digest.hexdigest()


def _check_images(name: str, images: Tensor) -> None:
    if images.ndim != 4 or images.numel() == 0 or images.dtype not in (torch.uint8, torch.float32):
        raise InputError(
            f"{name} must be uint8 or floating point [n, C, H, W] with at least one image,"
            f" not {images.dtype} {list(images.shape)}"
        )
    if images.dtype == torch.uint8:
        return
    low, high = (float(bound) for bound in images.aminmax())
    if not (math.isfinite(low) and math.isfinite(high)):
        first = int((~images.isfinite()).flatten(1).any(1).nonzero()[0])
        raise InputError(f"{name} holds pixels that are not finite, first in image {first}")
    if low < 0 or high > 1:
        raise InputError(
            f"{name} of floating point must lie in [0, 1], not in [{low:g}, {high:g}]; give bytes 0 … 255 as"
            " uint8, and images before any normalisation"
        )


def check_labels(name: str, labels: Tensor, images: int, classes: int) -> None:
    """Raise an InputError unless labels are `images` integers from 0 to `classes` − 1."""
    if labels.shape != (images,) or labels.dtype != torch.int64:
        raise InputError(f"{name} must be {images} integers, one per image, not {labels.dtype} {list(labels.shape)}")
    low, high = int(labels.min()), int(labels.max())
    if low < 0 or high >= classes:
        hint = f"; {_FROM_ZERO}" if low == 1 and high == classes else ""
        wrong = low if low < 0 else high
        raise InputError(f"{name} holds the label {wrong}; with {classes} classes labels are 0 … {classes - 1}{hint}")


def check_every_class(name: str, train_labels: Tensor, class_names: Sequence[str]) -> None:
    """Raise an InputError if a class has no training sample; `name` is the argument that holds these."""
    counts = torch.bincount(train_labels, minlength=len(class_names))
    if not bool(counts.all()):
        empty = int((counts == 0).nonzero()[0])
        raise InputError(
            f"class {empty} ({class_names[empty]!r}) has no sample in {name}; every one of the {len(class_names)} "
            "classes needs at least one"
        )


def check_class_names(names: Iterable[str]) -> None:
    """Raise an InputError if a class name cannot be written as UTF-8, as of a folder's name in another encoding."""
    for name in names:
        try:
            name.encode()
        except UnicodeEncodeError:
            raise InputError(f"the class name {name!r} is not valid UTF-8; rename the class") from None


def split_by_class(labels: Tensor, class_names: Sequence[str], share: float, seed: int) -> tuple[Tensor, Tensor]:
    """Draw the ascending indices of training and test samples class by class.

    Args:
        share: of the test samples; every class has at least one of each.

    Raises:
        InputError: a class has fewer than two samples.
    """
    generator = torch.Generator().manual_seed(seed)
    train: list[Tensor] = []
    test: list[Tensor] = []
    for number, class_name in enumerate(class_names):
        own = (labels == number).nonzero().flatten()
        if len(own) < 2:
            raise InputError(f"class {class_name!r} has one sample; every class needs two, one of them for testing")
        own = own[torch.randperm(len(own), generator=generator)]
        count = min(len(own) - 1, max(1, round(share * len(own))))
        test.append(own[:count])
        train.append(own[count:])
    return torch.cat(train).sort().values, torch.cat(test).sort().values
