"""Read and write the files of DC-BENCH's reader for trajectory matching, "TM" (Cui et al., NeurIPS 2022).

    ROOT/TM/CIFAR10/IPC10/images_best.pt    float32 [n, C, H, W], class-major, normalised
    ROOT/TM/CIFAR10/IPC10/labels_best.pt    class numbers [n]

Tiny ImageNet's 10,000 images (IPC 50) are split into five parts, images_best_0.pt … images_best_4.pt. The reader
converts labels to integers, so soft labels are not supported, and takes the learning rate from its command line.
"""

from __future__ import annotations

import re
from pathlib import Path

from torch import Tensor

from pydistill.artefact.exchange.tensors import ForeignSet, read_set
from pydistill.artefact.file import Artefact
from pydistill.errors import InputError
from pydistill.trajectories.formats.common import save_torch

NAMES = {"cifar10": "CIFAR10", "cifar100": "CIFAR100", "tiny-imagenet": "tinyimagenet"}
PARTS = 5


def folder_of(artefact: Artefact) -> str:
    """Return the set's folder below DC-BENCH's root, TM/DATASET/IPCn; raise InputError if the format cannot hold it."""
    if artefact.labels.ndim != 1:
        raise InputError("DC-BENCH has no soft labels; export this set as mtt or ddranking")
    dataset = str(artefact.provenance["dataset"].get("name", ""))
    if not re.fullmatch(r"[0-9A-Za-z][0-9A-Za-z_-]{0,99}", dataset):
        raise InputError(
            f"the data set's name {dataset!r} cannot be the name of DC-BENCH's folder; export the set as mtt"
        )
    return f"TM/{NAMES.get(dataset, dataset)}/IPC{len(artefact.images) // len(artefact.class_names)}"


def write(artefact: Artefact, images: Tensor, folder: Path) -> list[Path]:
    """Write the files into the folder that `folder_of` names; returns their paths."""
    parts = PARTS if folder.parts[-2:] == (NAMES["tiny-imagenet"], "IPC50") else 1
    written = []
    for stem, value in (("images_best", images), ("labels_best", artefact.labels)):
        for number, part in enumerate(value.chunk(parts)):
            written.append(folder / (f"{stem}.pt" if parts == 1 else f"{stem}_{number}.pt"))
            save_torch(part.clone(), written[-1])
    return written


def folder_in(path: Path) -> Path:
    """Return the folder of the only set at or below a path such as DC-BENCH's root, or the path if there is none."""
    if _holds_images(path):
        return path
    patterns = ("IPC*", "*/IPC*", "TM/*/IPC*")
    folders = [folder for pattern in patterns for folder in sorted(path.glob(pattern)) if _holds_images(folder)]
    if len(folders) > 1:
        raise InputError(f"{path} holds several of DC-BENCH's sets; name one of {', '.join(map(str, folders))}")
    return folders[0] if folders else path


def _holds_images(path: Path) -> bool:
    return any((path / f"images_best{suffix}.pt").is_file() for suffix in ("", "_0"))


def read(path: Path) -> ForeignSet:
    """Read the files of one set's folder, in one part or five.

    Raises:
        FormatError: a file is missing, damaged or of another format.
    """
    suffixes = [""] if (path / "images_best.pt").is_file() else [f"_{number}" for number in range(PARTS)]
    if not (path / f"images_best{suffixes[0]}.pt").is_file():
        suffixes = [""]
    images, labels = ([path / f"{stem}_best{suffix}.pt" for suffix in suffixes] for stem in ("images", "labels"))
    return read_set(images, labels, [])
