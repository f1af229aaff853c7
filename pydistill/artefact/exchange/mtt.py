"""Read and write the files of `distill.py` of MTT, TESLA, FTD, DATM, ATT and MCT.

images_best.pt    float32 [n, C, H, W], class-major, normalised or whitened as the student saw them
labels_best.pt    int64 [n]; or logits [n, K] where labels are soft (TESLA, DATM)
lr_best.pt        the learning rate, a number; DATM writes it, MTT does not
"""

from __future__ import annotations

from pathlib import Path

from torch import Tensor

from pydistill.artefact.exchange.tensors import ForeignSet, read_set, write_set
from pydistill.artefact.file import Artefact

IMAGES = "images_best.pt"


def write(artefact: Artefact, images: Tensor, folder: Path) -> list[Path]:
    """Write the three files; returns their paths."""
    return write_set(artefact, images, [folder / name for name in (IMAGES, "labels_best.pt", "lr_best.pt")])


def read(path: Path) -> ForeignSet:
    """Read the files of a folder, or an images file with the labels and the learning rate in its folder.

    "images_500.pt" belongs to "labels_500.pt" and, if it exists, "lr_500.pt".

    Raises:
        FormatError: a file is missing, damaged or of another format.
    """
    images = path / IMAGES if path.is_dir() else path
    labels, rate = (images.with_name(images.name.replace("images", name, 1)) for name in ("labels", "lr"))
    return read_set([images], [labels], [rate])
