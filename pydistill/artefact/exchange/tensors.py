"""Read, check and write the torch-saved tensors of other tools; shared by the formats."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import torch
from torch import Tensor

from pydistill._util.files import sha256_of
from pydistill.artefact.file import Artefact
from pydistill.errors import FormatError, InputError
from pydistill.trajectories.formats.common import is_plain_tensor, load_untrusted, save_torch

Soft = Literal["logits", "probabilities"]


@dataclass(frozen=True)
class ForeignSet:
    """The content of the files of another tool.

    Attributes:
        images: [n, C, H, W] float32.
        labels: [n] int64, or rows [n, K] that may be logits or probabilities.
        lr: the learning rate; None if no file holds it.
        files: SHA-256 by file name.
    """

    images: Tensor
    labels: Tensor
    lr: float | None
    files: Mapping[str, str]


def write_set(artefact: Artefact, images: Tensor, files: list[Path]) -> list[Path]:
    """Write the images, the labels (probabilities as logits) and the learning rate to these files; returns them."""
    rows = artefact.labels
    # log p, whose softmax restores the probabilities p up to rounding
    labels = rows if rows.ndim == 1 else rows.clamp_min(torch.finfo(rows.dtype).tiny).log()
    for file, value in zip(files, (images, labels, torch.tensor(artefact.lr, dtype=torch.float64)), strict=True):
        save_torch(value, file)
    return files


def read_set(images: list[Path], labels: list[Path], lr: list[Path]) -> ForeignSet:
    """Read images and labels from one or several files in order, and the learning rate if one of `lr` exists."""
    pixels = torch.cat(_alike([_images(path) for path in images], images))
    targets = torch.cat(_alike([_labels(path) for path in labels], labels))
    if len(pixels) != len(targets):
        raise FormatError(
            f"{labels[0]} is damaged or belongs to another set: it holds {len(targets)} labels for {len(pixels)} images"
        )
    rates = [path for path in lr if path.is_file()][:1]
    files = {path.name: sha256_of(path) for path in [*images, *labels, *rates]}
    return ForeignSet(pixels, targets, _rate(rates[0]) if rates else None, files)


def _alike(parts: list[Tensor], paths: list[Path]) -> list[Tensor]:
    for part, path in zip(parts, paths, strict=True):
        if part.shape[1:] != parts[0].shape[1:] or part.dtype != parts[0].dtype:
            raise FormatError(f"{path} is damaged or belongs to another set: its shape is not that of {paths[0]}")
    return parts


def _tensor(path: Path) -> Tensor:
    value = load_untrusted(path)
    if not is_plain_tensor(value) or value.is_complex():
        raise FormatError(f"{path} does not hold a tensor of plain numbers")
    tensor: Tensor = value.detach()
    return tensor


def _images(path: Path) -> Tensor:
    images = _tensor(path)
    if images.ndim != 4 or 0 in images.shape or not images.is_floating_point():
        raise FormatError(f"{path} must hold images [n, C, H, W] in floating point, not {_form(images)}")
    images = images.float().contiguous().clone()
    if not bool(torch.isfinite(images).all()):
        raise FormatError(f"{path} holds pixels that are not finite")
    return images


def _labels(path: Path) -> Tensor:
    labels = _tensor(path)
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
    if isinstance(rate, Tensor) and rate.numel() == 1 and rate.is_floating_point():
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
