"""From the bytes of an image file to pixels."""

from __future__ import annotations

import io
from types import ModuleType
from typing import TYPE_CHECKING, Literal

import numpy as np
import numpy.typing as npt

from pydistill.errors import FormatError, MissingDependencyError

if TYPE_CHECKING:
    from PIL import Image

Pixels = npt.NDArray[np.uint8]

EXTENSIONS = (".jpg", ".jpeg", ".png", ".ppm", ".bmp", ".pgm", ".tif", ".tiff", ".webp")
FORMATS = ("JPEG", "PNG", "PPM", "BMP", "TIFF", "WEBP")
MAX_PIXELS = 64_000_000
"""Images of more pixels are refused before they are unpacked: a small file can hold a huge image."""


def pillow() -> ModuleType:
    """The module PIL.Image.

    Raises:
        MissingDependencyError: Pillow is not installed.
    """
    try:
        from PIL import Image
    except ImportError as error:
        raise MissingDependencyError("reading image files needs Pillow: pip install pillow") from error
    return Image


def decode(data: bytes, where: str, image_size: int | None, mode: Literal["RGB", "L"]) -> Pixels:
    """Pixels of one image file, uint8 [C, H, W].

    Args:
        data: the file's content.
        where: what to call it in a message.
        image_size: the shorter side is scaled to it (bilinear with antialiasing), then the centre square is
            cut out, as torchvision's Resize and CenterCrop do; None keeps the size.
        mode: "RGB" for 3 channels, "L" for 1; other images are converted.

    Raises:
        FormatError: the bytes are no image, or a damaged one, or one of more than 8 bits per channel; the
            message says which file.
    """
    image_module = pillow()
    try:
        with image_module.open(io.BytesIO(data), formats=FORMATS) as image:
            if image.width * image.height > MAX_PIXELS:
                raise FormatError(f"{where} has {image.width}×{image.height} pixels; the limit is {MAX_PIXELS:,}")
            if image.mode[0] in "IF":
                raise FormatError(f"{where} has more than 8 bits per channel (mode {image.mode}); convert it to 8 bits")
            pixels = image.convert(mode)
            if image_size is not None and pixels.size != (image_size, image_size):
                pixels = _resize_and_crop(pixels, image_size)
            array = np.asarray(pixels, dtype=np.uint8)
    except (FormatError, MemoryError):
        raise
    except Exception as error:  # a decoder fed with damaged bytes raises whatever it stumbles over
        raise FormatError(f"{where} is no image that can be decoded: {error}") from error
    return array[None].copy() if mode == "L" else array.transpose(2, 0, 1).copy()


def _resize_and_crop(image: Image.Image, size: int) -> Image.Image:
    width, height = (int(size * side / min(image.size)) for side in image.size)
    left, top = round((width - size) / 2), round((height - size) / 2)
    scaled = image.resize((width, height), pillow().Resampling.BILINEAR)
    return scaled.crop((left, top, left + size, top + size))
