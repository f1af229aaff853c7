"""`augment` and its backward in plain PyTorch, and the checks that they share with the compiled ones."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

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
"""The operations and their numbers of parameters; a list of operations holds their positions here."""

END_OF_LIST = -1
_NAMES = tuple(COLUMNS)
_vjp: Any = torch.func.vjp


def check_augment(images: Tensor, operations: Tensor, parameters: Tensor, index: Tensor | None, batch: int) -> None:
    """Check the arguments of `augment` and `augment_backward`, except the values of the integers.

    Args:
        images: as in `augment`, or the gradients [B, C, H, W] in their place.
        operations, parameters, index: as in `augment`.
        batch: B.

    Raises:
        InputError: `images` is not floating [n, C, H, W], or another argument does not match it.
    """
    tensors = {"images": images, "operations": operations, "parameters": parameters}
    if index is not None:
        tensors["index"] = index
    for name, value in tensors.items():
        if not isinstance(value, Tensor):
            raise InputError(f"augment: {name} must be a tensor, not {type(value).__name__}")
    if not images.dtype.is_floating_point:
        raise InputError(f"augment: images is {images.dtype}; it must be of a floating dtype")
    if images.dim() != 4:
        raise InputError(f"augment: images has shape {list(images.shape)}; it must be [n, C, H, W]")
    for name, shape in (("operations", "[L]"), ("index", "[B]")):
        numbers = tensors.get(name)
        if numbers is not None and (numbers.dtype != torch.int64 or numbers.dim() != 1):
            raise InputError(f"augment: {name} is {numbers.dtype} {list(numbers.shape)}; it must be int64 {shape}")
    if parameters.dtype != images.dtype:
        raise InputError(f"augment: parameters is {parameters.dtype} where images is {images.dtype}")
    if parameters.dim() != 2 or parameters.shape[0] not in (1, batch):
        raise InputError(
            f"augment: parameters has shape {list(parameters.shape)} for a batch of {batch} images; "
            "it must be [B, width], or [1, width] to share one set"
        )
    for name, value in tensors.items():
        if value.device != images.device:
            raise InputError(f"augment: {name} is on {value.device} where images is on {images.device}")


def check_numbers(operations: Tensor, parameters: Tensor, index: Tensor | None, images: int) -> None:
    """Check the values of operations and index, on the CPU and outside torch.func's transforms.

    Raises:
        InputError: an operation or an image does not exist, or the operations need more columns than `parameters` has.
    """
    if operations.device.type != "cpu" or torch.compiler.is_compiling():
        return
    if torch._C._are_functorch_transforms_active():
        return
    width = 0
    for place, number in enumerate(_before_the_end(operations)):
        if not 0 <= number < len(_NAMES):
            raise InputError(
                f"augment: operations[{place}] is {number}; an operation is a number from 0 to 5, and -1 ends the list"
            )
        width += COLUMNS[_NAMES[number]]
    if width > parameters.shape[1]:
        raise InputError(
            f"augment: parameters has shape {list(parameters.shape)} where the operations need {width} columns"
        )
    if index is None:
        return
    for place, source in enumerate(index.tolist()):
        if not 0 <= source < images:
            raise InputError(f"augment: index[{place}] is {source} where there are {images} images")


def augment(images: Tensor, operations: Tensor, parameters: Tensor, index: Tensor | None = None) -> Tensor:
    """`pydistill.ops.augment` in plain PyTorch: same arguments, results and errors.

    It has derivatives in `parameters` too. The second derivative of scale and rotate raises where the installed PyTorch
    lacks that of grid_sample.
    """
    check_augment(images, operations, parameters, index, batch_of(images, index))
    check_numbers(operations, parameters, index, len(images))
    batch = images if index is None else images.index_select(0, index)
    first = 0
    for number in _before_the_end(operations):
        width = COLUMNS[_NAMES[number]]
        batch = _OPERATIONS[_NAMES[number]](batch, parameters[:, first : first + width]) if batch.numel() else batch
        first += width
    return batch.clone() if batch is images else batch


def augment_backward(
    grad_out: Tensor, operations: Tensor, parameters: Tensor, index: Tensor | None, images: int
) -> Tensor:
    """`pydistill.ops.augment_backward` in plain PyTorch: same arguments, results, errors."""
    check_augment(grad_out, operations, parameters, index, len(grad_out))
    check_batch(grad_out, index, images)
    zeros = grad_out.new_zeros(images, *grad_out.shape[1:])
    _, transpose = _vjp(lambda x: augment(x, operations, parameters, index), zeros)
    gradient: Tensor = transpose(grad_out)[0]
    return gradient


def check_batch(grad_out: Tensor, index: Tensor | None, images: int) -> None:
    """Check that the gradients have the batch's number of images.

    Raises:
        InputError: they do not.
    """
    batch = images if index is None else index.shape[0]
    if grad_out.shape[0] != batch:
        raise InputError(f"augment: grad_out holds {grad_out.shape[0]} images where the batch has {batch}")


def batch_of(images: Tensor, index: Tensor | None) -> int:
    """Return B, or 0 if the arguments are not tensors with a first dimension (`check_augment` refuses them)."""
    rows = images if index is None else index
    return rows.shape[0] if isinstance(rows, Tensor) and rows.dim() else 0


def _before_the_end(operations: Tensor) -> list[int]:
    """Return the operations' numbers before END_OF_LIST."""
    numbers: list[int] = operations.tolist()
    return numbers[: numbers.index(END_OF_LIST)] if END_OF_LIST in numbers else numbers


def _color(images: Tensor, p: Tensor) -> Tensor:
    """Apply brightness b, then saturation s, then contrast c, in one pass.

    Saturation does not change a pixel's mean over the channels, so the mean that contrast needs is that of x, and the
    result is cs·x + c(1 − s)·grey(x) + (1 − c)·mean(x) + b.
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
    # pixels outside read the zero that is appended to every channel
    source = ((rows * width)[:, :, None] + columns[:, None, :]).masked_fill(outside, height * width)
    source = source.view(-1, 1, height * width).expand(batch, channels, -1)
    return functional.pad(images.reshape(batch, channels, -1), (0, 1)).gather(2, source).view(images.shape)


def _cutout(images: Tensor, p: Tensor) -> Tensor:
    rows = torch.arange(images.shape[2], device=images.device, dtype=images.dtype)
    columns = torch.arange(images.shape[3], device=images.device, dtype=images.dtype)
    inside_rows = (rows >= p[:, 0:1]) & (rows < p[:, 1:2])
    inside_columns = (columns >= p[:, 2:3]) & (columns < p[:, 3:4])
    inside = inside_rows[:, :, None] & inside_columns[:, None, :]
    return torch.where(~inside[:, None], images, 0)


def _flip(images: Tensor, p: Tensor) -> Tensor:
    return torch.where(p[:, :, None, None] > 0, images.flip(3), images)


def _scale(images: Tensor, p: Tensor) -> Tensor:
    return _resample(images, p * p.new_tensor([1, 0]), p * p.new_tensor([0, 1]))


def _rotate(images: Tensor, p: Tensor) -> Tensor:
    cosine, sine = p.cos(), p.sin()
    return _resample(images, torch.cat([cosine, sine], 1), torch.cat([-sine, cosine], 1))


def _resample(images: Tensor, along_x: Tensor, along_y: Tensor) -> Tensor:
    """Sample bilinearly at x·along_x + y·along_y; x and y run from −1 to 1 between the centres of the outer pixels.

    along_x, along_y: (x, y), [B or 1, 2]. affine_grid would take longer than the sampling itself.
    """
    height, width = images.shape[2:]
    x, y = (_from_minus_one(side, images)[:, None] for side in (width, height))
    grid = torch.addcmul(y[:, None] * along_y[:, None, None], x, along_x[:, None, None]).expand(len(images), -1, -1, -1)
    return functional.grid_sample(images, grid, mode="bilinear", padding_mode="zeros", align_corners=True)


def _from_minus_one(side: int, images: Tensor) -> Tensor:
    """Return [side] coordinates from −1 to 1; a single pixel is at 0."""
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
