"""Decoder `dct`: the coefficients of a cosine transform at the frequencies that vary most within a class."""

from __future__ import annotations

import math
from collections.abc import Mapping

import torch
from torch import Tensor

from pydistill.errors import SettingError
from pydistill.synthesis.decoders.base import Decoder, separable


class Dct(Decoder):
    """m coefficients per channel of an orthonormal 2-D DCT-II, at frequencies chosen for each class:

        x = Aᵀ z B,    A = dct_matrix(H), B = dct_matrix(W),    z = 0 outside the class's m frequencies

    These are the frequencies whose coefficients, averaged over the channels, have the largest variance over the class's
    initial images; they stay fixed. A class has ⌊ipc · H · W / m⌋ images, which its ipc · C · H · W numbers hold.
    Source: Shin et al., *Frequency Domain-based Dataset Distillation* (FreD), NeurIPS 2023, with an orthonormal
    transform, so that a rate of the coefficients acts as one of pixels.

    Args:
        coefficients: m.
        shape: (C, H, W).
        ipc: images per class whose storage the codes have.

    Raises:
        SettingError: m is above H · W, or leaves a class one image, which has no variance.
    """

    def __init__(self, coefficients: int, shape: tuple[int, int, int], ipc: int) -> None:
        self.height, self.width = shape[1:]
        pixels = self.height * self.width
        self.images_per_class = ipc * pixels // coefficients
        if coefficients > pixels or (self.images_per_class < 2 and coefficients < pixels):
            several = f"at most {pixels // 2}, so that a class has two images, or " if 1 == ipc < pixels else "at most "
            raise SettingError("coefficients", coefficients, f"{several}{pixels}, the pixels of an image")
        self.coefficients = coefficients
        self.frequencies: Tensor | None = None

    @property
    def buffers(self) -> dict[str, Tensor]:
        """The frequencies of each class, [K, m] int16 (int32 for large images), ascending, as h · W + w."""
        return {} if self.frequencies is None else {"frequencies": self.frequencies}

    def load_buffers(self, buffers: Mapping[str, Tensor]) -> None:
        """Restore the frequencies of the classes."""
        self.frequencies = buffers["frequencies"]

    def encode(self, images: Tensor, classes: Tensor, generator: torch.Generator) -> dict[str, Tensor]:
        """Choose the frequencies, and return the coefficients there as the code `coefficients` [n, C, m]."""
        rows, columns = self._matrices(images)
        spectrum = separable(images, rows, columns).flatten(2)
        by_class = spectrum.mean(dim=1).view(-1, self.images_per_class, self.height * self.width)
        variance = by_class.var(dim=1, correction=0)
        chosen = variance.argsort(dim=1, descending=True, stable=True)[:, : self.coefficients].sort(dim=1).values
        self.frequencies = chosen.to(torch.int16 if self.height * self.width <= 2**15 else torch.int32)
        return {"coefficients": spectrum.gather(2, self._index(images.shape[1]))}

    def decode(self, codes: Mapping[str, Tensor]) -> Tensor:
        """Return the images [n, C, H, W] of the coefficients; linear in the codes."""
        coefficients = codes["coefficients"]
        count, channels, _ = coefficients.shape
        spectrum = coefficients.new_zeros(count, channels, self.height * self.width)
        spectrum = spectrum.scatter(2, self._index(channels), coefficients)
        rows, columns = self._matrices(coefficients)
        return separable(spectrum.view(count, channels, self.height, self.width), rows.T, columns.T)

    def _matrices(self, like: Tensor) -> tuple[Tensor, Tensor]:
        return dct_matrix(self.height).to(like), dct_matrix(self.width).to(like)

    def _index(self, channels: int) -> Tensor:
        """Return the frequencies of every coefficient, [n, C, m] int64."""
        assert self.frequencies is not None
        of_images = self.frequencies.long().repeat_interleave(self.images_per_class, dim=0)
        return of_images[:, None].expand(-1, channels, -1)


def dct_matrix(size: int) -> Tensor:
    """Return the orthonormal DCT-II, [size, size] float64: row k holds √(2/N) cos(π (2i + 1) k / 2N), row 0 1/√N."""
    number = torch.arange(size, dtype=torch.float64)
    matrix = (math.pi * (2 * number + 1) * number[:, None] / (2 * size)).cos() * math.sqrt(2 / size)
    matrix[0] /= math.sqrt(2)
    return matrix
