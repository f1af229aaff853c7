"""Read image folders, train/<class>/… and test/<class>/… (or val), or archives of such folders."""

from __future__ import annotations

import hashlib
import lzma
import os
import tarfile
import tempfile
import zipfile
import zlib
from collections.abc import Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import torch
from torch import Tensor

from pydistill._util.memory import check_memory_available
from pydistill.data.cache import cached_raw
from pydistill.data.images import EXTENSIONS, decode
from pydistill.data.raw import RawData
from pydistill.errors import FormatError, InputError, Name, SettingError

_READER = 2
"""Part of the cache's key; increase it when the arrays read from the same files change."""

_ANNOTATIONS, _WORDS = "val_annotations.txt", "words.txt"


@dataclass(frozen=True)
class FolderLayout:
    """Options for reading an image folder.

    Args:
        classes: the class folders to read and the names of the classes, in the order of the labels; None takes every
            folder of train/, sorted by name.
        image_size: resize and centre-crop to this side; None keeps the size, which must be the same for all files.
        mode: channels, "RGB" or "L".
        test: the splits that may hold the test images; the first one with images is read.
        tiny_imagenet: val_annotations.txt gives the classes of test images by file name, and words.txt the names of
            the classes.
    """

    classes: Mapping[str, str] | None = None
    image_size: int | None = None
    mode: Literal["RGB", "L"] = "RGB"
    test: tuple[str, ...] = ("test", "val")
    tiny_imagenet: bool = False


def read_folder(path: Path, name: str, layout: FolderLayout, cache: Path) -> RawData:
    """Read the images below `path` (a folder, or a tar or zip archive of one); the cache stores them as bytes."""
    if path.is_dir():
        root = _root(path, name)
        return cached_raw(_key(name, layout, _listing(root, layout)), name, cache, lambda: _read(root, name, layout))
    if not path.is_file():
        allowed = "a folder of images, or an archive of one"
        raise SettingError("data.path", str(path), allowed, "it does not exist")

    def read() -> RawData:
        with _unpacked(path, cache) as folder:
            return _read(_root(folder, name, path), name, layout, path)

    status = path.stat()
    return cached_raw(_key(name, layout, f"{path.name} {status.st_size} {status.st_mtime_ns}"), name, cache, read)


def _key(name: str, layout: FolderLayout, source: str) -> str:
    return f"reader {_READER}, {name}, {layout}, {source}"


def _listing(root: Path, layout: FolderLayout) -> str:
    """Return a digest over the name, size and time of every file that may be read."""
    digest = hashlib.sha256()
    annotations = [root / _WORDS, *(root / split / _ANNOTATIONS for split in layout.test)]
    images = [
        file for split in ("train", *layout.test) for files in _split(root, split, layout).values() for file in files
    ]
    for file in [file for file in annotations if file.is_file()] + images:
        status = file.stat()
        line = f"{_relative(file, root)}\0{status.st_size}\0{status.st_mtime_ns}\n"
        digest.update(line.encode(errors="surrogateescape"))
    return digest.hexdigest()


@contextmanager
def _unpacked(archive: Path, cache: Path) -> Iterator[Path]:
    """Unpack a tar or zip archive into a temporary folder in the cache.

    Members whose names or links point outside the folder are refused (tar) or renamed into it (zip).
    """
    cache.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix=".unpacked-", dir=cache) as folder:
        try:
            if zipfile.is_zipfile(archive):
                with zipfile.ZipFile(archive) as members:
                    members.extractall(folder)
            else:
                with tarfile.open(archive) as members:
                    members.extractall(folder, filter="data")
        # An encrypted zip raises RuntimeError, an unknown compression its subclass NotImplementedError.
        except (
            *(tarfile.TarError, zipfile.BadZipFile, lzma.LZMAError, zlib.error, EOFError, OSError),
            *(RuntimeError, ValueError, OverflowError),
        ) as error:
            raise FormatError(
                f"{archive} cannot be unpacked ({error}): it is damaged, is not a tar or zip archive, or "
                f"{cache} is full"
            ) from error
        yield Path(folder)


def _root(folder: Path, name: str, path: Path | None = None) -> Path:
    """Return the folder that holds train/: `folder` itself, or its only subfolder with train/."""
    if (folder / "train").is_dir():
        return folder
    nested = sorted(train.parent for train in folder.glob("*/train") if train.is_dir())
    if len(nested) > 1:
        names = ", ".join(root.name for root in nested)
        raise InputError(
            f"{path or folder} holds several data sets ({names}); set ", Name("data.path"), " to one of them"
        )
    if not nested:
        raise InputError(
            f"{path or folder} has no folder train; for {name}, ",
            Name("data.path"),
            " must be a folder or an archive with train/<class>/* and test/<class>/* (or val)",
        )
    return nested[0]


def _read(root: Path, name: str, layout: FolderLayout, path: Path | None = None) -> RawData:
    """Decode the images below `root`; messages name the data set by `path`."""
    path = path or root
    train = _split(root, "train", layout)
    splits = [(split, _split(root, split, layout)) for split in layout.test]
    split, test = next(((split, files) for split, files in splits if any(files.values())), ("", {}))
    for files, folder in ((train, "train"), (test, " or ".join(layout.test))):
        if not any(files.values()):
            raise InputError(f"{path} has no image in {folder}/<class>/")
    if layout.tiny_imagenet and (root / split / _ANNOTATIONS).is_file():
        test = _annotated(test, _columns(root / split / _ANNOTATIONS))
    classes = _class_names(root, layout, train)
    empty = next((folder for folder in classes if not train.get(folder)), None)
    if empty is not None:
        raise InputError(f"{path} has no image in train/{empty}/; every class of {name} needs at least one")
    unknown = sorted(folder for folder, files in test.items() if files and folder not in classes)
    if unknown:
        raise InputError(f"class folder {unknown[0]!r} of the test images of {path} has no counterpart in train/")
    arrays = [array for files in (train, test) for array in _arrays(root, files, classes, layout, path)]
    return RawData(name, tuple(classes.values()), *arrays)


def _split(root: Path, split: str, layout: FolderLayout) -> dict[str, list[Path]]:
    """Return the image files of a split by class folder."""
    if not (root / split).is_dir():
        return {}
    folders = [folder for folder in sorted((root / split).iterdir()) if folder.is_dir()]
    return {
        folder.name: _images(folder) for folder in folders if layout.classes is None or folder.name in layout.classes
    }


def _images(folder: Path) -> list[Path]:
    """Return the image files at any depth below a folder, following links."""
    return [
        Path(below, name)
        for below, _, names in os.walk(folder, followlinks=True)
        for name in names
        if name.lower().endswith(EXTENSIONS)
    ]


def _annotated(files: Mapping[str, list[Path]], rows: list[list[str]]) -> dict[str, list[Path]]:
    """Group the files by class folder according to annotations, which are rows of file name and class folder."""
    folder_of = {row[0]: row[1] for row in rows if len(row) >= 2}
    grouped: dict[str, list[Path]] = {}
    for folder, paths in files.items():
        for file in paths:
            grouped.setdefault(folder_of.get(file.name, folder), []).append(file)
    return grouped


def _class_names(root: Path, layout: FolderLayout, train: Mapping[str, object]) -> dict[str, str]:
    """Return the class folders in the order of the labels, with the names of the classes."""
    if layout.classes is not None:
        return dict(layout.classes)
    words = _columns(root / _WORDS) if layout.tiny_imagenet and (root / _WORDS).is_file() else []
    names = {row[0]: row[1].split(",")[0] for row in words if len(row) == 2}
    return {folder: names.get(folder, folder) for folder in sorted(train)}


def _columns(file: Path) -> list[list[str]]:
    """Return the lines of a text file, split at tabs."""
    return [line.split("\t") for line in file.read_text("utf-8", "replace").splitlines()]


def _arrays(
    root: Path, files: Mapping[str, list[Path]], classes: Mapping[str, str], layout: FolderLayout, path: Path
) -> tuple[Tensor, Tensor]:
    """Return images and labels, sorted by class and then by file name."""
    ordered = [
        (_relative(file, root), file, label)
        for label, folder in enumerate(classes)
        for file in sorted(files.get(folder, ()), key=lambda file: _relative(file, root))
    ]

    def pixels(item: tuple[str, Path, int]) -> Tensor:
        name, file, _ = item
        return torch.from_numpy(decode(file, f"image {name!r} of {path}", layout.image_size, layout.mode))

    first = pixels(ordered[0])
    count = len(ordered)
    remedy = "lower data.image_size or give fewer images"
    check_memory_available(count * first.numel(), f"reading {count} images of {list(first.shape)} bytes", remedy)
    images = torch.empty(count, *first.shape, dtype=torch.uint8)
    with ThreadPoolExecutor() as pool:
        try:
            for position, image in enumerate(pool.map(pixels, ordered)):
                if image.shape != first.shape:
                    raise InputError(
                        f"images of {path} differ in size: {ordered[0][0]!r} has {first.shape[2]}×{first.shape[1]} "
                        f"pixels, {ordered[position][0]!r} {image.shape[2]}×{image.shape[1]}; give data.image_size"
                    )
                images[position] = image
        except BaseException:  # otherwise the pool decodes all images before it stops
            pool.shutdown(cancel_futures=True)
            raise
    return images, torch.tensor([label for _, _, label in ordered])


def _relative(file: Path, root: Path) -> str:
    return file.relative_to(root).as_posix()
