"""A data set ready for training: preprocessed tensors, and the preprocessing that made them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from pydistill.data.cache import cached_zca
from pydistill.data.preprocessing import Normalise, Preprocessing, chunks_of
from pydistill.data.raw import RawData, raw_from
from pydistill.data.zca import Zca
from pydistill.errors import InputError


@dataclass(frozen=True)
class Dataset:
    """Training and test images as networks see them.

    Args:
        name: of the data set.
        class_names: one per class, in the order of the labels.
        train_images, test_images: float32 [n, C, H, W], preprocessed.
        train_labels, test_labels: int64 [n].
        preprocessing: what made these images of images in [0, 1], and its inverse.
        digest: SHA-256 over the raw arrays, so that two data sets can be told apart whatever they are called.
    """

    name: str
    class_names: tuple[str, ...]
    train_images: Tensor
    train_labels: Tensor
    test_images: Tensor
    test_labels: Tensor
    preprocessing: Preprocessing
    digest: str

    @property
    def num_classes(self) -> int:
        """Number of classes."""
        return len(self.class_names)

    @property
    def in_channels(self) -> int:
        """C, the channels of an image."""
        return self.train_images.shape[1]

    @property
    def image_size(self) -> tuple[int, int]:
        """(H, W) in pixels."""
        return self.train_images.shape[2], self.train_images.shape[3]

    def to(self, device: torch.device | str) -> Dataset:
        """The same data set with all tensors on `device`."""
        return replace(
            self,
            train_images=self.train_images.to(device),
            train_labels=self.train_labels.to(device),
            test_images=self.test_images.to(device),
            test_labels=self.test_labels.to(device),
            preprocessing=self.preprocessing.to(device),
        )

    def class_indices(self, label: int) -> Tensor:
        """Where in the training set the images of one class are, ascending; int64 [n of the class].

        Raises:
            InputError: there is no such label.
        """
        if not 0 <= label < self.num_classes:
            raise InputError(f"label={label} is outside 0 … {self.num_classes - 1}, the classes of {self.name}")
        return (self.train_labels == label).nonzero().squeeze(1)

    def sample_per_class(self, ipc: int, generator: torch.Generator) -> tuple[Tensor, Tensor]:
        """`ipc` different training images of each class at random, class by class.

        Args:
            ipc: images per class, from 1 to the size of the smallest class.
            generator: on the CPU.

        Returns:
            images [ipc · classes, C, H, W] (a copy) and labels [ipc · classes] = 0 … 0, 1 … 1, and so on.

        Raises:
            InputError: ipc < 1, or a class has fewer training images.
        """
        if ipc < 1:
            raise InputError(f"ipc={ipc} images per class must be at least 1")
        chosen = []
        for label, class_name in enumerate(self.class_names):
            indices = self.class_indices(label)
            if len(indices) < ipc:
                raise InputError(
                    f"ipc={ipc} is above the {len(indices)} training images of class {label} ({class_name!r})"
                    f" of {self.name}"
                )
            chosen.append(indices[torch.randperm(len(indices), generator=generator)[:ipc].to(indices.device)])
        index = torch.cat(chosen)
        return self.train_images[index], self.train_labels[index]


def from_tensors(
    train_images: Any,
    train_labels: Any,
    test_images: Any,
    test_labels: Any,
    *,
    name: str = "tensors",
    class_names: Sequence[str] | None = None,
    zca: bool = False,
) -> Dataset:
    """A data set from arrays of your own, normalised per channel or ZCA-whitened.

    Args:
        train_images, test_images: [n, C, H, W], uint8 0 … 255 or floating point in [0, 1]; tensors or NumPy
            arrays.
        train_labels, test_labels: [n] whole numbers from 0.
        class_names: one per class; without them the classes are called "0", "1", and so on.
        zca: whiten (see Zca) instead of normalising (see Normalise); both are fitted on the training images.

    Raises:
        InputError: a shape or type is wrong, a pixel is not finite or out of range, a label is out of range,
            or a class has no training image.
    """
    names = None if class_names is None else tuple(class_names)
    return prepare(raw_from(name, names, train_images, train_labels, test_images, test_labels), zca=zca)


def prepare(raw: RawData, *, zca: bool = False, cache: Path | None = None) -> Dataset:
    """Fit the preprocessing on the training images and apply it to all.

    Args:
        raw: the data as read.
        zca: whiten instead of normalising.
        cache: folder in which a fitted ZCA is kept (its fit takes minutes for large images); None keeps
            nothing.
    """
    preprocessing: Preprocessing
    source = raw.train_digest
    if not zca:
        preprocessing = Normalise.fit(raw.train_images, source=source)
    elif cache is None:
        preprocessing = Zca.fit(raw.train_images, source=source)
    else:
        preprocessing = cached_zca(raw.train_images, source, cache)
    return Dataset(
        name=raw.name,
        class_names=raw.class_names,
        train_images=_apply(preprocessing, raw.train_images),
        train_labels=raw.train_labels,
        test_images=_apply(preprocessing, raw.test_images),
        test_labels=raw.test_labels,
        preprocessing=preprocessing,
        digest=raw.digest,
    )


def _apply(preprocessing: Preprocessing, images: Tensor) -> Tensor:
    result = torch.empty(images.shape, dtype=torch.float32)
    for target, chunk in zip(chunks_of(result), chunks_of(images), strict=True):
        target.copy_(chunk)
        if images.dtype == torch.uint8:
            target.div_(255)
        preprocessing.apply_(target)
    return result
