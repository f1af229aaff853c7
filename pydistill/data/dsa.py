"""Differentiable Siamese augmentation (Zhao & Bilen, ICML 2021), with random draws separate from their application.

`DsaSettings.draw` makes every random choice; `augment` is a function of images and draw alone. Augmenting twice with
the same draw gives the same result, so a backward pass can replay the batches of the forward pass.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache
from typing import Literal

import torch
from torch import Tensor
from torch.nn.utils.rnn import pad_sequence

from pydistill import ops
from pydistill._util.settings import Settings, setting
from pydistill.errors import InputError, SettingError
from pydistill.reference.augment import COLUMNS, END_OF_LIST

_NUMBER = {name: number for number, name in enumerate(COLUMNS)}


@dataclass(frozen=True)
class DsaDraw:
    """The outcome of every random choice of one augmentation.

    Args:
        operations: the applied operations in order, named as in `COLUMNS`.
        parameters: [B, k] float32, or [1, k] if all images share them; the columns of the operations side by
            side.
        height, width: size of the images in pixels, on which crop and cutout depend.
    """

    operations: tuple[str, ...]
    parameters: Tensor
    height: int
    width: int

    def parameter(self, operation: str) -> Tensor:
        """Return the columns of one operation, [B, COLUMNS[operation]] (or [1, …]).

        Raises:
            InputError: the operation is not part of this draw.
        """
        first = 0
        for name in self.operations:
            if name == operation:
                return self.parameters[:, first : first + COLUMNS[name]]
            first += COLUMNS[name]
        raise InputError(f"operation {operation!r} is not in this draw, which has {list(self.operations)}")

    def check_fits(self, images: Sequence[int], device: torch.device) -> None:
        """Refuse images [B, C, H, W] that the draw was not made for.

        Raises:
            InputError: the number, size or device of the images differs from the draw's, or the draw has an unknown
                operation or lacks parameters.
        """
        if unknown := [operation for operation in self.operations if operation not in COLUMNS]:
            raise InputError(f"a draw's operation {unknown[0]!r} must be one of {', '.join(COLUMNS)}")
        columns = sum(COLUMNS[operation] for operation in self.operations)
        if self.parameters.ndim != 2 or self.parameters.shape[1] != columns:
            raise InputError(
                f"a draw of {', '.join(self.operations) or 'no operation'} has parameters [B, {columns}] or"
                f" [1, {columns}], not {list(self.parameters.shape)}"
            )
        rows, own_device = self.parameters.shape[0], self.parameters.device
        size_fits = (self.height, self.width) == tuple(images[2:])
        if not size_fits or rows not in (1, images[0]) or own_device != device:
            raise InputError(
                f"a draw for {rows} images of {self.height}×{self.width} on {own_device} does not fit images"
                f" {list(images)} [B, C, H, W] on {device}"
            )

    def to(self, device: torch.device | str) -> DsaDraw:
        """Return the draw with its parameters on `device`."""
        return DsaDraw(self.operations, self.parameters.to(device), self.height, self.width)


@dataclass(frozen=True)
class DsaSettings(Settings):
    """The augmentations and their strengths; the defaults are those of all published trajectory-matching recipes."""

    strategy: str = setting(
        "color_crop_cutout_flip_scale_rotate",
        'color, crop, cutout, flip, scale and rotate, joined by "_"; "" or "none" augments nothing',
    )
    mode: Literal["S", "M"] = setting(
        "S", "S applies one random part of the strategy per batch; M applies all of them in order"
    )
    flip: float = setting(0.5, "probability of a left-right flip", at_least=0, at_most=1)
    scale: float = setting(1.2, "largest enlargement r; each axis is scaled by a factor from [1/r, r)", at_least=1)
    rotate: float = setting(15.0, "largest angle in degrees", at_least=0)
    crop: float = setting(0.125, "largest shift as a share of the side", at_least=0, at_most=1)
    cutout: float = setting(0.5, "side of the erased rectangle as a share of the image's side", at_least=0, at_most=1)
    brightness: float = setting(1.0, "strength of the brightness change", at_least=0)
    saturation: float = setting(2.0, "strength of the saturation change", at_least=0)
    contrast: float = setting(0.5, "strength of the contrast change", at_least=0)
    shared: bool = setting(False, "one set of parameters for a batch instead of one per image")

    def _check(self) -> None:
        for part in self.parts:
            if part not in COLUMNS:
                raise SettingError("strategy", self.strategy, f'{", ".join(COLUMNS)}, joined by "_"')

    @property
    def parts(self) -> tuple[str, ...]:
        """The operations of the strategy, in order."""
        return () if self.strategy in ("", "none") else tuple(self.strategy.split("_"))

    def draw(self, batch: int, height: int, width: int, generator: torch.Generator) -> DsaDraw:
        """Make every random choice for `batch` images of height × width pixels.

        With a new u ~ U[0, 1) for every number: brightness b(u − ½); saturation s·u; contrast u + c; crop an
        integer in [−round(rH), round(rH)] per axis; cutout a rectangle of ⌊rH + ½⌋ × ⌊rW + ½⌋ pixels around
        a centre anywhere in the image, clipped at the border; flip u < p; scale u(r − 1/r) + 1/r per axis;
        rotate (2u − 1)·angle.

        Args:
            generator: on the CPU; the same state gives the same draw for any images.

        Raises:
            InputError: batch < 0, or an image without pixels.
        """
        if batch < 0 or height < 1 or width < 1:
            raise InputError(f"cannot draw an augmentation for batch={batch} images of {height}×{width} pixels")
        operations = self.parts
        if self.mode == "S" and operations:
            operations = (operations[int(torch.randint(len(operations), (1,), generator=generator))],)
        rows = min(batch, 1) if self.shared else batch
        drawn = [self._column(operation, rows, height, width, generator) for operation in operations]
        parameters = torch.cat(drawn, dim=1) if len(drawn) > 1 else drawn[0] if drawn else torch.empty(rows, 0)
        return DsaDraw(operations, parameters, height, width)

    def _column(self, operation: str, rows: int, height: int, width: int, generator: torch.Generator) -> Tensor:
        if operation == "crop":
            limits = (_share(height, self.crop), _share(width, self.crop))
            return torch.stack([_integers(-limit, limit, rows, generator) for limit in limits], dim=1)
        if operation == "cutout":
            edges = []
            for side in (height, width):
                size = _share(side, self.cutout)
                first = _integers(0, side - size % 2, rows, generator) - size // 2
                edges += [first.clamp(min=0), (first + size).clamp(max=side)]
            return torch.stack(edges, dim=1)
        uniform = torch.rand(rows, COLUMNS[operation], generator=generator)
        if operation == "color":
            factors = torch.tensor([self.brightness, self.saturation, 1.0])
            return torch.addcmul(torch.tensor([-0.5 * self.brightness, 0.0, self.contrast]), uniform, factors)
        if operation == "flip":
            return (uniform < self.flip).float()
        if operation == "scale":
            return uniform * (self.scale - 1 / self.scale) + 1 / self.scale
        return (uniform - 0.5) * (2 * math.radians(self.rotate))


def augment(images: Tensor, draw: DsaDraw) -> Tensor:
    """Apply a draw to a batch of images: `pydistill.ops.augment` with the draw's numbers.

    Pixels outside the image are 0. Every operation is affine in the images. Derivatives of any order. On the CPU the
    result and its gradient are deterministic.

    Args:
        images: [B, C, H, W], floating point, on the draw's device.
        draw: of B images (or shared) of H × W pixels.

    Returns:
        [B, C, H, W]; the images themselves if the draw has no operation.

    Raises:
        InputError: the draw is for another batch, image size or device, or the images are not floating point
            [B, C, H, W].

    Equivalent to, for flip alone:
        torch.where(draw.parameters[:, :, None, None] > 0, images.flip(3), images)
    """
    if images.ndim != 4 or not images.is_floating_point():
        raise InputError(f"images to augment are floating point [B, C, H, W], not {images.dtype} {list(images.shape)}")
    draw.check_fits(images.shape, images.device)
    if images.numel() == 0 or not draw.operations:
        return images
    return ops.augment(images, _numbers(draw.operations, images.device), draw.parameters.to(images.dtype))


def draw_tables(draws: Sequence[DsaDraw], device: torch.device | str, dtype: torch.dtype) -> tuple[Tensor, Tensor]:
    """Return the draws of N steps as two tables whose rows k are the arguments of `pydistill.ops.augment` for draw k.

    Args:
        draws: N draws for images of one size and batches of one size.
        device: of the tables.
        dtype: of the parameters, which is that of the images.

    Returns:
        operations [N, L] int64, padded with −1, and parameters [N, rows, width], padded with 0; rows = 1 if all draws
        are shared, else B.

    Raises:
        InputError: the draws are for images or batches of different sizes.

    Equivalent to, where all draws have the same operations:
        torch.tensor([[list(COLUMNS).index(name) for name in draw.operations] for draw in draws])
        torch.stack([draw.parameters for draw in draws])
    """
    sizes = {(draw.height, draw.width) for draw in draws}
    counts = {draw.parameters.shape[0] for draw in draws}
    rows = max(counts, default=1)
    if len(sizes) > 1 or not counts <= {1, rows}:
        raise InputError(
            f"the draws of one table must be for images and batches of one size, not for images of {sorted(sizes)}"
            f" and batches of {sorted(counts)}"
        )
    longest = max((len(draw.operations) for draw in draws), default=0)
    numbers = [[*map(_NUMBER.__getitem__, draw.operations)] for draw in draws]
    padded = [row + [END_OF_LIST] * (longest - len(row)) for row in numbers]
    operations = torch.tensor(padded, dtype=torch.int64).view(len(draws), longest)
    if not draws:
        return operations.to(device), torch.empty(0, rows, 0, device=device, dtype=dtype)
    columns = [draw.parameters.expand(rows, -1).t() for draw in draws]
    parameters = pad_sequence(columns, batch_first=True).transpose(1, 2)
    return operations.to(device), parameters.to(device, dtype).contiguous()


@cache
def _numbers(operations: tuple[str, ...], device: torch.device) -> Tensor:
    """Return the numbers of the operations on the device; cached, because copying to a GPU synchronises."""
    with torch.inference_mode(False):  # the cached tensor is used inside and outside that mode
        return torch.tensor([_NUMBER[name] for name in operations], dtype=torch.int64, device=device)


def _share(side: int, ratio: float) -> int:
    return int(side * ratio + 0.5)


def _integers(low: int, high: int, rows: int, generator: torch.Generator) -> Tensor:
    """Draw [rows] integers uniformly from [low, high], as float32."""
    return torch.randint(low, high + 1, (rows,), generator=generator).float()
