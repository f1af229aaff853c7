"""Data sets before preprocessing: checked images, as bytes or in [0, 1], and labels."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import torch
from torch import Tensor

from pydistill.errors import InputError


@dataclass(frozen=True)
class RawData:
    """Checked images and labels before preprocessing.

    Args:
        name: of the data set, for records and reports.
        class_names: one per class.
        train_images, test_images: [n, C, H, W], uint8 0 … 255 or float32 in [0, 1], both of the same type
            and size.
        train_labels, test_labels: [n] int64 in [0, number of classes).

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

    def __post_init__(self) -> None:
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
        counts = torch.bincount(self.train_labels, minlength=len(self.class_names))
        if not bool(counts.all()):
            empty = int((counts == 0).nonzero()[0])
            raise InputError(
                f"class {empty} ({self.class_names[empty]!r}) has no image in train_images; every one of the"
                f" {len(self.class_names)} classes needs at least one"
            )

    @cached_property
    def train_digest(self) -> str:
        """The SHA-256 over the training images with their type and shape, as 64 hexadecimal digits."""
        return digest_of(self.train_images)

    @cached_property
    def digest(self) -> str:
        """The SHA-256 over all arrays with their types and shapes, as 64 hexadecimal digits; the name is ignored."""
        others = digest_of(self.train_labels, self.test_images, self.test_labels)
        return hashlib.sha256((self.train_digest + others).encode()).hexdigest()


def raw_from(
    name: str,
    class_names: tuple[str, ...] | None,
    train_images: Any,
    train_labels: Any,
    test_images: Any,
    test_labels: Any,
) -> RawData:
    """Make RawData from arrays that torch.as_tensor accepts.

    Labels may be integers of any width, and images floating point of any precision in a layout of `channels_first`.
    Without class names, the classes are numbered 0 … (largest training label).

    Raises:
        InputError: as RawData, or a value is not an array of numbers.
    """
    values = {
        "train_images": train_images,
        "train_labels": train_labels,
        "test_images": test_images,
        "test_labels": test_labels,
    }
    tensors: dict[str, Tensor] = {}
    for key, value in values.items():
        try:
            tensor = torch.as_tensor(value).detach()
        except (TypeError, ValueError, RuntimeError) as error:
            raise InputError(f"{key} is not an array of numbers: {error}") from error
        if key.endswith("labels"):
            is_integer = not tensor.is_floating_point() and not tensor.is_complex() and tensor.dtype != torch.bool
            tensor = tensor.to("cpu", torch.int64) if is_integer else tensor
        else:
            tensor = channels_first(tensor.to("cpu", torch.float32) if tensor.is_floating_point() else tensor)
        tensors[key] = tensor.cpu().contiguous()
    if class_names is None:
        labels = tensors["train_labels"]
        classes = int(labels.max()) + 1 if labels.dtype == torch.int64 and labels.numel() else 1
        if classes > max(labels.numel(), 1):
            raise InputError(
                f"train_labels holds the label {classes - 1} among {labels.numel()} images, so that some class"
                " is empty; labels count from 0 without gaps"
            )
        class_names = tuple(str(label) for label in range(max(classes, 1)))
    return RawData(name, class_names, **tensors)


def channels_first(images: Tensor) -> Tensor:
    """Convert images [n, H, W], [n, H, W, C] or [n, C, H, W] to [n, C, H, W].

    Channels are last if H, W > 4 and C is 3 or 4, or C is 1 and H = W; otherwise they are first.
    """
    if images.ndim == 3:
        return images.unsqueeze(1)
    if images.ndim == 4:
        height, width, channels = images.shape[1:]
        if min(height, width) > 4 and (channels in (3, 4) or (channels == 1 and height == width)):
            return images.permute(0, 3, 1, 2)
    return images


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
    if not (low == low and high == high and abs(low) != float("inf") and abs(high) != float("inf")):
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
        raise InputError(
            f"{name} holds the label {low if low < 0 else high}; with {classes} classes labels are 0 … {classes - 1}"
        )
