"""Decode image files into pixels."""

from __future__ import annotations

from pathlib import Path
from typing import Literal

import numpy as np
import numpy.typing as npt

from pydistill.errors import FormatError, MissingDependencyError

EXTENSIONS = (".jpg", ".jpeg", ".png", ".ppm", ".bmp", ".pgm", ".tif", ".tiff", ".webp")
_FORMATS = ("JPEG", "PNG", "PPM", "BMP", "TIFF", "WEBP")
MAX_PIXELS = 64_000_000
"""Larger images are refused before decoding, as a small file can hold a huge image."""


def decode(file: Path, where: str, image_size: int | None, mode: Literal["RGB", "L"]) -> npt.NDArray[np.uint8]:
    """Decode one image file to uint8 [C, H, W].

    Args:
        where: its name in messages.
        image_size: scale the shorter side to it (bilinear with antialiasing) and cut out the centre square, as
            torchvision's Resize and CenterCrop do; None keeps the size.
        mode: "RGB" for 3 channels, "L" for 1; other images are converted.

    Raises:
        FormatError: the file is not an image, is damaged, or has more than 8 bits per channel.
    """
    try:
        from PIL import Image
    except ImportError as error:
        raise MissingDependencyError("reading image files needs Pillow: pip install pillow") from error
    try:
        with Image.open(file, formats=_FORMATS) as image:
            if image.width * image.height > MAX_PIXELS:
                raise FormatError(f"{where} has {image.width}×{image.height} pixels; the limit is {MAX_PIXELS:,}")
            if image.mode[0] in "IF":
                raise FormatError(f"{where} has more than 8 bits per channel (mode {image.mode}); convert it to 8 bits")
            pixels = image.convert(mode)
            if image_size is not None and pixels.size != (image_size, image_size):
                width, height = (int(image_size * side / min(pixels.size)) for side in pixels.size)
                left, top = round((width - image_size) / 2), round((height - image_size) / 2)
                scaled = pixels.resize((width, height), Image.Resampling.BILINEAR)
                pixels = scaled.crop((left, top, left + image_size, top + image_size))
            array = np.asarray(pixels, dtype=np.uint8)
    except (FormatError, MemoryError):
        raise
    except Exception as error:  # a decoder can raise any error on damaged bytes
        raise FormatError(f"{where} cannot be decoded as an image: {error}") from error
    return array[None].copy() if mode == "L" else array.transpose(2, 0, 1).copy()
