"""A slow implementation of the augmentations, pixel by pixel, from their definitions."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from pydistill.data import DsaDraw


def slow(images: Tensor, draw: DsaDraw) -> Tensor:
    """Compute augment(images, draw)."""
    result = []
    for number, image in enumerate(images):
        for operation in draw.operations:
            rows = draw.parameter(operation)
            image = STEPS[operation](image, rows[number if len(rows) > 1 else 0].tolist())
        result.append(image)
    return torch.stack(result)


def color(image: Tensor, p: list[float]) -> Tensor:
    brightness, saturation, contrast = p
    image = image + brightness
    grey = sum(image) / len(image)
    image = torch.stack([grey + (channel - grey) * saturation for channel in image])
    mean = image.sum() / image.numel()
    return mean + (image - mean) * contrast


def crop(image: Tensor, p: list[float]) -> Tensor:
    return from_pixels(image, lambda c, i, j: pixel(image, c, i + int(p[0]), j + int(p[1])))


def cutout(image: Tensor, p: list[float]) -> Tensor:
    top, bottom, left, right = p
    return from_pixels(image, lambda c, i, j: 0.0 if top <= i < bottom and left <= j < right else pixel(image, c, i, j))


def flip(image: Tensor, p: list[float]) -> Tensor:
    width = image.shape[2]
    return from_pixels(image, lambda c, i, j: pixel(image, c, i, width - 1 - j)) if p[0] else image


def scale(image: Tensor, p: list[float]) -> Tensor:
    return resample(image, (p[0], 0.0, 0.0, p[1]))


def rotate(image: Tensor, p: list[float]) -> Tensor:
    return resample(image, (math.cos(p[0]), -math.sin(p[0]), math.sin(p[0]), math.cos(p[0])))


def resample(image: Tensor, matrix: tuple[float, float, float, float]) -> Tensor:
    """Map the centre of every pixel, in coordinates from −1 to 1, and sample the image there bilinearly."""
    _, height, width = image.shape

    def value(c: int, i: int, j: int) -> float:
        # Aligned corners: −1 and 1 are the centres of the outermost pixels; a single pixel is at 0.
        x = 2 * j / (width - 1) - 1 if width > 1 else 0.0
        y = 2 * i / (height - 1) - 1 if height > 1 else 0.0
        column = (matrix[0] * x + matrix[1] * y + 1) * (width - 1) / 2
        row = (matrix[2] * x + matrix[3] * y + 1) * (height - 1) / 2
        top, left = math.floor(row), math.floor(column)
        return sum(
            (1 - abs(row - k)) * (1 - abs(column - m)) * pixel(image, c, k, m)
            for k in (top, top + 1)
            for m in (left, left + 1)
        )

    return from_pixels(image, value)


def pixel(image: Tensor, c: int, i: int, j: int) -> float:
    """Return a pixel, or 0 outside the image."""
    inside = 0 <= i < image.shape[1] and 0 <= j < image.shape[2]
    return float(image[c, i, j]) if inside else 0.0


def from_pixels(image, value):  # type: ignore[no-untyped-def]
    """Make an image of the same shape from a function of channel, row and column."""
    channels, height, width = image.shape
    values = [[[value(c, i, j) for j in range(width)] for i in range(height)] for c in range(channels)]
    return torch.tensor(values, dtype=image.dtype)


STEPS = {"color": color, "crop": crop, "cutout": cutout, "flip": flip, "scale": scale, "rotate": rotate}
