"""Read and write the files that DD-Ranking's demos load (Li et al., 2025).

images.pt    float32 [n, C, H, W], class-major (its hard-label score takes the classes from the order)
labels.pt    logits [n, K]; or int64 [n]
lr.pt        the learning rate, a number or a tensor of one
"""

from __future__ import annotations

from pathlib import Path

from torch import Tensor

from pydistill.artefact.exchange.tensors import ForeignSet, read_set, write_set
from pydistill.artefact.file import Artefact

_NAMES = ("images.pt", "labels.pt", "lr.pt")


def write(artefact: Artefact, images: Tensor, folder: Path) -> list[Path]:
    """Write the three files; returns their paths."""
    return write_set(artefact, images, [folder / name for name in _NAMES])


def read(path: Path) -> ForeignSet:
    """Read the files of a folder.

    Raises:
        FormatError: a file is missing, damaged or of another format.
    """
    return read_set(*([path / name] for name in _NAMES))
