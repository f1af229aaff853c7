"""Decoder `upsample`: small images, enlarged bilinearly."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor
from torch.nn import functional

from pydistill.errors import SettingError
from pydistill.synthesis.decoders.base import Decoder, separable


class Upsample(Decoder):
    """Small images [n, C, H/f, W/f], of which f² take the storage of one image, enlarged bilinearly:

        x = A z Bᵀ,    A [H, H/f], B [W, W/f]: see `bilinear_matrix`

    Encoding takes the mean of every f×f block. Source: the multi-formation function of Kim et al., *Dataset
    Condensation via Efficient Synthetic-Data Parameterization* (IDC), ICML 2022.

    Equivalent to:
        torch.nn.functional.interpolate(codes["small_images"], scale_factor=f, mode="bilinear", align_corners=False)

    Args:
        factor: f, which divides H and W.
        shape: (C, H, W).
        ipc: images per class whose storage the codes have.

    Raises:
        SettingError: f does not divide H and W.
    """

    def __init__(self, factor: int, shape: tuple[int, int, int], ipc: int) -> None:
        _, height, width = shape
        if height % factor or width % factor:
            raise SettingError("factor", factor, f"a divisor of the image size, {height}×{width}")
        self.factor = factor
        self.images_per_class = ipc * factor**2

    def encode(self, images: Tensor, classes: Tensor, generator: torch.Generator) -> dict[str, Tensor]:
        """Return the images, smaller by f, as the code `small_images` [n, C, H/f, W/f]."""
        return {"small_images": functional.avg_pool2d(images, self.factor)}

    def decode(self, codes: Mapping[str, Tensor]) -> Tensor:
        """Return the enlarged images [n, C, H, W]; linear in the codes."""
        small = codes["small_images"]
        rows, columns = (bilinear_matrix(size, self.factor).to(small) for size in small.shape[2:])
        return separable(small, rows, columns)


def bilinear_matrix(size: int, factor: int) -> Tensor:
    """Return the matrix [size · factor, size] that interpolates linearly between pixel centres, float64.

    Row i weighs the pixels next to (i + ½) / factor − ½; beyond the outermost centres the border is repeated.
    """
    places = ((torch.arange(size * factor, dtype=torch.float64) + 0.5) / factor - 0.5).clamp(0, size - 1)
    return (1 - (places[:, None] - torch.arange(size)).abs()).clamp_min(0)
