"""A data set ready for training: pictures, labels, and the preprocessing between pixels and networks."""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path

import torch
from torch import Tensor

from pydistill._util.png import MOST_COLUMNS, html_sheet
from pydistill.data.cache import cached_zca
from pydistill.data.pictures import Pictures
from pydistill.data.preprocessing import Normalise, Preprocessing, chunks_of
from pydistill.data.raw import RawData
from pydistill.data.settings import DataSettings
from pydistill.data.zca import Zca
from pydistill.errors import InputError


@dataclass(frozen=True)
class Dataset:
    """Training and test images as networks see them.

    Args:
        name: of the data set.
        class_names: one per class, in the order of the labels.
        train_pictures, test_pictures: [n, C, H, W], of which batches are made preprocessed.
        train_labels, test_labels: int64 [n].
        preprocessing: what made these images of images in [0, 1], and its inverse.
        digest: SHA-256 over the raw arrays, which identifies the data independently of the name.
        settings: what `load` read it by; None for data that exist in memory only.
    """

    name: str
    class_names: tuple[str, ...]
    train_pictures: Pictures
    train_labels: Tensor
    test_pictures: Pictures
    test_labels: Tensor
    preprocessing: Preprocessing
    digest: str
    settings: DataSettings | None = None

    def __repr__(self) -> str:
        sizes = f"{len(self.train_labels):,} + {len(self.test_labels):,} images"
        shape = "×".join(map(str, self.train_pictures.shape[1:]))
        return (
            f"Dataset({self.name}: {sizes} {shape} of {self.num_classes} classes, "
            f"{self.preprocessing.kind}, {self.device})"
        )

    def _repr_html_(self) -> str:
        """The first training image of each class above the line of `repr`, for a notebook."""
        first = [int(self.class_indices(label)[0]) for label in range(min(self.num_classes, MOST_COLUMNS))]
        images = self.train_pictures.batch(torch.tensor(first, device=self.device))
        return html_sheet(self.preprocessing.invert(images), len(first), repr(self))

    @property
    def train_images(self) -> Tensor:
        """Preprocessed, float32 [n, C, H, W]; where the pictures are kept as bytes, made anew at every call."""
        return self.train_pictures.as_floats().pixels

    @property
    def test_images(self) -> Tensor:
        """As `train_images`."""
        return self.test_pictures.as_floats().pixels

    @property
    def device(self) -> torch.device:
        """The device of the tensors."""
        return self.train_labels.device

    @property
    def num_classes(self) -> int:
        """Number of classes."""
        return len(self.class_names)

    @property
    def in_channels(self) -> int:
        """C, the channels of an image."""
        return self.train_pictures.shape[1]

    @property
    def image_size(self) -> tuple[int, int]:
        """(H, W) in pixels."""
        return self.train_pictures.shape[2], self.train_pictures.shape[3]

    @property
    def sizes(self) -> tuple[int, int, tuple[int, int]]:
        """(in_channels, num_classes, image_size): what a network for this data set is built with."""
        return self.in_channels, self.num_classes, self.image_size

    def to(self, device: torch.device | str) -> Dataset:
        """The same data set with all tensors on `device`."""
        preprocessing = self.preprocessing.to(device)

        def moved(pictures: Pictures) -> Pictures:
            pixels = pictures.pixels.to(device)
            return Pictures(pixels, preprocessing if pictures.are_bytes else None)

        return replace(
            self,
            train_pictures=moved(self.train_pictures),
            train_labels=self.train_labels.to(device),
            test_pictures=moved(self.test_pictures),
            test_labels=self.test_labels.to(device),
            preprocessing=preprocessing,
        )

    def with_preprocessing(self, preprocessing: Preprocessing) -> Dataset:
        """The same pictures and labels, preprocessed otherwise; floats agree to rounding, bytes are not copied.

        Raises:
            InputError: the preprocessing does not fit the pictures' channels or size.
        """
        preprocessing = preprocessing.to(self.device)

        def changed(pictures: Pictures) -> Pictures:
            if pictures.are_bytes:
                kept = Pictures(pictures.pixels, preprocessing)
                kept.rows(0, 1)  # refused here, if at all
                return kept
            floats = torch.empty_like(pictures.pixels)
            for target, chunk in zip(chunks_of(floats), chunks_of(pictures.pixels), strict=True):
                target.copy_(preprocessing.apply(self.preprocessing.invert(chunk)))
            return Pictures(floats)

        return replace(
            self,
            train_pictures=changed(self.train_pictures),
            test_pictures=changed(self.test_pictures),
            preprocessing=preprocessing,
        )

    def class_indices(self, label: int) -> Tensor:
        """Indices of the training images of one class, ascending; int64 [n of the class].

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
        return self.train_pictures.batch(index), self.train_labels[index]


def prepare(
    raw: RawData,
    *,
    zca: bool = False,
    normalise: Normalise | None = None,
    cache: Path | None = None,
    as_bytes: bool = False,
) -> Dataset:
    """Fit the preprocessing on the training images and apply it, to all of them now or to each batch.

    Args:
        raw: the data as read.
        zca: whiten instead of normalising.
        normalise: the normalisation to apply instead of fitting one; not with zca.
        cache: folder in which a fitted ZCA is kept (its fit takes minutes for large images); None keeps
            nothing.
        as_bytes: keep the pictures as uint8 and preprocess each batch when it is made.

    Raises:
        InputError: the pictures are to be kept as bytes, and came as floating point.
    """
    if as_bytes and raw.train_images.dtype != torch.uint8:
        raise InputError(
            f"the pictures of {raw.name} came as floating point and cannot be kept as bytes; "
            "take data.pixels=auto or floats"
        )
    preprocessing: Preprocessing
    source = raw.train_digest
    if not zca and normalise is not None:
        preprocessing = normalise
    elif not zca:
        preprocessing = Normalise.fit(raw.train_images, source=source)
    elif cache is None:
        preprocessing = Zca.fit(raw.train_images, source=source)
    else:
        preprocessing = cached_zca(raw.train_images, source, cache)

    def pictures(images: Tensor) -> Pictures:
        if images.dtype == torch.uint8:
            kept = Pictures(images, preprocessing)
            return kept if as_bytes else kept.as_floats()
        return Pictures(_preprocessed(preprocessing, images))

    return Dataset(
        name=raw.name,
        class_names=raw.class_names,
        train_pictures=pictures(raw.train_images),
        train_labels=raw.train_labels,
        test_pictures=pictures(raw.test_images),
        test_labels=raw.test_labels,
        preprocessing=preprocessing,
        digest=raw.digest,
    )


def _preprocessed(preprocessing: Preprocessing, images: Tensor) -> Tensor:
    result = images.clone()
    for chunk in chunks_of(result):
        preprocessing.apply_(chunk)
    return result
