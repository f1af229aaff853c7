"""The distilled set on disk: one safetensors file that holds all that is needed to use it again."""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from pydistill.data import Preprocessing
from pydistill.errors import FormatError, InputError
from pydistill.tensorfile import read_tensors, write_tensors

FORMAT = 1
KEY = "pydistill.artefact"
FILE_NAME = "distilled.safetensors"
BEST_NAME = "best.safetensors"


@dataclass(frozen=True)
class Artefact:
    """A distilled set with its learning rate and its preprocessing: without them nobody can train on it or look at it.

    Attributes:
        images: [n, C, H, W] float32, preprocessed (as the networks see them), class-major.
        labels: class numbers [n] int64, or probabilities [n, K].
        classes: the class each image stands for, [n] int64.
        lr: α, the learned learning rate.
        preprocessing: the normalisation or the ZCA whitening with its inverse.
        provenance: configuration, seed, versions, dataset and accuracies, as JSON-able values.
        initial_images: the images before the first iteration, [n, C, H, W].
    """

    images: Tensor
    labels: Tensor
    classes: Tensor
    lr: float
    preprocessing: Preprocessing
    provenance: dict[str, Any]
    initial_images: Tensor

    def viewable(self, images: Tensor | None = None) -> Tensor:
        """The images (or others in the same space) as pixels in [0, 1], [n, C, H, W]."""
        return self.preprocessing.invert(self.images if images is None else images).clamp(0, 1)

    def save(self, path: str | os.PathLike[str]) -> None:
        """Write the artefact to `path` (a .safetensors file), atomically."""
        about, tensors = self.preprocessing.state()
        header = {"format": FORMAT, "lr": self.lr, "preprocessing": about, "provenance": self.provenance}
        stored = {f"preprocessing.{name}": value for name, value in tensors.items()}
        stored |= {"images": self.images, "labels": self.labels, "classes": self.classes}
        stored["initial_images"] = self.initial_images
        write_tensors(path, KEY, header, stored)

    @classmethod
    def load(cls, path: str | os.PathLike[str]) -> Artefact:
        """Read an artefact from a file, or from the run folder that holds it.

        Raises:
            InputError: there is no artefact at `path`.
            FormatError: the file is damaged, not an artefact, or of a later format.
        """
        file = Path(path)
        if file.is_dir():
            file = file / FILE_NAME
        if not file.is_file():
            raise InputError(f"{path} holds no distilled set ({file} does not exist)")
        header, tensors = read_tensors(file, KEY, FORMAT, "a distilled set")
        try:
            prefix = "preprocessing."
            about = {name.removeprefix(prefix): value for name, value in tensors.items() if name.startswith(prefix)}
            artefact = cls(
                images=tensors["images"],
                labels=tensors["labels"],
                classes=tensors["classes"],
                lr=float(header["lr"]),
                preprocessing=Preprocessing.from_state(header["preprocessing"], about),
                provenance=dict(header["provenance"]),
                initial_images=tensors["initial_images"],
            )
        except (KeyError, TypeError, ValueError) as error:
            raise FormatError(f"{file} is damaged or not a distilled set of pydistill's ({error})") from error
        _check(artefact, file)
        return artefact


def _check(artefact: Artefact, file: Path) -> None:
    count = artefact.images.shape[0] if artefact.images.ndim == 4 else -1
    agrees = artefact.labels.ndim in (1, 2) and artefact.labels.shape[0] == count == artefact.classes.shape[0]
    if not agrees or artefact.initial_images.shape != artefact.images.shape:
        raise FormatError(f"{file} is damaged: its images, labels and classes do not agree in number")
    if not torch.isfinite(artefact.images).all() or not artefact.lr > 0:
        raise FormatError(f"{file} is damaged: its images or its learning rate are not usable numbers")
