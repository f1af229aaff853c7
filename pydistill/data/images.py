"""Decode image files into pixels."""

from __future__ import annotations

from contextlib import suppress
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Literal

import numpy as np
import numpy.typing as npt

from pydistill.errors import FormatError, MissingDependencyError, Name

if TYPE_CHECKING:
    from PIL.Image import Image

_UNSUPPORTED = {"BUFR", "EPS", "GRIB", "HDF5", "MPEG", "WMF"}
"""Formats that Pillow recognises without decoding them, and EPS, which it decodes by running Ghostscript."""

MAX_PIXELS = 64_000_000
"""The most pixels of an image, before and after scaling, as a small file can hold a huge image."""


@cache
def formats() -> dict[str, str]:
    """Return Pillow's formats by file extension, such as {".jpg": "JPEG"}."""
    _require_pillow()
    from PIL import Image

    Image.init()
    extensions = Image.registered_extensions().items()
    return {extension: form for extension, form in extensions if form in Image.OPEN and form not in _UNSUPPORTED}


def decode(
    file: Path,
    where: str,
    image_size: int | None,
    mode: Literal["RGB", "L"],
    upright: bool = True,
    scale_16bit: bool = False,
) -> npt.NDArray[np.uint8]:
    """Decode one image file, of several frames the first, to uint8 [C, H, W].

    Args:
        where: its name in messages.
        image_size: scale the shorter side to it (bilinear with antialiasing) and cut out the centre square, as
            torchvision's Resize and CenterCrop do; None keeps the size.
        mode: "RGB" for 3 channels, "L" for 1; other images are converted.
        upright: turn the image as its EXIF orientation says.
        scale_16bit: convert 16-bit grey values 0 … 65,535 to 0 … 255.

    Raises:
        FormatError: the file is not an image, is damaged or too large, or has more than 8 bits per channel.
    """
    _require_pillow()
    from PIL import Image, ImageOps

    known = sorted(set(formats().values()), key=Image.ID.index)  # in Pillow's order, the frequent ones first
    try:
        with Image.open(file, formats=known) as image:
            if image.width * image.height > MAX_PIXELS:
                size = f"{image.width}×{image.height}"
                raise FormatError(f"{where} has {size} pixels; scale it down to at most {MAX_PIXELS:,}")
            image.load()
            if upright:
                with suppress(Exception):  # damaged EXIF data leave the image as it is
                    ImageOps.exif_transpose(image, in_place=True)
            pixels = (_eight_bits(image, where, scale_16bit) if image.mode[0] in "IF" else image).convert(mode)
            if image_size is not None and pixels.size != (image_size, image_size):
                pixels = _scaled(pixels, image_size)
            array = np.asarray(pixels, dtype=np.uint8)
    except (FormatError, MemoryError):
        raise
    except Exception as error:  # a decoder can raise any error on damaged bytes
        reason = f"{where} cannot be decoded as an image: {error}; to pass over broken files set "
        raise FormatError(reason, Name("data.skip_broken")) from error
    return array[None].copy() if mode == "L" else array.transpose(2, 0, 1).copy()


def _require_pillow() -> None:
    try:
        import PIL.Image  # noqa: F401
    except ImportError as error:
        raise MissingDependencyError("reading image files needs Pillow: pip install pillow") from error


def _scaled(image: Image, size: int) -> Image:
    """Scale the shorter side to `size` and cut out the centre square."""
    from PIL.Image import Resampling

    width, height = (int(size * side / min(image.size)) for side in image.size)
    left, top = round((width - size) / 2), round((height - size) / 2)
    if width * height > MAX_PIXELS:  # compute the pixels of the square only, equal up to rounding
        across, down = image.width / width, image.height / height
        box = (left * across, top * down, (left + size) * across, (top + size) * down)
        return image.resize((size, size), Resampling.BILINEAR, box)
    return image.resize((width, height), Resampling.BILINEAR).crop((left, top, left + size, top + size))


def _eight_bits(image: Image, where: str, scale: bool) -> Image:
    """Convert 16-bit grey values to 8 bits if `scale` allows it."""
    from PIL import Image

    values = np.asarray(image)
    if image.mode == "F" or values.min() < 0 or values.max() > 65535:
        raise FormatError(
            f"{where} has fractions or values outside 0 … 65,535 (mode {image.mode}); convert it to 8 bits"
        )
    if not scale:
        raise FormatError(f"{where} has 16 bits per channel; convert it to 8 bits or set ", Name("data.scale_16bit"))
    return Image.fromarray(((values.astype(np.uint32) + 128) // 257).astype(np.uint8))
