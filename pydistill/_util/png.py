"""Arrange images in sheets and encode them as PNG files."""

from __future__ import annotations

import base64
import html
import io

import torch
from torch import Tensor

from pydistill.errors import InputError, MissingDependencyError

MOST_COLUMNS = 20
SHEET_PIXELS = 2**20


def tile(images: Tensor, classes: int) -> Tensor:
    """Arrange images [n, C, H, W] in [0, 1] in one sheet [C, H', W'] with a column per class.

    More than 20 classes wrap into bands of 20 columns. Every image has a border of one white pixel.
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
    """Encode an image as a PNG file with 8 bits per channel.

    Args:
        image: [C, H, W] with C of 1 (grey) or 3 (red, green, blue); floating point in [0, 1], clamped and rounded to
            the nearest of 256 levels, or uint8.

    Raises:
        InputError: the image has another shape.
        MissingDependencyError: Pillow is not installed.
    """
    if image.ndim != 3 or image.shape[0] not in (1, 3) or 0 in image.shape:
        raise InputError(f"a PNG file holds an image [1, H, W] or [3, H, W], not {list(image.shape)}")
    try:
        from PIL import Image
    except ImportError as error:
        raise MissingDependencyError("writing PNG files needs Pillow: pip install pillow") from error
    levels = image if image.dtype == torch.uint8 else (image.detach().float().clamp(0, 1) * 255).round().byte()
    pixels = levels.permute(1, 2, 0).cpu().numpy()
    content = io.BytesIO()
    Image.fromarray(pixels[:, :, 0] if len(levels) == 1 else pixels).save(content, "PNG")
    return content.getvalue()


def html_sheet(images: Tensor, classes: int, caption: str) -> str:
    """Format images above a line of text as HTML; the text alone for images of one pixel (a table) or without Pillow.

    Args:
        images: [n, C, H, W] in [0, 1], sorted by class, the same number per class; shows the first ones of every
            class, up to a million pixels in total.
        classes: their number.
        caption: the text.
    """
    text = f"<code>{html.escape(caption)}</code>"
    pixels, per_class = images[0, 0].numel(), len(images) // classes
    shown = min(classes, max(1, SHEET_PIXELS // pixels))
    rows = min(per_class, max(1, SHEET_PIXELS // (pixels * shown)))
    index = torch.arange(shown)[:, None] * per_class + torch.arange(rows)
    sheet = tile(images[index.flatten().to(images.device)], shown)
    if len(sheet) not in (1, 3):
        sheet = sheet.mean(dim=0, keepdim=True)
    try:
        content = None if pixels == 1 else png_bytes(sheet)
    except MissingDependencyError:
        content = None
    if content is None:
        return f"<div>{text}</div>"
    source = base64.b64encode(content).decode()
    style = "width: 640px; max-width: 100%; image-rendering: pixelated"
    return f'<div><img src="data:image/png;base64,{source}" style="{style}"><br>{text}</div>'
