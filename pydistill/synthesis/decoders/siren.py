"""Decoder `siren`: every image is a small network from coordinates to colours."""

from __future__ import annotations

import math
from collections.abc import Mapping
from itertools import pairwise

import torch
from torch import Tensor

from pydistill.errors import SettingError
from pydistill.synthesis.decoders.base import Decoder
from pydistill.synthesis.decoders.fitting import Fitting, fit

_AT_ONCE = 2**24  # hidden values that are computed at once in the fit


class Siren(Decoder):
    """An image is a sinusoidal network of its own, from coordinates u in [−1, 1]² to C colours:

        h_0 = u,    h_{j+1} = sin(ω_j (W_j h_j + b_j)), j = 0 … layers − 1,    x(u) = W h_layers + b

    A class has as many images as fit into ipc · C · H · W numbers. Encoding fits the networks to the images. Sources:
    Shin et al., *Distilling Dataset into Neural Field* (DDiF), ICLR 2025; the networks and their initial weights are
    those of Sitzmann et al., *Implicit Neural Representations with Periodic Activation Functions*, NeurIPS 2020.

    Args:
        width, layers: of the hidden layers.
        first_omega, omega: ω_0, and ω_j of the other layers.
        shape: (C, H, W).
        ipc: images per class whose storage the codes have.
        fitting: steps and rate of the fit.

    Raises:
        SettingError: one network is larger than the storage.
    """

    def __init__(
        self,
        width: int,
        layers: int,
        first_omega: float,
        omega: float,
        shape: tuple[int, int, int],
        ipc: int,
        fitting: Fitting,
    ) -> None:
        self.channels, self.height, self.width = shape
        self.sizes = [2, *[width] * layers, self.channels]
        self.numbers = sum(ins * outs + outs for ins, outs in pairwise(self.sizes))
        self.first_omega, self.omega, self.fitting = first_omega, omega, fitting
        self.images_per_class = ipc * math.prod(shape) // self.numbers
        if self.images_per_class < 1:
            storage = ipc * math.prod(shape)
            needed = f"{layers} layers of this width have {self.numbers} numbers"
            raise SettingError("width", width, f"smaller, so that a network fits into {storage} numbers", needed)

    def encode(self, images: Tensor, classes: Tensor, generator: torch.Generator) -> dict[str, Tensor]:
        """Fit a network to every image, as the code `weights` [n, numbers]: W_0, b_0, W_1, b_1, …, each row by row."""
        parts = []
        for layer, (ins, outs) in enumerate(pairwise(self.sizes)):
            bound = 1 / ins if layer == 0 else math.sqrt(6 / ins) / self.omega
            for size in (outs * ins, outs):
                uniform = torch.rand(len(images), size, generator=generator, dtype=images.dtype)
                parts.append((2 * uniform - 1) * bound)
        weights = torch.cat(parts, dim=1).to(images.device)
        at_once = max(1, _AT_ONCE // (self.height * self.width * max(self.sizes)))
        return fit(self, {"weights": weights}, images, self.fitting, at_once=at_once)

    def decode(self, codes: Mapping[str, Tensor]) -> Tensor:
        """Return the images [n, C, H, W] of the networks."""
        weights = codes["weights"]
        x, y = ((torch.arange(size, dtype=torch.float64) + 0.5) * 2 / size - 1 for size in (self.width, self.height))
        down, across = torch.meshgrid(y, x, indexing="ij")
        hidden = torch.stack([across, down]).flatten(1).to(weights).expand(len(weights), -1, -1)
        rest = weights
        for layer, (ins, outs) in enumerate(pairwise(self.sizes)):
            matrix, bias, rest = torch.split(rest, [outs * ins, outs, rest.shape[1] - outs * ins - outs], dim=1)
            hidden = matrix.view(-1, outs, ins) @ hidden + bias[:, :, None]
            if layer < len(self.sizes) - 2:
                hidden = torch.sin((self.omega if layer else self.first_omega) * hidden)
        return hidden.view(-1, self.channels, self.height, self.width)
