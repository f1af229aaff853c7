"""Store images in memory as floats or bytes, and make preprocessed batches of them."""

from __future__ import annotations

from dataclasses import dataclass, replace

import torch
from torch import Tensor

from pydistill.data.preprocessing import Preprocessing, chunks_of
from pydistill.errors import InputError


@dataclass(frozen=True)
class Pictures:
    """n images that give preprocessed batches.

    Args:
        pixels: [n, C, H, W]: floating point, preprocessed; or uint8 0 … 255, not preprocessed, in a quarter of
            float32's memory.
        preprocessing: of batches of bytes, scaled to [0, 1]; None for floating point.

    Raises:
        InputError: the pixels are bytes without a preprocessing, or floating point with one.
    """

    pixels: Tensor
    preprocessing: Preprocessing | None = None

    def __post_init__(self) -> None:
        if self.are_bytes != (self.preprocessing is not None):
            raise InputError(
                f"pictures are uint8 with a preprocessing, or floating point without one, not {self.pixels.dtype} "
                f"with {'none' if self.preprocessing is None else self.preprocessing.kind}"
            )

    def __len__(self) -> int:
        return len(self.pixels)

    @property
    def are_bytes(self) -> bool:
        """True if the images are stored as uint8."""
        return self.pixels.dtype == torch.uint8

    @property
    def shape(self) -> torch.Size:
        """The shape [n, C, H, W]."""
        return self.pixels.shape

    @property
    def ndim(self) -> int:
        """The number of dimensions of `pixels`, which should be 4."""
        return self.pixels.ndim

    @property
    def dtype(self) -> torch.dtype:
        """The dtype of a batch."""
        return torch.float32 if self.are_bytes else self.pixels.dtype

    @property
    def device(self) -> torch.device:
        """The device of the images and of batches."""
        return self.pixels.device

    def batch(self, index: Tensor) -> Tensor:
        """Return the preprocessed images at `index` [B] int64 as a new tensor [B, C, H, W]."""
        return self._preprocessed(self.pixels.index_select(0, index))

    def rows(self, first: int, end: int) -> Tensor:
        """Return the preprocessed images from `first` up to `end`; a view if they are stored as floats."""
        return self._preprocessed(self.pixels[first:end])

    def as_floats(self) -> Pictures:
        """Return the images as floats; for bytes a new tensor of four times the memory."""
        if not self.are_bytes:
            return self
        floats = torch.empty(self.shape, dtype=torch.float32, device=self.device)
        for target, chunk in zip(chunks_of(floats), chunks_of(self.pixels), strict=True):
            self._fill(target, chunk)
        return Pictures(floats)

    def to(self, device: torch.device | str) -> Pictures:
        """Return the images on `device`."""
        preprocessing = None if self.preprocessing is None else self.preprocessing.to(device)
        return replace(self, pixels=self.pixels.to(device), preprocessing=preprocessing)

    def _preprocessed(self, pixels: Tensor) -> Tensor:
        if not self.are_bytes:
            return pixels
        batch = torch.empty(pixels.shape, dtype=torch.float32, device=pixels.device)
        self._fill(batch, pixels)
        return batch

    def _fill(self, target: Tensor, pixels: Tensor) -> None:
        assert self.preprocessing is not None
        self.preprocessing.apply_(target.copy_(pixels).div_(255))
