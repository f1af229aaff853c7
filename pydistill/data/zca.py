"""ZCA whitening with its mean and its inverse, which turns whitened images into pixels again."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from pydistill.data.preprocessing import Preprocessing, check_images, chunks_of
from pydistill.errors import InputError

MAX_DIMENSION = 3 * 64 * 64
"""Maximum D = C·H·W; the matrix has D² elements, and its decomposition takes O(D³) time."""


class Zca(Preprocessing):
    """Whitened images W (x − mean), with W = U diag(1/√(S + eps)) Uᵀ of the training covariance U diag(S) Uᵀ.

    Args:
        mean: [C, H, W] of the training images in [0, 1].
        matrix, inverse: W and its inverse U diag(√(S + eps)) Uᵀ, [D, D] with D = C·H·W; both symmetric.
        eps: added to the eigenvalues.
        source: digest of the training images on which it was fitted, if any.

    Raises:
        InputError: the shapes disagree, or a number is not finite.
    """

    kind = "zca"

    def __init__(self, mean: Tensor, matrix: Tensor, inverse: Tensor, eps: float, *, source: str = "") -> None:
        size = mean.numel()
        if mean.ndim != 3 or matrix.shape != (size, size) or inverse.shape != (size, size):
            raise InputError(
                f"mean {list(mean.shape)} must be [C, H, W], and matrix {list(matrix.shape)} and inverse"
                f" {list(inverse.shape)} [D, D] with D = C·H·W"
            )
        if not all(tensor.isfinite().all() for tensor in (mean, matrix, inverse)):
            raise InputError("mean, matrix and inverse of a ZCA must be finite")
        self.mean, self.matrix, self.inverse = mean, matrix, inverse
        self.eps, self.source = float(eps), source

    @staticmethod
    def fit(images: Tensor, eps: float = 0.1, *, source: str = "") -> Zca:
        """Fit the whitening of a training set: covariance (divisor n − 1) and eigendecomposition in fp64, result
        in fp32.

        Args:
            images: [n, C, H, W], uint8 0 … 255 or floating point in [0, 1]; n ≥ 2.
            eps: added to every eigenvalue; > 0. The published value is 0.1, on pixels in [0, 1].

        Raises:
            InputError: fewer than two images, eps ≤ 0, or C·H·W above MAX_DIMENSION.
        """
        count, size = images.shape[0], images[0:1].numel()
        if count < 2:
            raise InputError(f"ZCA needs at least 2 training images, not {count}")
        if not eps > 0:
            raise InputError(f"eps={eps} of ZCA must be above 0")
        if size > MAX_DIMENSION:
            raise InputError(
                f"zca=True needs a matrix of (C·H·W)² elements: C·H·W = {size:,} is above the limit"
                f" of {MAX_DIMENSION:,}; normalise instead, or set a smaller image_size"
            )
        scale = 255.0 if images.dtype == torch.uint8 else 1.0
        total = torch.zeros(size, dtype=torch.float64)
        for chunk in chunks_of(images):
            total += chunk.reshape(len(chunk), -1).sum(0, dtype=torch.float64).cpu()
        mean = total / (scale * count)
        covariance = torch.zeros(size, size, dtype=torch.float64)
        for chunk in chunks_of(images):
            centred = chunk.reshape(len(chunk), -1).cpu().to(torch.float64) / scale - mean
            covariance.addmm_(centred.T, centred)
        covariance /= count - 1
        eigenvalues, vectors = torch.linalg.eigh(covariance)
        roots = (eigenvalues.clamp(min=0) + eps).sqrt()
        matrix, inverse = (vectors / roots) @ vectors.T, (vectors * roots) @ vectors.T
        return Zca(mean.float().view(images.shape[1:]), matrix.float(), inverse.float(), eps, source=source)

    def apply(self, images: Tensor) -> Tensor:
        self._check(images)
        return ((images - self.mean.to(images)).flatten(1) @ self.matrix.to(images)).view_as(images)

    def invert(self, images: Tensor) -> Tensor:
        self._check(images)
        return (images.flatten(1) @ self.inverse.to(images)).view_as(images) + self.mean.to(images)

    def state(self) -> tuple[dict[str, Any], dict[str, Tensor]]:
        values = {"kind": self.kind, "source": self.source, "eps": self.eps}
        return values, {"mean": self.mean, "matrix": self.matrix, "inverse": self.inverse}

    @classmethod
    def _restore(cls, values: Mapping[str, Any], tensors: Mapping[str, Tensor]) -> Zca:
        return cls(tensors["mean"], tensors["matrix"], tensors["inverse"], values["eps"], source=values["source"])

    def _check(self, images: Tensor) -> None:
        channels, height, width = self.mean.shape
        check_images(images, channels, (height, width))
