"""Read and write the files that DD-Ranking's demos load (Li et al., 2025).

images.pt    float32 [n, C, H, W], class-major (its hard-label score takes the classes from the order)
labels.pt    logits [n, K]; or int64 [n]
lr.pt        the learning rate, a number or a tensor of one
"""

from __future__ import annotations

from pathlib import Path

import torch
from torch import Tensor

from pydistill.artefact.exchange.tensors import ForeignSet, logits, read_set
from pydistill.artefact.file import Artefact
from pydistill.trajectories.formats.common import save_torch

IMAGES, LABELS, RATE = "images.pt", "labels.pt", "lr.pt"


def write(artefact: Artefact, images: Tensor, folder: Path) -> list[Path]:
    """Write the three files; returns their paths."""
    labels = artefact.labels if artefact.labels.ndim == 1 else logits(artefact.labels)
    for name, value in ((IMAGES, images), (LABELS, labels), (RATE, torch.tensor(artefact.lr, dtype=torch.float64))):
        save_torch(value, folder / name)
    return [folder / name for name in (IMAGES, LABELS, RATE)]


def read(path: Path) -> ForeignSet:
    """Read the files of a folder.

    Raises:
        FormatError: a file is missing, damaged or of another format.
    """
    return read_set([path / IMAGES], [path / LABELS], [path / RATE])
