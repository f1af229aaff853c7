"""Decoder `gaussians`: images as sums of coloured two-dimensional Gaussians."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Literal

import torch
from torch import Tensor
from torch.utils.checkpoint import checkpoint

from pydistill.errors import SettingError
from pydistill.synthesis.decoders.base import Decoder
from pydistill.synthesis.decoders.fitting import Fitting, fit

Stored = Literal["float32", "bfloat16"]
_BYTES = {"float32": 4, "bfloat16": 2}
_SHAPE = 6  # centre 2, Cholesky factor 3, opacity 1; the colours follow
_LARGEST_CENTRE = 0.999  # the boundary term is infinite at 1
_AT_ONCE = 2**24  # values of Gaussians at points that are computed, and remembered, at once


class Gaussians(Decoder):
    """An image is a sum of p Gaussians, without order or occlusion. At the point u (in pixels) of channel c

        x_c(u) = Σ_k α_k exp(−½ (u − μ_k)ᵀ Σ_k⁻¹ (u − μ_k)) colour_{k,c},    Σ_k = L_k L_kᵀ + I/12

    with I/12 the covariance of a pixel's square. A pixel is the mean of four points, a quarter pixel from its centre.
    A Gaussian has 6 + C numbers: its centre (x, y) in [−1, 1], so that μ = ((x + 1) W/2, (y + 1) H/2); l₁, l₂, l₃ of
    L = [[l₁, 0], [l₂, l₃]], in pixels; α; and C colours. Decoding rounds them to the dtype of storage, which the
    gradient ignores. Encoding fits them to the images. `penalty` keeps the centres inside; `project` clips them.

    Source: the paper of GSDD (2-D Gaussians for dataset distillation, submitted to ICLR 2026). Its code is not public.

    Args:
        images: images per class, which share the storage: p = ⌊ipc · C · H · W · 4 / (images · (6 + C) · bytes)⌋.
        stored: dtype of storage, float32 or bfloat16; it has 4 or 2 bytes.
        boundary: weight of the penalty.
        shape: (C, H, W).
        ipc: images per class whose storage the codes have.
        fitting: steps and rate of the fit.

    Raises:
        SettingError: the storage does not suffice for one Gaussian per image.
    """

    def __init__(
        self,
        images: int,
        stored: Stored,
        boundary: float,
        shape: tuple[int, int, int],
        ipc: int,
        fitting: Fitting,
    ) -> None:
        channels, self.height, self.width = shape
        numbers = ipc * math.prod(shape) * 4 // _BYTES[stored]
        self.points = numbers // (images * (_SHAPE + channels))
        if self.points < 1:
            limit = (
                f"at most {numbers // (_SHAPE + channels)}, so that each has a Gaussian in the storage of ipc = {ipc}"
            )
            raise SettingError("images", images, limit)
        self.images_per_class, self.stored, self.boundary, self.fitting = images, stored, boundary, fitting

    def encode(self, images: Tensor, classes: Tensor, generator: torch.Generator) -> dict[str, Tensor]:
        """Fit Gaussians to the images, from random centres, as the code `gaussians` [n, p, 6 + C]."""
        count, channels = images.shape[:2]
        centres = 2 * torch.rand(count, self.points, 2, generator=generator, dtype=images.dtype) - 1
        codes = torch.zeros(count, self.points, _SHAPE + channels, dtype=images.dtype)
        codes[..., :2] = centres.clamp(-_LARGEST_CENTRE, _LARGEST_CENTRE)
        # On a square lattice of p centres, Gaussians of this width sum to about 1.
        codes[..., 2] = codes[..., 4] = math.sqrt(self.height * self.width / (2 * math.pi * self.points))
        codes[..., 5] = 1
        codes = codes.to(images.device)
        sizes = torch.tensor([self.width, self.height], device=images.device)
        column, row = ((codes[..., :2] + 1) / 2 * sizes).long().unbind(dim=2)
        place = (row * self.width + column)[:, None].expand(-1, channels, -1)
        codes[..., _SHAPE:] = images.flatten(2).gather(2, place).transpose(1, 2)
        return fit(self, {"gaussians": codes}, images, self.fitting, at_once=self._images_at_once())

    def decode(self, codes: Mapping[str, Tensor]) -> Tensor:
        """Return the images [n, C, H, W] of the Gaussians.

        Derivatives: first order, with recomputation, so that one block of images is in memory at a time.
        """
        parts = torch.split(codes["gaussians"], self._images_at_once())
        if len(parts) == 1:
            return self._render(parts[0])
        blocks = [checkpoint(self._render, part, use_reentrant=False, preserve_rng_state=False) for part in parts]
        return torch.cat(blocks)

    def compact(self, codes: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """Return the codes in the dtype of storage."""
        return {name: code.to(getattr(torch, self.stored)) for name, code in codes.items()}

    def penalty(self, codes: Mapping[str, Tensor]) -> Tensor | None:
        """Return −w E[log(1 − x²) + log(1 − y²)] over all centres, with the weight w = `boundary`."""
        if self.boundary == 0:
            return None
        return -2 * self.boundary * torch.log1p(-codes["gaussians"][..., :2].square()).mean()

    def project(self, codes: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """Return the codes with the centres clipped to [−0.999, 0.999]."""
        gaussians = codes["gaussians"].clone()
        gaussians[..., :2].clamp_(-_LARGEST_CENTRE, _LARGEST_CENTRE)
        return {"gaussians": gaussians}

    def _images_at_once(self) -> int:
        return max(1, _AT_ONCE // (4 * self.height * self.width * self.points))

    def _render(self, gaussians: Tensor) -> Tensor:
        """Return the images [n, C, H, W] of Gaussians [n, p, 6 + C]."""
        values = gaussians
        if self.stored == "bfloat16":  # exactly the rounded values; the difference is a constant
            values = gaussians + (gaussians.detach().bfloat16().to(gaussians) - gaussians.detach())
        x, y, l1, l2, l3, opacity = values[..., :_SHAPE].unbind(dim=2)
        xx, xy, yy = l1.square() + 1 / 12, l1 * l2, l2.square() + l3.square() + 1 / 12
        determinant = xx * yy - xy.square()
        across = (_points(self.width, values) - ((x + 1) * (self.width / 2))[..., None])[:, :, None, :]
        down = (_points(self.height, values) - ((y + 1) * (self.height / 2))[..., None])[:, :, :, None]
        a, b, c = ((part / determinant)[..., None, None] for part in (yy, xy, xx))
        density = torch.exp(b * across * down - (a * across.square() + c * down.square()) / 2)
        samples = (opacity[..., None] * values[..., _SHAPE:]).transpose(1, 2) @ density.flatten(2)
        return samples.view(*samples.shape[:2], self.height, 2, self.width, 2).mean(dim=(3, 5))


def _points(size: int, like: Tensor) -> Tensor:
    """Return the two points of every pixel along an axis, a quarter pixel from its centre, in pixels."""
    return (torch.arange(2 * size, dtype=like.dtype, device=like.device) + 0.5) / 2
