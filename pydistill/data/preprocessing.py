"""Preprocessings: invertible maps from pixels to the images that networks are trained on."""

from __future__ import annotations

import abc
import copy
import hashlib
import json
from collections.abc import Iterator, Mapping
from typing import Any, ClassVar, Self

import torch
from torch import Tensor

from pydistill.errors import FormatError, InputError

KINDS: dict[str, type[Preprocessing]] = {}


class Preprocessing(abc.ABC):
    """An invertible map from images in [0, 1] to the images that networks are trained on.

    Args of every subclass:
        source: digest of the images on which it was fitted, or "" for fixed numbers; two fits on the same images are
            the same preprocessing even if machines round the last bit differently.
    """

    kind: ClassVar[str]
    source: str

    def __init_subclass__(cls, **keywords: Any) -> None:
        super().__init_subclass__(**keywords)
        KINDS[cls.kind] = cls

    @abc.abstractmethod
    def apply(self, images: Tensor) -> Tensor:
        """Preprocess images in [0, 1], [n, C, H, W] floating point; differentiable."""

    def apply_(self, images: Tensor) -> None:
        """Preprocess in place, with the same bits as `apply`, images that need no gradient."""
        images.copy_(self.apply(images))

    @abc.abstractmethod
    def invert(self, images: Tensor) -> Tensor:
        """Apply the inverse of `apply`, without clamping, as distilled images may leave [0, 1]; differentiable."""

    @abc.abstractmethod
    def state(self) -> tuple[dict[str, Any], dict[str, Tensor]]:
        """Return everything that defines the preprocessing: (JSON-able values, tensors by name)."""

    def to(self, device: torch.device | str) -> Self:
        """Return the preprocessing with its tensors, which are attributes of the names in `state`, on `device`."""
        moved = copy.copy(self)
        for name, tensor in self.state()[1].items():
            setattr(moved, name, tensor.to(device))
        return moved

    @classmethod
    @abc.abstractmethod
    def _restore(cls, values: Mapping[str, Any], tensors: Mapping[str, Tensor]) -> Preprocessing:
        """Make a preprocessing from its `state`; raises KeyError or TypeError if that is incomplete."""

    @property
    def fingerprint(self) -> str:
        """The kind and 16 hexadecimal digits, such as "zca-0f3a…"; equal for equal preprocessings."""
        values, tensors = self.state()
        digest = hashlib.sha256(json.dumps(values, sort_keys=True).encode())
        if not self.source:
            for name in sorted(tensors):
                digest.update(name.encode() + tensors[name].detach().cpu().contiguous().numpy().tobytes())
        return f"{self.kind}-{digest.hexdigest()[:16]}"

    @staticmethod
    def from_state(values: Mapping[str, Any], tensors: Mapping[str, Tensor]) -> Preprocessing:
        """Restore a preprocessing from its `state`.

        Raises:
            FormatError: the kind is unknown, or an entry is missing or has the wrong shape.
        """
        kind = values.get("kind")
        if kind not in KINDS:
            raise FormatError(f"preprocessing of kind {kind!r} is unknown; this version has {', '.join(sorted(KINDS))}")
        try:
            return KINDS[kind]._restore(values, tensors)
        except (KeyError, TypeError, InputError) as error:
            raise FormatError(f"the stored {kind} preprocessing is incomplete or damaged: {error}") from error


class Normalise(Preprocessing):
    """Per channel: (x − mean) / std.

    Args:
        mean, std: [C], in units of the [0, 1] range; std > 0.
        source: digest of the training images on which they were measured, if any.

    Raises:
        InputError: the shapes differ, or a number is not finite, or a std is not positive.
    """

    kind = "normalise"

    def __init__(self, mean: Tensor, std: Tensor, *, source: str = "") -> None:
        if mean.ndim != 1 or mean.shape != std.shape:
            raise InputError(
                f"mean {list(mean.shape)} and std {list(std.shape)} must both be [C], one number per channel"
            )
        if not (mean.isfinite().all() and std.isfinite().all() and (std > 0).all()):
            raise InputError(f"mean={mean.tolist()} must be finite and std={std.tolist()} finite and positive")
        self.mean, self.std, self.source = mean.to(torch.float64), std.to(torch.float64), source

    @staticmethod
    def fit(images: Tensor, *, source: str = "") -> Normalise:
        """Measure mean and (population) standard deviation of every channel over all pixels, in fp64.

        A constant channel has standard deviation 0 and is only centred (divided by 1).

        Args:
            images: [n, C, H, W], uint8 0 … 255 or floating point in [0, 1], n ≥ 1.
        """
        channels = images.shape[1]
        total, square = torch.zeros(2, channels, dtype=torch.float64)
        if images.dtype == torch.uint8:
            levels = torch.arange(256, dtype=torch.float64) / 255
            for channel in range(channels):
                counts = torch.zeros(256, dtype=torch.int64)
                for chunk in chunks_of(images[:, channel]):
                    counts += torch.bincount(chunk.reshape(-1), minlength=256)
                total[channel], square[channel] = (counts * levels).sum(), (counts * levels * levels).sum()
        else:
            for chunk in chunks_of(images):
                exact = chunk.to(torch.float64)
                total += exact.sum((0, 2, 3)).cpu()
                square += exact.square().sum((0, 2, 3)).cpu()
        count = images.numel() // channels
        mean = total / count
        variance = (square / count - mean * mean).clamp(min=0)
        # Below the rounding error of this difference, a variance is indistinguishable from that of a constant channel.
        std = torch.where(variance > 1e-13 * (square / count), variance.sqrt(), torch.ones_like(variance))
        return Normalise(mean, std, source=source)

    def apply(self, images: Tensor) -> Tensor:
        mean, std = self._constants(images)
        return (images - mean) / std

    def apply_(self, images: Tensor) -> None:
        mean, std = self._constants(images)
        images.sub_(mean).div_(std)

    def invert(self, images: Tensor) -> Tensor:
        mean, std = self._constants(images)
        return images * std + mean

    def state(self) -> tuple[dict[str, Any], dict[str, Tensor]]:
        return {"kind": self.kind, "source": self.source}, {"mean": self.mean, "std": self.std}

    @classmethod
    def _restore(cls, values: Mapping[str, Any], tensors: Mapping[str, Tensor]) -> Normalise:
        return cls(tensors["mean"], tensors["std"], source=values["source"])

    def _constants(self, images: Tensor) -> tuple[Tensor, Tensor]:
        check_images(images, self.mean.shape[0])
        return self.mean.to(images)[:, None, None], self.std.to(images)[:, None, None]


def chunks_of(images: Tensor, elements: int = 2**24) -> Iterator[Tensor]:
    """Split images into views of about `elements` elements, so that temporary tensors stay small."""
    size = max(1, elements // images[:1].numel())
    for first in range(0, len(images), size):
        yield images[first : first + size]


def check_images(images: Tensor, channels: int, image_size: tuple[int, int] | None = None) -> None:
    """Raise InputError unless images are floating point [n, C, H, W] with these channels (and this size)."""
    fits = images.ndim == 4 and images.shape[1] == channels and image_size in (None, tuple(images.shape[2:]))
    if not (fits and images.is_floating_point()):
        height, width = image_size if image_size is not None else ("H", "W")
        raise InputError(
            f"images must be floating point [n, {channels}, {height}, {width}], not {images.dtype} {list(images.shape)}"
        )
