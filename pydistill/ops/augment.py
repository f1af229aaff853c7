"""`augment`: differentiable Siamese augmentation of a batch, with parameters drawn in advance."""

from __future__ import annotations

import torch
from torch import Tensor

from pydistill import reference
from pydistill.ops.extension import load_extension
from pydistill.ops.modes import needs_plain_torch
from pydistill.reference.augment import batch_of, check_augment, check_batch, check_numbers

_COMPILED_FOR = load_extension().device_types
_DTYPES = (torch.float32, torch.float64)


def augment(images: Tensor, operations: Tensor, parameters: Tensor, index: Tensor | None = None) -> Tensor:
    """Select images by index and apply a list of augmentations to them, one operation after the other.

    Formula: X_j = A_j(images[index_j]),  A_j = the operations with row j of the parameters; affine in the images, and 0
    outside them. `pydistill.data.DsaSettings.draw` documents the parameters.

    The result is the same, bit for bit, on every run and for any number of threads.

    Args:
        images: [n, C, H, W], float32 or float64 (another floating dtype takes the plain PyTorch version).
        operations: [L] int64, in the order applied: 0 colour, 1 crop, 2 cutout, 3 flip, 4 scale, 5 rotate
            (the order of `pydistill.data.dsa.COLUMNS`); −1 ends the list.
        parameters: [B, width], or [1, width] if all images share one set; dtype of `images`; the operations' columns
            side by side, with any number of columns after them.
        index: [B] int64, values in [0, n), any number of times; None for all images in order.
        All on one device.

    Returns:
        A new tensor [B, C, H, W], channels-last if `images` is.

    Raises:
        InputError: an argument is not as above; on the CPU also an operation or an image that does not exist. On a GPU,
            where a check would synchronise, these make their images NaN.

    Derivatives: any order in the images. If `parameters` requires a gradient, in forward mode and under torch.func's
    transforms, the plain PyTorch version runs.

    Equivalent to, for flip alone:
        flips = parameters[:, 0, None, None, None] > 0
        torch.where(flips, images[index].flip(3), images[index])

    Source: DSA (Zhao & Bilen, ICML 2021).
    """
    check_augment(images, operations, parameters, index, batch_of(images, index))
    check_numbers(operations, parameters, index, images.shape[0])
    if _is_compiled(images, parameters, index):
        batch: Tensor = torch.ops.pydistill.augment(images, operations, parameters, index, False)
        return batch
    return reference.augment(images, operations, parameters, index)


def augment_backward(
    grad_out: Tensor, operations: Tensor, parameters: Tensor, index: Tensor | None, images: int
) -> Tensor:
    """Compute the gradient of `augment` in the images.

    Formula: ∂/∂images_i = Σ_{j: index_j = i} A_jᵀ grad_out_j, in the order of the batch, without brightness.

    Args:
        grad_out: [B, C, H, W], dtype and device of the images.
        operations, parameters, index: as in `augment`.
        images: n.

    Returns:
        A new tensor [n, C, H, W], 0 for images that are not in the batch.

    Raises:
        InputError: an argument is not as in `augment`, or B is not the batch's.

    Derivatives: any order in `grad_out`.
    """
    check_augment(grad_out, operations, parameters, index, grad_out.shape[0])
    check_batch(grad_out, index, images)
    check_numbers(operations, parameters, index, images)
    if _is_compiled(grad_out, parameters, index):
        gradient: Tensor = torch.ops.pydistill.augment_backward(grad_out, operations, parameters, index, images)
        return gradient
    return reference.augment_backward(grad_out, operations, parameters, index, images)


def _is_compiled(images: Tensor, parameters: Tensor, index: Tensor | None) -> bool:
    if images.device.type not in _COMPILED_FOR or images.dtype not in _DTYPES:
        return False
    if parameters.requires_grad and torch.is_grad_enabled():
        return False
    return not needs_plain_torch(images, parameters, *(() if index is None else (index,)))


def _empty(count: int | torch.SymInt, like: Tensor) -> Tensor:
    channels_last = like.is_contiguous(memory_format=torch.channels_last) and not like.is_contiguous()
    order = torch.channels_last if channels_last else torch.contiguous_format
    return torch.empty((count, *like.shape[1:]), dtype=like.dtype, device=like.device, memory_format=order)


def _fake(images: Tensor, operations: Tensor, parameters: Tensor, index: Tensor | None, linear: bool) -> Tensor:
    batch = batch_of(images, index)
    check_augment(images, operations, parameters, index, batch)
    return _empty(batch, images)


def _fake_backward(
    grad_out: Tensor, operations: Tensor, parameters: Tensor, index: Tensor | None, images: int
) -> Tensor:
    check_augment(grad_out, operations, parameters, index, grad_out.shape[0])
    check_batch(grad_out, index, images)
    return _empty(images, grad_out)


if _COMPILED_FOR:
    torch.library.register_fake("pydistill::augment", _fake)
    torch.library.register_fake("pydistill::augment_backward", _fake_backward)
