"""Differentiable Siamese augmentation (Zhao & Bilen, ICML 2021): what is random is drawn first, then applied
as often as wanted.

`DsaSettings.draw` makes every random choice; `augment` is a function of images and draw alone. Augmenting
twice with the same draw gives the same result, so a sweep backwards can replay the batches of the sweep
forwards.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor
from torch.nn import functional

from pydistill.errors import InputError

COLUMNS: dict[str, int] = {
    "color": 3,  # brightness: what is added; saturation: factor on the distance to grey; contrast: to the mean
    "crop": 2,  # shift in rows, in columns
    "cutout": 4,  # first row, row after the last, first column, column after the last
    "flip": 1,  # 1 mirrors left and right, 0 does not
    "scale": 2,  # factor on x, on y
    "rotate": 1,  # angle in radians
}
"""The operations, and how many numbers per image each is given in `DsaDraw.parameters`."""


@dataclass(frozen=True)
class DsaDraw:
    """The outcome of every random choice of one augmentation.

    Args:
        operations: what is applied, in order; names of `COLUMNS`.
        parameters: [B, k] float32, or [1, k] if one set serves the whole batch; the operations' columns side
            by side.
        height, width: size in pixels of the images that it was drawn for (crop and cutout depend on it).
    """

    operations: tuple[str, ...]
    parameters: Tensor
    height: int
    width: int

    def parameter(self, operation: str) -> Tensor:
        """The columns of one operation, [B, COLUMNS[operation]] (or [1, …]).

        Raises:
            InputError: the operation is not part of this draw.
        """
        first = 0
        for name in self.operations:
            if name == operation:
                return self.parameters[:, first : first + COLUMNS[name]]
            first += COLUMNS[name]
        raise InputError(f"operation {operation!r} is not in this draw, which has {list(self.operations)}")

    def to(self, device: torch.device | str) -> DsaDraw:
        """The same draw with its parameters on `device`."""
        return DsaDraw(self.operations, self.parameters.to(device), self.height, self.width)


@dataclass(frozen=True)
class DsaSettings:
    """Which augmentations, and how strong; the defaults are those of every published trajectory-matching
    recipe.

    Args:
        strategy: words from color, crop, cutout, flip, scale, rotate joined by "_"; "" or "none" augments
            nothing.
        mode: "S" applies one word of the strategy per call, chosen at random; "M" applies all, in the
            strategy's order.
        flip: probability of a left-right flip, in [0, 1].
        scale: largest enlargement r ≥ 1; each axis is scaled by a factor from [1/r, r).
        rotate: largest angle in degrees, ≥ 0.
        crop: largest shift as a share of the side, in [0, 1].
        cutout: side of the erased rectangle as a share of the image's side, in [0, 1].
        brightness, saturation, contrast: strengths, ≥ 0.
        shared: one parameter set for the whole batch instead of one per image.

    Raises:
        InputError: a value is outside its limits.
    """

    strategy: str = "color_crop_cutout_flip_scale_rotate"
    mode: Literal["S", "M"] = "S"
    flip: float = 0.5
    scale: float = 1.2
    rotate: float = 15.0
    crop: float = 0.125
    cutout: float = 0.5
    brightness: float = 1.0
    saturation: float = 2.0
    contrast: float = 0.5
    shared: bool = False

    def __post_init__(self) -> None:
        for part in self.parts:
            if part not in COLUMNS:
                raise InputError(f"strategy={self.strategy!r} holds {part!r}, which is none of {', '.join(COLUMNS)}")
        if self.mode not in ("S", "M"):
            raise InputError(f"mode={self.mode!r} is neither 'S' (one part per call) nor 'M' (all parts)")
        limits = {"flip": (0, 1), "crop": (0, 1), "cutout": (0, 1), "scale": (1, math.inf)}
        for name in ("flip", "scale", "rotate", "crop", "cutout", "brightness", "saturation", "contrast"):
            low, high = limits.get(name, (0, math.inf))
            value = getattr(self, name)
            if not (math.isfinite(value) and low <= value <= high):
                allowed = f"in [{low}, {high}]" if math.isfinite(high) else f"a number ≥ {low}"
                raise InputError(f"{name}={value} of the augmentation must be {allowed}")

    @property
    def parts(self) -> tuple[str, ...]:
        """The words of the strategy, in order."""
        return () if self.strategy in ("", "none") else tuple(self.strategy.split("_"))

    def draw(self, batch: int, height: int, width: int, generator: torch.Generator) -> DsaDraw:
        """Make every random choice for `batch` images of height × width pixels.

        With u ~ U[0, 1) afresh for each number: brightness b(u − ½); saturation s·u; contrast u + c; crop an
        integer in [−round(rH), round(rH)] per axis; cutout a rectangle of ⌊rH + ½⌋ × ⌊rW + ½⌋ pixels around
        a centre anywhere in the image, clipped at its border; flip u < p; scale u(r − 1/r) + 1/r per axis;
        rotate (2u − 1)·angle.

        Args:
            generator: on the CPU; the same state gives the same draw, whatever is in the images.

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
    """Apply a draw to a batch of images.

    What is outside the image is 0. Each operation is affine in the images. First derivative always; further
    ones too, except that scale and rotate raise where the installed PyTorch lacks the second derivative of
    grid_sample. On the CPU the result and its gradient are the same every time.

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
    rows, device = draw.parameters.shape[0], draw.parameters.device
    if (
        (draw.height, draw.width) != tuple(images.shape[2:])
        or rows not in (1, images.shape[0])
        or device != images.device
    ):
        raise InputError(
            f"a draw for {rows} images of {draw.height}×{draw.width} on {device} does not fit images"
            f" {list(images.shape)} [B, C, H, W] on {images.device}"
        )
    if images.numel() == 0 or not draw.operations:
        return images
    parameters = draw.parameters.to(images.dtype)
    first = 0
    for operation in draw.operations:
        images = _OPERATIONS[operation](images, parameters[:, first : first + COLUMNS[operation]])
        first += COLUMNS[operation]
    return images


def _share(side: int, ratio: float) -> int:
    return int(side * ratio + 0.5)


def _integers(low: int, high: int, rows: int, generator: torch.Generator) -> Tensor:
    """[rows] whole numbers, uniform in [low, high], as float32."""
    return torch.randint(low, high + 1, (rows,), generator=generator).float()


def _color(images: Tensor, p: Tensor) -> Tensor:
    """Brightness b, saturation s and contrast c, one after the other, in one go.

    Saturation keeps each pixel's mean over channels, so the mean that contrast needs is known beforehand,
    and the three are cs·x + c(1 − s)·grey(x) + (1 − c)·mean(x) + b.
    """
    b, s, c = p[:, :, None, None, None].unbind(1)
    grey = images.mean(1, keepdim=True)
    offset = torch.addcmul(b, 1 - c, grey.mean((2, 3), keepdim=True))
    return torch.addcmul(torch.addcmul(offset, c - c * s, grey), c * s, images)


def _crop(images: Tensor, p: Tensor) -> Tensor:
    batch, channels, height, width = images.shape
    rows = torch.arange(height, device=images.device) + p[:, :1].long()
    columns = torch.arange(width, device=images.device) + p[:, 1:].long()
    outside = ((rows < 0) | (rows >= height))[:, :, None] | ((columns < 0) | (columns >= width))[:, None, :]
    # one zero is put behind the pixels of each channel, for everything outside to read
    source = ((rows * width)[:, :, None] + columns[:, None, :]).masked_fill(outside, height * width)
    source = source.view(-1, 1, height * width).expand(batch, channels, -1)
    return functional.pad(images.reshape(batch, channels, -1), (0, 1)).gather(2, source).view(images.shape)


def _cutout(images: Tensor, p: Tensor) -> Tensor:
    rows = torch.arange(images.shape[2], device=images.device, dtype=images.dtype)
    columns = torch.arange(images.shape[3], device=images.device, dtype=images.dtype)
    inside_rows = (rows >= p[:, 0:1]) & (rows < p[:, 1:2])
    inside_columns = (columns >= p[:, 2:3]) & (columns < p[:, 3:4])
    kept = ~(inside_rows[:, :, None] & inside_columns[:, None, :])
    return images * kept[:, None].to(images.dtype)


def _flip(images: Tensor, p: Tensor) -> Tensor:
    return torch.where(p[:, :, None, None] > 0, images.flip(3), images)


def _scale(images: Tensor, p: Tensor) -> Tensor:
    return _resample(images, p * p.new_tensor([1, 0]), p * p.new_tensor([0, 1]))


def _rotate(images: Tensor, p: Tensor) -> Tensor:
    cosine, sine = p.cos(), p.sin()
    return _resample(images, torch.cat([cosine, sine], 1), torch.cat([-sine, cosine], 1))


def _resample(images: Tensor, along_x: Tensor, along_y: Tensor) -> Tensor:
    """Bilinear sampling at x·along_x + y·along_y, where x and y run from −1 to 1 between the outermost
    pixels' centres.

    along_x, along_y: [B or 1, 2], each an (x, y). Instead of affine_grid, which takes longer than the
    sampling itself.
    """
    height, width = images.shape[2:]
    x, y = (_from_minus_one(side, images)[:, None] for side in (width, height))
    grid = torch.addcmul(y[:, None] * along_y[:, None, None], x, along_x[:, None, None]).expand(len(images), -1, -1, -1)
    return functional.grid_sample(images, grid, mode="bilinear", padding_mode="zeros", align_corners=True)


def _from_minus_one(side: int, images: Tensor) -> Tensor:
    """[side] coordinates from −1 to 1; a single pixel lies at 0."""
    if side == 1:
        return torch.zeros(1, dtype=images.dtype, device=images.device)
    return torch.linspace(-1, 1, side, dtype=images.dtype, device=images.device)


_OPERATIONS: dict[str, Callable[[Tensor, Tensor], Tensor]] = {
    "color": _color,
    "crop": _crop,
    "cutout": _cutout,
    "flip": _flip,
    "scale": _scale,
    "rotate": _rotate,
}
