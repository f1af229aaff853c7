"""Read, check and write the torch-saved tensors of other tools; shared by the formats."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import torch
from torch import Tensor

from pydistill._util.files import sha256_of
from pydistill.artefact.file import Artefact
from pydistill.errors import FormatError, InputError
from pydistill.trajectories.formats.common import is_plain_tensor, listed, load_untrusted, save_torch

Soft = Literal["logits", "probabilities"]


@dataclass(frozen=True)
class ForeignSet:
    """The content of the files of another tool.

    Attributes:
        images: [n, C, H, W] float32.
        labels: [n] int64, or rows [n, K] that may be logits or probabilities.
        files: SHA-256 by file name.
        rate: the file of the learning rate, if there is one.
        in_pixels: the images are pixels in [0, 1], which no preprocessing has changed.
    """

    images: Tensor
    labels: Tensor
    files: Mapping[str, str]
    rate: Path | None = None
    in_pixels: bool = False

    def lr(self) -> float | None:
        """Read the learning rate; None if no file holds it."""
        return None if self.rate is None else _rate(self.rate)


def write_set(artefact: Artefact, images: Tensor, files: list[Path]) -> list[Path]:
    """Write the images, the labels (probabilities as logits) and the learning rate to these files; returns them."""
    rows = artefact.labels
    # log p, whose softmax restores the probabilities p up to rounding
    labels = rows if rows.ndim == 1 else rows.clamp_min(torch.finfo(rows.dtype).tiny).log()
    for file, value in zip(files, (images, labels, torch.tensor(artefact.lr, dtype=torch.float64)), strict=True):
        save_torch(value, file)
    return files


def read_set(images: list[Path], labels: list[Path], lr: list[Path]) -> ForeignSet:
    """Read images and labels from one or several files in order; the learning rate is in one of `lr`, if it exists."""
    pixels = torch.cat(_alike([_images(load_untrusted(path), path) for path in images], images))
    targets = torch.cat(_alike([_labels(load_untrusted(path), path) for path in labels], labels))
    _check_agree(pixels, targets, labels[0])
    rates = [path for path in lr if path.is_file()][:1]
    files = {path.name: sha256_of(path) for path in [*images, *labels, *rates]}
    return ForeignSet(pixels, targets, files, rates[0] if rates else None)


def pair_of(value: Any, path: Path, *, in_pixels: bool = False) -> ForeignSet:
    """Return the set of a file that holds the images and the labels in a list of two."""
    pair = listed(value, str(path))
    if len(pair) != 2:
        raise FormatError(f"{path} must hold images and labels, not a list of {len(pair)}")
    images, labels = _images(pair[0], path), _labels(pair[1], path)
    _check_agree(images, labels, path)
    return ForeignSet(images, labels, {path.name: sha256_of(path)}, in_pixels=in_pixels)


def _check_agree(images: Tensor, labels: Tensor, path: Path) -> None:
    if len(images) != len(labels):
        raise FormatError(
            f"{path} is damaged or belongs to another set: it holds {len(labels)} labels for {len(images)} images"
        )


def _alike(parts: list[Tensor], paths: list[Path]) -> list[Tensor]:
    for part, path in zip(parts, paths, strict=True):
        if part.shape[1:] != parts[0].shape[1:] or part.dtype != parts[0].dtype:
            raise FormatError(f"{path} is damaged or belongs to another set: its shape is not that of {paths[0]}")
    return parts


def _tensor(value: Any, path: Path) -> Tensor:
    if not is_plain_tensor(value) or value.is_complex():
        raise FormatError(f"{path} does not hold a tensor of plain numbers")
    tensor: Tensor = value.detach()
    return tensor


def _images(value: Any, path: Path) -> Tensor:
    images = _tensor(value, path)
    if images.ndim != 4 or 0 in images.shape or not images.is_floating_point():
        raise FormatError(f"{path} must hold images [n, C, H, W] in floating point, not {_form(images)}")
    images = images.float().contiguous().clone()
    if not bool(torch.isfinite(images).all()):
        raise FormatError(f"{path} holds pixels that are not finite")
    return images


def _labels(value: Any, path: Path) -> Tensor:
    labels = _tensor(value, path)
    if labels.ndim == 2 and labels.shape[1] > 0 and labels.is_floating_point():
        labels = labels.float().clone()
        if bool(torch.isfinite(labels).all()):
            return labels
        raise FormatError(f"{path} holds labels that are not finite")
    if labels.ndim != 1 or labels.dtype == torch.bool:
        raise FormatError(f"{path} must hold class numbers [n] or rows [n, K] in floating point, not {_form(labels)}")
    numbers = labels.double()  # MTT stores int64, other tools floats
    if not bool(((numbers >= 0) & (numbers < 2**31) & (numbers == numbers.floor())).all()):
        raise FormatError(f"{path} holds class numbers that are not integers from 0")
    return numbers.long()


def _rate(path: Path) -> float:
    rate = load_untrusted(path)
    if is_plain_tensor(rate) and rate.numel() == 1 and rate.is_floating_point():
        rate = rate.item()
    if type(rate) is not float or not (math.isfinite(rate) and rate > 0):
        raise FormatError(f"{path} must hold one learning rate, a finite number above 0")
    return rate


def _form(value: Tensor) -> str:
    return f"{str(value.dtype).removeprefix('torch.')} {list(value.shape)}"


def probabilities(rows: Tensor, soft: Soft | None, where: str) -> Tensor:
    """Turn label rows [n, K] of a file into class probabilities.

    Args:
        rows: logits or probabilities.
        soft: the form of the rows; by default logits, which the tools write, unless they could be probabilities.

    Raises:
        InputError: the rows are ambiguous, or are not probabilities; `where` names the files.
    """
    could_be = bool((rows >= 0).all()) and bool(((rows.sum(dim=1) - 1).abs() < 1e-3).all())
    if soft is None and could_be:
        raise InputError(f"the labels in {where} are rows that sum to 1; set soft to logits or probabilities")
    if soft == "probabilities":
        if not could_be:
            raise InputError(f"the labels in {where} are not probabilities; set soft to logits")
        return rows
    return rows.softmax(dim=1)
