"""The parts of every network: checked sizes, norms, activations and pooling by name."""

from __future__ import annotations

from collections.abc import Sequence

from torch import nn

from pydistill.errors import InputError

NORMS = ("instance", "group", "batch", "layer", "none")
ACTIVATIONS = ("relu", "leaky_relu", "sigmoid")
POOLINGS = ("average", "max", "none")
GROUPS = 4
"""Number of groups of the norm "group", as published."""

Plane = tuple[int, int]
"""(height, width) of a feature map."""


def one_of(argument: str, value: str, allowed: Sequence[str]) -> str:
    """Return `value` if it is among `allowed`.

    Raises:
        InputError: it is not; the message names the argument and the allowed values.
    """
    if value not in allowed:
        raise InputError(f"{argument} must be one of {', '.join(allowed)}, not {value!r}")
    return value


def integer(argument: str, value: object, low: int, high: int | None = None) -> int:
    """Return `value` if it is an int within [low, high].

    Raises:
        InputError: it is not; the message names the argument and its limits.
    """
    if isinstance(value, bool) or not isinstance(value, int) or value < low or (high is not None and value > high):
        limits = f"of at least {low}" if high is None else f"from {low} to {high}"
        raise InputError(f"{argument} must be an integer {limits}, not {value!r}")
    return value


def plane_of(image_size: int | Sequence[int]) -> Plane:
    """Return (height, width) of an image size that is one int (square) or a pair.

    Raises:
        InputError: it is neither, or a side is below 1.
    """
    if isinstance(image_size, int):
        side = integer("image_size", image_size, 1)
        return side, side
    if len(image_size) != 2:
        raise InputError(f"image_size must be an integer or (height, width), not {tuple(image_size)}")
    height, width = image_size
    return integer("image_size's height", height, 1), integer("image_size's width", width, 1)


def plane_at_least(image_size: int | Sequence[int], smallest: int, network: str) -> Plane:
    """Return `plane_of(image_size)`; InputError if a side is below `smallest`, which `network` needs."""
    height, width = plane = plane_of(image_size)
    if min(plane) < smallest:
        raise InputError(
            f"images of {height}x{width} are too small for {network}: both sides must be at least {smallest}"
        )
    return plane


def make_norm(kind: str, channels: int, plane: Plane) -> nn.Module | None:
    """Make the norm layer named `kind` for feature maps [B, channels, *plane]; None for "none".

    "instance" is GroupNorm with one channel per group, as published: the arithmetic of InstanceNorm2d, without buffers.
    On a plane of one pixel it would return its bias for every image, so it is refused there.

    Raises:
        InputError: "instance" on a plane of one pixel; "group" with a number of channels that 4 does not divide.
    """
    one_of("norm", kind, NORMS)
    if kind == "instance":
        if plane == (1, 1):
            raise InputError(
                "norm instance needs feature maps of at least two pixels, and these have one: "
                "use larger images, less depth, or another norm"
            )
        return nn.GroupNorm(channels, channels)
    if kind == "group":
        if channels % GROUPS:
            raise InputError(f"norm group needs a width that is a multiple of {GROUPS}, not {channels}")
        return nn.GroupNorm(GROUPS, channels)
    if kind == "batch":
        return nn.BatchNorm2d(channels)
    if kind == "layer":
        return nn.LayerNorm([channels, *plane])
    return None


def make_activation(kind: str) -> nn.Module:
    """Make the activation named `kind`; never in place, so that it can be differentiated any number of times."""
    one_of("activation", kind, ACTIVATIONS)
    if kind == "relu":
        return nn.ReLU()
    if kind == "leaky_relu":
        return nn.LeakyReLU(0.01)
    return nn.Sigmoid()


def make_pooling(kind: str) -> nn.Module | None:
    """Make the 2x2 pooling of stride 2 named `kind`; None for "none"."""
    one_of("pooling", kind, POOLINGS)
    if kind == "average":
        return nn.AvgPool2d(2)
    if kind == "max":
        return nn.MaxPool2d(2)
    return None


def padded(plane: Plane, kernel: int, padding: int) -> Plane:
    """Return the plane after a convolution of stride 1 with this kernel side and padding."""
    height, width = plane
    return height + 2 * padding - kernel + 1, width + 2 * padding - kernel + 1


def halved(plane: Plane) -> Plane:
    """Return the plane after a 2x2 pooling of stride 2; an odd last row or column is dropped."""
    return plane[0] // 2, plane[1] // 2
