"""Many images as one, and PNG files written without a library."""

from __future__ import annotations

import base64
import html
import struct
import zlib

import torch
from torch import Tensor

from pydistill.errors import InputError

GREY, RGB = 0, 2
MOST_COLUMNS = 20


def tile(images: Tensor, classes: int) -> Tensor:
    """One picture [C, H', W'] of images [n, C, H, W] in [0, 1]: a column per class, a row per image of a class.

    More than 20 classes wrap into bands of 20 columns. Each image has a border of one white pixel.
    """
    per_class = images.shape[0] // classes
    padded = torch.nn.functional.pad(images, (1, 1, 1, 1), value=1.0)
    bands = []
    for first in range(0, classes, MOST_COLUMNS):
        last = min(first + MOST_COLUMNS, classes)
        rows = [
            torch.cat([padded[label * per_class + row] for label in range(first, last)], dim=2)
            for row in range(per_class)
        ]
        band = torch.cat(rows, dim=1)
        missing = (min(classes, MOST_COLUMNS) - (last - first)) * padded.shape[3]
        bands.append(torch.nn.functional.pad(band, (0, missing), value=1.0))
    return torch.cat(bands, dim=1)


def png_bytes(image: Tensor) -> bytes:
    """An image as the content of a PNG file, 8 bits per channel.

    Args:
        image: [C, H, W] with C of 1 (grey) or 3 (red, green, blue); floating point in [0, 1], clamped and rounded to
            the nearest of 256 levels, or uint8.

    Raises:
        InputError: it is no such image.

    Source: Portable Network Graphics (PNG) Specification, third edition, W3C 2025; filter 0, one IDAT chunk.
    """
    if image.ndim != 3 or image.shape[0] not in (1, 3) or 0 in image.shape:
        raise InputError(f"a PNG file holds an image [1, H, W] or [3, H, W], not {list(image.shape)}")
    levels = image if image.dtype == torch.uint8 else (image.detach().float().clamp(0, 1) * 255).round().byte()
    channels, height, width = levels.shape
    rows = levels.permute(1, 2, 0).reshape(height, width * channels).cpu()
    unfiltered = torch.cat([torch.zeros(height, 1, dtype=torch.uint8), rows], dim=1)  # each row begins with its filter
    header = struct.pack(">IIBBBBB", width, height, 8, GREY if channels == 1 else RGB, 0, 0, 0)
    parts = ((b"IHDR", header), (b"IDAT", zlib.compress(unfiltered.numpy().tobytes(), 9)), (b"IEND", b""))
    return b"\x89PNG\r\n\x1a\n" + b"".join(_chunk(kind, data) for kind, data in parts)


def html_picture(picture: Tensor | bytes, caption: str) -> str:
    """HTML of a picture [C, H, W] (see `tile`), or of the content of a PNG file, above a line of text."""
    if not isinstance(picture, bytes):
        grey = picture.shape[0] not in (1, 3)
        picture = png_bytes(picture.mean(dim=0, keepdim=True) if grey else picture)
    source = base64.b64encode(picture).decode()
    style = "width: 640px; max-width: 100%; image-rendering: pixelated"
    return (
        f'<div><img src="data:image/png;base64,{source}" style="{style}"><br><code>{html.escape(caption)}</code></div>'
    )


def _chunk(kind: bytes, data: bytes) -> bytes:
    return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))
