"""Write an image folder, with a folder per class and a PNG file per image, as torchvision's ImageFolder reads it.

    OUT/cat/0000.png …      8-bit pixels, rounded and clamped to [0, 1]
    OUT/distilled.json      learning rate, class names, soft labels by file

For viewing and sharing only. The rounding error is small compared with the images' contrast, but whitened images leave
[0, 1] by far, and clamping then changes what networks learn from them.
"""

from __future__ import annotations

import json
import re
from collections.abc import Sequence
from pathlib import Path

from torch import Tensor

from pydistill._util.files import atomic_path, write_text
from pydistill._util.png import png_bytes
from pydistill.artefact.file import Artefact
from pydistill.errors import InputError

_ABOUT = "distilled.json"


def write(artefact: Artefact, images: Tensor, folder: Path) -> list[Path]:
    """Write the images and the JSON file; returns their paths.

    Args:
        images: pixels in [0, 1].

    Raises:
        InputError: the images have neither one nor three channels.
    """
    if images.shape[1] not in (1, 3):
        raise InputError(
            f"images of {images.shape[1]} channels cannot be PNG files; export the set as mtt or ddranking"
        )
    folders = class_folders(artefact.class_names)
    written: list[Path] = []
    soft: dict[str, list[float]] = {}
    per_class = len(images) // len(folders)
    width = max(4, len(str(per_class - 1)))
    for index, (image, label) in enumerate(zip(images, artefact.classes.tolist(), strict=True)):
        name = f"{folders[label]}/{index % per_class:0{width}d}.png"
        written.append(folder / name)
        with atomic_path(written[-1]) as temporary:
            temporary.write_bytes(png_bytes(image))
        if artefact.labels.ndim == 2:
            soft[name] = artefact.labels[index].tolist()
    about = {
        "lr": artefact.lr,
        "classes": dict(zip(folders, artefact.class_names, strict=True)),
        "dataset": artefact.provenance["dataset"].get("name", ""),
        "soft_labels": soft or None,
    }
    write_text(folder / _ABOUT, json.dumps(about, indent=2) + "\n")
    return [*written, folder / _ABOUT]


def class_folders(names: Sequence[str]) -> list[str]:
    """Return a folder name per class, in sorted order: the class names, or number and name if those are not sorted."""
    plain = all(re.fullmatch(r"[0-9A-Za-z][0-9A-Za-z_-]{0,99}", name) for name in names)
    if plain and sorted(set(names)) == list(names):
        return list(names)
    width = len(str(len(names) - 1))
    return [f"{number:0{width}d}_{re.sub(r'[^0-9A-Za-z_-]+', '-', name)[:80]}" for number, name in enumerate(names)]
