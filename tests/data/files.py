"""Write small files in the layouts of the real data sets."""

from __future__ import annotations

import io
import tarfile
import zipfile
from collections.abc import Mapping
from pathlib import Path

import numpy as np
from PIL import Image


def picture(seed: int, width: int = 6, height: int = 6, mode: str = "RGB") -> Image.Image:
    """Make an image of random pixels."""
    shape = (height, width) if mode == "L" else (height, width, 3)
    return Image.fromarray(np.random.default_rng(seed).integers(0, 256, shape, dtype=np.uint8), mode=None)


def encoded(image: Image.Image, kind: str = "PNG") -> bytes:
    """Encode an image as the bytes of a file."""
    buffer = io.BytesIO()
    image.save(buffer, kind)
    return buffer.getvalue()


def pixels(image: Image.Image) -> np.ndarray:
    """Return an image as uint8 [C, H, W]."""
    array = np.asarray(image)
    return array[None] if array.ndim == 2 else array.transpose(2, 0, 1)


def two_classes(outer: str = "", test: str = "test", width: int = 6, height: int = 6) -> dict[str, bytes]:
    """Return the files of an image folder by name: cat (2 training images, 1 test image) and dog (1 and 1)."""
    names = ["train/cat/a.png", "train/cat/b.png", "train/dog/a.png", f"{test}/cat/c.png", f"{test}/dog/c.png"]
    return {outer + name: encoded(picture(seed, width, height)) for seed, name in enumerate(names)}


def write_folder(root: Path, files: Mapping[str, bytes]) -> Path:
    """Write files below a folder."""
    for name, data in files.items():
        target = root / name
        target.parent.mkdir(parents=True, exist_ok=True)
        target.write_bytes(data)
    return root


def write_tar(path: Path, files: Mapping[str, bytes], compression: str = "") -> Path:
    """Write files into a tar archive."""
    with tarfile.open(path, f"w:{compression}") as archive:
        for name, data in files.items():
            member = tarfile.TarInfo(name)
            member.size = len(data)
            archive.addfile(member, io.BytesIO(data))
    return path


def write_zip(path: Path, files: Mapping[str, bytes]) -> Path:
    """Write files into a zip archive."""
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, data in files.items():
            archive.writestr(name, data)
    return path
