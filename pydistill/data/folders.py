"""Read image folders, train/<class>/… and test/<class>/… (or val), or archives of such folders."""

from __future__ import annotations

import hashlib
import os
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import torch
from torch import Tensor

from pydistill._util.format import counted
from pydistill._util.memory import check_memory_available
from pydistill.data.archives import unpacked
from pydistill.data.cache import cached_raw
from pydistill.data.images import decode, formats
from pydistill.data.raw import RawData, check_class_names, split_by_class
from pydistill.errors import FormatError, InputError, Name, SettingError

_READER = 3
"""Part of the cache's key; increase it when the arrays read from the same files change."""

_ANNOTATIONS, _WORDS = "val_annotations.txt", "words.txt"
_SIZE, _SPLIT = Name("data.image_size"), Name("data.split")
_SPLIT_SEED = 0
_MOST_KINDS = 8
_HIDDEN = (".", "__MACOSX")
"""Beginnings of the names of files that programs add: caches, settings, and a Mac's attributes in a zip."""

_Classes = dict[str, list[Path]]
"""The image files of a split by class folder."""


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
        split: draw this share of every class as test images, from train/<class>/ or, without train/, from <class>/.
        scale_16bit: convert 16-bit grey values to 8 bits.
        skip_broken: pass over files that cannot be decoded.
    """

    classes: Mapping[str, str] | None = None
    image_size: int | None = None
    mode: Literal["RGB", "L"] = "RGB"
    test: tuple[str, ...] = ("test", "val")
    tiny_imagenet: bool = False
    split: float | None = None
    scale_16bit: bool = False
    skip_broken: bool = False

    @property
    def upright(self) -> bool:
        """Return True if EXIF orientations are applied; the papers' code ignores them in ImageNet."""
        return self.classes is None and not self.tiny_imagenet


@dataclass(frozen=True)
class _Files:
    """The files to read below `root`.

    Args:
        path: the folder or archive, for messages.
        classes: the names of the classes by class folder, in the order of the labels.
        passed_over: the number of other files by extension.
    """

    root: Path
    path: Path
    classes: Mapping[str, str]
    train: _Classes
    test: _Classes
    passed_over: Counter[str]


def read_folder(path: Path, name: str, layout: FolderLayout, cache: Path) -> RawData:
    """Read the images below `path` (a folder, or a tar or zip archive of one); the cache stores them as bytes."""
    if path.is_dir():
        files = _find(path, name, layout, path)
        return cached_raw(_key(name, layout, _digest(files)), name, cache, lambda: _read(files, name, layout))
    if not path.is_file():
        allowed = "a folder of images, or an archive of one"
        raise SettingError("data.path", str(path), allowed, "it does not exist")

    def read() -> RawData:
        with unpacked(path, cache) as folder:
            return _read(_find(folder, name, layout, path), name, layout)

    status = path.stat()
    return cached_raw(_key(name, layout, f"{path.name} {status.st_size} {status.st_mtime_ns}"), name, cache, read)


def _key(name: str, layout: FolderLayout, source: str) -> str:
    return f"reader {_READER}, {name}, {layout}, {source}"


def _digest(files: _Files) -> str:
    """Return a digest over the classes, the name, size and time of every image file, and the files passed over."""
    digest = hashlib.sha256(f"{files.classes} {sorted(files.passed_over.items())}".encode(errors="surrogateescape"))
    for split in (files.train, files.test):
        for folder, file in ((folder, file) for folder, paths in split.items() for file in paths):
            status = file.stat()
            line = f"{folder}\0{_relative(file, files.root)}\0{status.st_size}\0{status.st_mtime_ns}\n"
            digest.update(line.encode(errors="surrogateescape"))
        digest.update(b"\n")
    return digest.hexdigest()


def _find(folder: Path, name: str, layout: FolderLayout, path: Path) -> _Files:
    """Find the files to read below `folder`; messages name the data set by `path`."""
    root = _root(folder, name, layout, path)
    train_folder = _subfolder(root, "train")
    train, passed_over = _images_by_class(train_folder or root, layout)
    test: _Classes = {}
    test_folder: Path | None = None
    for split in layout.test if train_folder else ():
        if test_folder := _subfolder(root, split):
            test, others = _images_by_class(test_folder, layout)
            if any(test.values()):
                passed_over += others
                break
    where = f"{train_folder.name}/" if train_folder else ""
    note = "".join(f"; {note}" for note in _notes(passed_over))
    if not any(train.values()):
        raise InputError(f"{path} has no image in {where}<class>/{note}")
    classes = _class_names(root, layout, train)
    empty = next((folder for folder in classes if not train.get(folder)), None)
    if empty is not None:
        raise InputError(
            f"{path} has no image in {where + empty + '/'!r}; every class of {name} needs at least one{note}"
        )
    if layout.split is not None:
        if any(test.values()):
            raise SettingError("data.split", layout.split, f"left out for {path}, which has test images")
        train, test = _divided(train, layout.split, root)
    if not any(test.values()):
        folders = " or ".join(layout.test)
        raise InputError(f"{path} has no image in {folders}/<class>/{note}; to test on a share of train/, set ", _SPLIT)
    if layout.tiny_imagenet and test_folder and (test_folder / _ANNOTATIONS).is_file():
        test = _annotated(test, _columns(test_folder / _ANNOTATIONS))
    unknown = sorted(folder for folder, files in test.items() if files and folder not in classes)
    if unknown:
        raise InputError(f"class folder {unknown[0]!r} of the test images of {path} has no counterpart in {where}")
    return _Files(root, path, classes, train, test, passed_over)


def _root(folder: Path, name: str, layout: FolderLayout, path: Path) -> Path:
    """Return the folder that holds train/ or, to be split, the class folders: `folder` or its only such subfolder."""
    if _subfolder(folder, "train"):
        return folder
    nested = [inner for inner in _folders(folder) if _subfolder(inner, "train")]
    if len(nested) > 1:
        names = ", ".join(root.name for root in nested)
        raise InputError(f"{path} holds several data sets ({names}); set ", Name("data.path"), " to one of them")
    if nested:
        return nested[0]
    if layout.split is None:
        raise InputError(
            f"{path} has no folder train; for {name}, ",
            Name("data.path"),
            " must be a folder or an archive with train/<class>/* and test/<class>/* (or val); to split <class>/* set ",
            _SPLIT,
        )
    inner = _folders(folder)
    return inner[0] if len(inner) == 1 and _folders(inner[0]) else folder


def _folders(folder: Path) -> list[Path]:
    """Return the subfolders that are not hidden, sorted by name."""
    return [inner for inner in sorted(folder.iterdir()) if inner.is_dir() and not inner.name.startswith(_HIDDEN)]


def _subfolder(folder: Path, name: str) -> Path | None:
    """Return the subfolder of this name, or else the first one in another case, such as Train."""
    if (folder / name).is_dir():
        return folder / name
    return next((inner for inner in _folders(folder) if inner.name.lower() == name), None)


def _images_by_class(split: Path, layout: FolderLayout) -> tuple[_Classes, Counter[str]]:
    """Return the image files of a split, and the number of other files by kind; hidden names are ignored."""
    passed_over: Counter[str] = Counter()
    folders = [folder for folder in _folders(split) if layout.classes is None or folder.name in layout.classes]
    images = {folder.name: list(_images(folder, passed_over)) for folder in folders}
    loose = Counter(
        f"{file.suffix.lower()} outside the class folders"
        for file in split.iterdir()
        if not file.name.startswith(_HIDDEN) and file.suffix.lower() in formats() and file.is_file()
    )
    if layout.tiny_imagenet:
        del passed_over[".txt"]  # annotations
    return images, passed_over + loose


def _images(folder: Path, passed_over: Counter[str]) -> Iterator[Path]:
    """Yield the image files at any depth below a folder, following links, and count other files by kind."""
    seen: set[str] = set()
    for below, folders, names in os.walk(folder, followlinks=True):
        location = os.path.realpath(below)
        if location in seen:  # a link leads back
            folders.clear()
            continue
        seen.add(location)
        folders[:] = [name for name in folders if not name.startswith(_HIDDEN)]
        for file in (Path(below, name) for name in names if not name.startswith(_HIDDEN)):
            extension = file.suffix.lower()
            if not file.is_file():
                passed_over["that are not regular files"] += 1
            elif extension in formats():
                yield file
            else:
                passed_over[extension or "without an extension"] += 1


def _divided(files: _Classes, share: float, root: Path) -> tuple[_Classes, _Classes]:
    """Draw a share of every class as test images; return the files of both splits."""
    ordered = [(folder, file) for folder in sorted(files) for file in _sorted(files[folder], root)]
    positions = {folder: position for position, folder in enumerate(sorted(files))}
    labels = torch.tensor([positions[folder] for folder, _ in ordered])
    train: _Classes = {folder: [] for folder in files}
    test: _Classes = {folder: [] for folder in files}
    for split, indices in zip((train, test), split_by_class(labels, list(positions), share, _SPLIT_SEED), strict=True):
        for folder, file in (ordered[index] for index in indices.tolist()):
            split[folder].append(file)
    return train, test


def _annotated(files: _Classes, rows: list[list[str]]) -> _Classes:
    """Group the files by class folder according to annotations, which are rows of file name and class folder."""
    folder_of = {row[0]: row[1] for row in rows if len(row) >= 2}
    grouped: _Classes = {}
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
    check_class_names(train)
    return {folder: names.get(folder, folder) for folder in sorted(train)}


def _columns(file: Path) -> list[list[str]]:
    """Return the lines of a text file, split at tabs."""
    return [line.split("\t") for line in file.read_text("utf-8", "replace").splitlines()]


def _read(files: _Files, name: str, layout: FolderLayout) -> RawData:
    """Decode the files."""
    broken: list[str] = []
    arrays = [array for split in (files.train, files.test) for array in _arrays(files, split, layout, broken)]
    return RawData(name, tuple(files.classes.values()), *arrays, notes=_notes(files.passed_over, broken))


def _notes(passed_over: Counter[str], broken: list[str] | None = None) -> tuple[str, ...]:
    """Say which files were not read."""
    notes = []
    if passed_over:
        most = passed_over.most_common(_MOST_KINDS)
        kinds = [f"{count} {repr(kind)[1:-1]}" for kind, count in most]  # names may hold any character
        rest = passed_over.total() - sum(count for _, count in most)
        kinds += [counted(rest, "other file")] if rest else []
        notes.append(f"passed over {', '.join(kinds)}")
    if broken:
        notes.append(f"skipped {counted(len(broken), 'broken file')}, first {min(broken)!r}")
    return tuple(notes)


def _arrays(files: _Files, split: _Classes, layout: FolderLayout, broken: list[str]) -> tuple[Tensor, Tensor]:
    """Return images and labels, sorted by class and then by file name; add the files that are skipped to `broken`."""
    path = files.path
    ordered = [
        (_relative(file, files.root), file, label)
        for label, folder in enumerate(files.classes)
        for file in _sorted(split.get(folder, ()), files.root)
    ]

    def pixels(item: tuple[str, Path, int]) -> Tensor | None:
        name, file, _ = item
        options = layout.image_size, layout.mode, layout.upright, layout.scale_16bit
        try:
            return torch.from_numpy(decode(file, f"image {name!r} of {path}", *options))
        except FormatError:
            if not layout.skip_broken:
                raise
            broken.append(name)
            return None

    images: Tensor | None = None
    labels: list[int] = []
    first = ""
    with ThreadPoolExecutor() as pool:
        try:
            for (name, _, label), image in zip(ordered, pool.map(pixels, ordered), strict=True):
                if image is None:
                    continue
                if images is None:
                    subject = f"reading {len(ordered)} images of {list(image.shape)} bytes"
                    remedy = "lower ", _SIZE, " or give fewer images"
                    check_memory_available(len(ordered) * image.numel(), subject, *remedy)
                    images, first = torch.empty(len(ordered), *image.shape, dtype=torch.uint8), name
                if image.shape != images.shape[1:]:
                    raise InputError(
                        f"images of {path} differ in size: {first!r} has {images.shape[3]}×{images.shape[2]} "
                        f"pixels, {name!r} {image.shape[2]}×{image.shape[1]}; set ",
                        _SIZE,
                    )
                images[len(labels)] = image
                labels.append(label)
        except BaseException:  # otherwise the pool decodes all images before it stops
            pool.shutdown(cancel_futures=True)
            raise
    if images is None:
        raise FormatError(f"none of {counted(len(ordered), 'image')} of {path} can be decoded, first {ordered[0][0]!r}")
    return images[: len(labels)], torch.tensor(labels)


def _sorted(files: Iterable[Path], root: Path) -> list[Path]:
    return sorted(files, key=lambda file: _relative(file, root))


def _relative(file: Path, root: Path) -> str:
    return file.relative_to(root).as_posix()
