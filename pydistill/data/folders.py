"""Data sets of image files: train/<class>/… and test/<class>/… (or val), in a folder or inside an archive."""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import Literal, NamedTuple

import torch
from torch import Tensor

from pydistill._util.memory import check_memory_available
from pydistill.data.cache import cached_raw
from pydistill.data.images import EXTENSIONS, Pixels, decode
from pydistill.data.members import identity, members
from pydistill.data.raw import RawData
from pydistill.errors import InputError

READER = 1
"""Counted up when the same files would be read into other arrays; part of the cache's key."""


class Place(NamedTuple):
    """Where in the layout a member belongs: <outer>/<split>/<folder>/…; outer is "" or one folder around it
    all."""

    outer: str
    split: str
    folder: str


@dataclass(frozen=True)
class FolderLayout:
    """How an image folder is read.

    Args:
        classes: the class folders to read and what to call them, in the order of the labels; None takes
            every folder of train/, sorted by name.
        image_size: resize and centre-crop to this side; None keeps the files' size, which must then be one.
        mode: channels, "RGB" or "L".
        test: the splits that may hold the test images; the first that holds any does.
        notes: text files to read besides, by name: val_annotations.txt gives the classes of images by file
            name, words.txt the names of classes.
    """

    classes: Mapping[str, str] | None = None
    image_size: int | None = None
    mode: Literal["RGB", "L"] = "RGB"
    test: tuple[str, ...] = ("test", "val")
    notes: tuple[str, ...] = ()

    def place(self, name: str) -> Place | None:
        """Where a file (or, with "/" at its end, a directory) belongs; None for what is not part of the
        layout."""
        parts = name.rstrip("/").split("/")
        if not {"", ".", ".."}.isdisjoint(parts):  # climbs, or starts at the root
            return None
        for depth in (0, 1):
            if len(parts) > depth + 1 and parts[depth] in ("train", *self.test):
                inside = name.endswith("/") or len(parts) > depth + 2
                known = self.classes is None or parts[depth + 1] in self.classes
                return Place("/".join(parts[:depth]), *parts[depth : depth + 2]) if inside and known else None
        return None

    def wanted(self, name: str) -> bool:
        """Whether a member is read: images in their places, notes, and the directories on the way to them."""
        parts = name.rstrip("/").split("/")
        if name.endswith("/"):
            on_the_way = len(parts) == 1 or (len(parts) == 2 and parts[1] in ("train", *self.test))
            return on_the_way or self.place(name) is not None
        if parts[-1] in self.notes:
            return len(parts) <= 3
        return name.lower().endswith(EXTENSIONS) and self.place(name) is not None


def read_folder(path: Path, name: str, layout: FolderLayout, cache: Path) -> RawData:
    """The images below `path` (a folder, tar or zip), decoded once and kept as bytes in the cache.

    Raises:
        InputError: there is nothing at `path`, or not this layout; the message says what is missing.
        FormatError: an archive or an image is damaged; the message names it.
    """
    if not path.exists():
        raise InputError(f"data.path={str(path)!r} does not exist; give the folder or archive that holds {name}")
    if layout.image_size is not None and layout.image_size < 1:
        raise InputError(f"data.image_size={layout.image_size} must be at least 1 pixel")
    key = f"reader {READER}, {name}, {layout}, {identity(path, layout.wanted)}"
    return cached_raw(key, name, cache, lambda: _read(path, name, layout))


def _read(path: Path, name: str, layout: FolderLayout) -> RawData:
    images, notes = _gather(path, layout)
    outer = sorted({place.outer for place in images})
    if len(outer) > 1:
        raise InputError(f"{path} holds several data sets ({', '.join(outer)}); give one of them as data.path")
    splits: dict[str, dict[str, dict[str, Pixels]]] = {split: {} for split in ("train", *layout.test)}
    for place, files in images.items():
        splits[place.split][place.folder] = files
    train = splits["train"]
    test = next((splits[split] for split in layout.test if any(splits[split].values())), {})
    for held, folder in ((train, "train"), (test, " or ".join(layout.test))):
        if not any(held.values()):
            raise InputError(
                f"{path} holds no image in {folder}/<class>/; for {name}, data.path must be a folder or an archive"
                f" with train/<class>/* and {layout.test[0]}/<class>/*"
            )
    test = _by_annotation(test, notes.get("val_annotations.txt", ""))
    classes = _class_names(path, name, layout, train, notes.get("words.txt", ""))
    unknown = sorted(folder for folder, files in test.items() if files and folder not in classes)
    if unknown:
        raise InputError(f"class folder {unknown[0]!r} of the test images of {path} has no counterpart in train/")
    return RawData(name, tuple(classes.values()), *_arrays(path, train, classes), *_arrays(path, test, classes))


def _gather(path: Path, layout: FolderLayout) -> tuple[dict[Place, dict[str, Pixels]], dict[str, str]]:
    """One pass over the members: images by class folder and name (empty folders too), and notes by name."""
    images: dict[Place, dict[str, Pixels]] = {}
    notes: dict[str, str] = {}

    def stream() -> Iterator[tuple[Place, str, bytes]]:
        for name, data in members(path, layout.wanted):
            place = layout.place(name)
            if name.rsplit("/", 1)[-1] in layout.notes:
                notes[name.rsplit("/", 1)[-1]] = data.decode("utf-8", "replace")
            elif place is not None:
                images.setdefault(place, {})
                if not name.endswith("/"):
                    yield place, name, data

    def decoded(item: tuple[Place, str, bytes]) -> Pixels:
        return decode(item[2], f"image {item[1]!r} of {path}", layout.image_size, layout.mode)

    workers = os.cpu_count() or 1
    found = stream()
    with ThreadPoolExecutor(workers) as pool:
        while batch := list(islice(found, 64 * workers)):
            sides = layout.image_size or 0
            remedy = "lower data.image_size or give fewer images"
            check_memory_available(3 * sides * sides * len(batch), f"reading images of {sides}×{sides} pixels", remedy)
            for (place, name, _), pixels in zip(batch, pool.map(decoded, batch), strict=True):
                images[place][name] = pixels
    return images, notes


def _by_annotation(held: dict[str, dict[str, Pixels]], annotations: str) -> dict[str, dict[str, Pixels]]:
    """The same images, those that the annotations name moved to the class folder given there.

    Args:
        annotations: lines of tab-separated columns, the first two a file name and a class folder.
    """
    columns = (line.split("\t") for line in annotations.splitlines())
    folder_of = {column[0]: column[1] for column in columns if len(column) >= 2}
    moved: dict[str, dict[str, Pixels]] = {}
    for folder, files in held.items():
        for name, pixels in files.items():
            moved.setdefault(folder_of.get(name.rsplit("/", 1)[-1], folder), {})[name] = pixels
    return moved


def _class_names(
    path: Path, name: str, layout: FolderLayout, train: Mapping[str, Mapping[str, Pixels]], words: str
) -> dict[str, str]:
    """Class folders in the order of the labels, and what they are called."""
    if layout.classes is not None:
        absent = [folder for folder in layout.classes if not train.get(folder)]
        if absent:
            raise InputError(f"{path} holds no image in train/{absent[0]}/, a class of {name}; data.path must hold all")
        return dict(layout.classes)
    empty = [folder for folder, files in sorted(train.items()) if not files]
    if empty:
        raise InputError(f"class folder train/{empty[0]}/ of {path} is empty; each class needs at least one image")
    columns = (line.split("\t") for line in words.splitlines())
    called = {column[0]: column[1].split(",")[0] for column in columns if len(column) == 2 and column[0] in train}
    return {folder: called.get(folder, folder) for folder in sorted(train)}


def _arrays(path: Path, held: Mapping[str, Mapping[str, Pixels]], classes: Mapping[str, str]) -> tuple[Tensor, Tensor]:
    """Images and labels, class by class, each class sorted by name."""
    ordered = [
        (label, name, held[folder][name])
        for label, folder in enumerate(classes)
        for name in sorted(held.get(folder, {}))
    ]
    _, first, shown = ordered[0]
    images = torch.empty(len(ordered), *shown.shape, dtype=torch.uint8)
    for position, (_, name, pixels) in enumerate(ordered):
        if pixels.shape != shown.shape:
            raise InputError(
                f"images of {path} differ in size: {first!r} has {shown.shape[2]}×{shown.shape[1]} pixels, {name!r}"
                f" {pixels.shape[2]}×{pixels.shape[1]}; give data.image_size"
            )
        images[position] = torch.from_numpy(pixels)
    return images, torch.tensor([label for label, _, _ in ordered])
