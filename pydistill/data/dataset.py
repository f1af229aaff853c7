"""Data sets ready for training: pictures, labels and their preprocessing."""

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
from pydistill.data.statistics import published_normalisation
from pydistill.data.zca import Zca
from pydistill.errors import InputError, SettingError


@dataclass(frozen=True)
class Dataset:
    """Training and test images as networks see them.

    Args:
        name: of the data set.
        class_names: one per class, in the order of the labels.
        train_pictures, test_pictures: [n, C, H, W]; their batches are preprocessed.
        train_labels, test_labels: int64 [n].
        preprocessing: the map from images in [0, 1] to these images, and its inverse.
        digest: SHA-256 over the raw arrays, which identifies the data independently of the name.
        settings: the settings that `load` used; None for data that exist in memory only.
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
        """Format the first training image of every class above `repr` as HTML for a notebook."""
        first = [int(self.class_indices(label)[0]) for label in range(min(self.num_classes, MOST_COLUMNS))]
        images = self.train_pictures.batch(torch.tensor(first, device=self.device))
        return html_sheet(self.preprocessing.invert(images), len(first), repr(self))

    @property
    def train_images(self) -> Tensor:
        """The preprocessed training images, float32 [n, C, H, W]; every access preprocesses images stored as bytes."""
        return self.train_pictures.as_floats().pixels

    @property
    def test_images(self) -> Tensor:
        """The preprocessed test images, like `train_images`."""
        return self.test_pictures.as_floats().pixels

    @property
    def device(self) -> torch.device:
        """The device of the tensors."""
        return self.train_labels.device

    @property
    def num_classes(self) -> int:
        """The number of classes."""
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
        """(in_channels, num_classes, image_size), with which a network for this data set is built."""
        return self.in_channels, self.num_classes, self.image_size

    def to(self, device: torch.device | str) -> Dataset:
        """Return the data set with all tensors on `device`."""
        preprocessing = self.preprocessing.to(device)
        train, test = (
            Pictures(pictures.pixels.to(device), preprocessing if pictures.are_bytes else None)
            for pictures in (self.train_pictures, self.test_pictures)
        )
        return replace(
            self,
            train_pictures=train,
            train_labels=self.train_labels.to(device),
            test_pictures=test,
            test_labels=self.test_labels.to(device),
            preprocessing=preprocessing,
        )

    def with_preprocessing(self, preprocessing: Preprocessing) -> Dataset:
        """Return the data set with another preprocessing; floats are converted up to rounding, bytes are not copied.

        Its `settings` are those by which `load` would apply this preprocessing, or None if there are none.

        Raises:
            InputError: the preprocessing does not fit the pictures' channels or size.
        """
        preprocessing = preprocessing.to(self.device)

        def changed(pictures: Pictures) -> Pictures:
            if pictures.are_bytes:
                converted = Pictures(pictures.pixels, preprocessing)
                converted.rows(0, 1)  # raises if the preprocessing does not fit
                return converted
            floats = torch.empty_like(pictures.pixels)
            for target, chunk in zip(chunks_of(floats), chunks_of(pictures.pixels), strict=True):
                target.copy_(preprocessing.apply(self.preprocessing.invert(chunk)))
            return Pictures(floats)

        return replace(
            self,
            train_pictures=changed(self.train_pictures),
            test_pictures=changed(self.test_pictures),
            preprocessing=preprocessing,
            settings=self._settings_with(preprocessing),
        )

    def _settings_with(self, preprocessing: Preprocessing) -> DataSettings | None:
        """Return the settings by which `load` applies a preprocessing to these data; None if there are none."""
        if self.settings is None or preprocessing.fingerprint == self.preprocessing.fingerprint:
            return self.settings
        published = published_normalisation(self.settings.name)
        if published is not None and published.fingerprint == preprocessing.fingerprint:
            return replace(self.settings, zca=False, statistics="published")
        if preprocessing.source and preprocessing.source == self.preprocessing.source:
            return replace(self.settings, zca=preprocessing.kind == "zca", statistics="measured")
        return None

    def class_indices(self, label: int) -> Tensor:
        """Return the ascending indices of the training images of one class, int64 [n of the class].

        Raises:
            InputError: the label is out of range.
        """
        if not 0 <= label < self.num_classes:
            raise InputError(f"label={label} is outside 0 … {self.num_classes - 1}, the classes of {self.name}")
        return (self.train_labels == label).nonzero().squeeze(1)

    def indices_per_class(self, ipc: int) -> list[Tensor]:
        """Return `class_indices` of every class, each of at least `ipc` images.

        Raises:
            InputError: ipc < 1, or a class has fewer training images.
        """
        if ipc < 1:
            raise SettingError("ipc", ipc, "at least 1")
        classes = [self.class_indices(label) for label in range(self.num_classes)]
        for label, indices in enumerate(classes):
            if len(indices) < ipc:
                name = f"class {label} ({self.class_names[label]!r}) of {self.name}"
                raise SettingError("ipc", ipc, f"at most {len(indices)}, the training images of {name}")
        return classes

    def sample_per_class(self, ipc: int, generator: torch.Generator) -> tuple[Tensor, Tensor]:
        """Draw `ipc` different training images of every class at random, sorted by class.

        Args:
            ipc: images per class, from 1 to the size of the smallest class.
            generator: on the CPU.

        Returns:
            images [ipc · classes, C, H, W] (a copy) and labels [ipc · classes] = 0 … 0, 1 … 1, and so on.

        Raises:
            InputError: ipc < 1, or a class has fewer training images.
        """
        chosen = [
            indices[torch.randperm(len(indices), generator=generator)[:ipc].to(indices.device)]
            for indices in self.indices_per_class(ipc)
        ]
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
    """Fit the preprocessing on the training images and apply it, now or batch by batch.

    Args:
        normalise: the normalisation to apply instead of fitting one; not with zca.
        cache: folder for a fitted ZCA (the fit takes minutes for large images); None stores nothing.
        as_bytes: store the pictures as uint8 and preprocess every batch when it is made.
    """
    if as_bytes and raw.train_images.dtype != torch.uint8:
        raise InputError(
            f"the pictures of {raw.name} are floating point and cannot be stored as bytes; "
            "set data.pixels to auto or floats"
        )
    preprocessing: Preprocessing
    if not zca:
        preprocessing = normalise or Normalise.fit(raw.train_images, source=raw.train_digest)
    elif cache is None:
        preprocessing = Zca.fit(raw.train_images, source=raw.train_digest)
    else:
        preprocessing = cached_zca(raw.train_images, raw.train_digest, cache)

    def pictures(images: Tensor) -> Pictures:
        if images.dtype == torch.uint8:
            as_uint8 = Pictures(images, preprocessing)
            return as_uint8 if as_bytes else as_uint8.as_floats()
        floats = images.clone()
        for chunk in chunks_of(floats):
            preprocessing.apply_(chunk)
        return Pictures(floats)

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
