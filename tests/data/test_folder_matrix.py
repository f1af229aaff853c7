"""A table of odd image folders, with what is read of each or the error that refuses it."""

from __future__ import annotations

import io
import os
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pytest
import torch
from PIL import Image

from pydistill.data import DataSettings
from pydistill.data.load import read
from pydistill.data.raw import RawData
from pydistill.errors import FormatError, InputError, SettingError
from tests.data.files import encoded, picture, write_folder, write_tar, write_zip

PNG = encoded(picture(0, 8, 8))
BASE = {f"train/{name}/{number}.png": PNG for name in "ab" for number in range(2)} | {
    f"test/{name}/0.png": PNG for name in "ab"
}
CLASSES = {f"{name}/{number}.png": PNG for name in "ab" for number in range(10)}
HALF = encoded(picture(1, 40, 40))[:2000]
GREY16 = Image.fromarray(np.arange(64, dtype=np.uint16).reshape(8, 8) * 1000)


class Read(NamedTuple):
    """What a folder holds: images by class, their shape, names of the classes, and a part of the notes."""

    train: tuple[int, ...] = (2, 2)
    test: tuple[int, ...] = (1, 1)
    shape: tuple[int, ...] = (3, 8, 8)
    classes: tuple[str, ...] = ("a", "b")
    note: str = ""


class Case(NamedTuple):
    """A folder, the settings with which it is read, and the outcome: content, or the error and its setting."""

    name: str
    files: Mapping[str, bytes]
    outcome: Read | tuple[type[Exception], str]
    settings: Mapping[str, Any] = {}
    change: Callable[[Path], object] = lambda root: None
    write: Callable[[Path, Mapping[str, bytes]], Path] = write_folder


def image(mode: str = "RGB", kind: str = "PNG", size: tuple[int, int] = (8, 8), **options: Any) -> bytes:
    """Encode a random image of a mode."""
    buffer = io.BytesIO()
    picture(2, *size).convert(mode).save(buffer, kind, **options)
    return buffer.getvalue()


def only(data: bytes, extension: str = "png", names: str = "ab") -> dict[str, bytes]:
    """Return the files of a folder whose images are all the same."""
    return {f"{split}/{name}/0.{extension}": data for split in ("train", "test") for name in names}


def turned(orientation: int) -> bytes:
    """Return an image of 8×6 pixels with an EXIF orientation."""
    exif = Image.Exif()
    exif[0x0112] = orientation
    return image(kind="JPEG", size=(8, 6), exif=exif)


def frames() -> bytes:
    """Return an animated GIF of two frames."""
    return image(kind="GIF", save_all=True, append_images=[picture(3, 8, 8)])


FORMATS = {
    **dict.fromkeys(("jpg", "JPEG", "jpe", "jfif"), "JPEG"),
    **dict.fromkeys(("bmp", "dib"), "BMP"),
    **{kind.lower(): kind for kind in ("GIF", "TIFF", "WEBP", "PPM", "TGA", "PCX", "SGI", "ICO")},
}
ONE = Read((1, 1))
REFUSED, WRONG = (FormatError, ""), (InputError, "")

CASES = [
    *(Case(f"extension {ending}", only(image(kind=kind), ending), ONE) for ending, kind in FORMATS.items()),
    *(Case(f"mode {mode}", only(image(mode)), ONE) for mode in ("1", "L", "LA", "P", "RGBA")),
    Case("mode CMYK", only(image("CMYK", "JPEG"), "jpg"), ONE),
    Case("grey among colour", BASE | {"train/a/2.png": image("L")}, Read((3, 2))),
    Case("animation", only(frames(), "gif"), ONE),
    Case("one channel", only(image("L")), Read((1, 1), shape=(1, 8, 8)), {"channels": 1}),
    Case("one channel of colour", BASE, Read(shape=(1, 8, 8)), {"channels": 1}),
    Case("two channels", BASE, (SettingError, "channels"), {"channels": 2}),
    Case("16 bits", only(encoded(GREY16)), REFUSED),
    Case("16 bits scaled", only(encoded(GREY16)), Read((1, 1), shape=(1, 8, 8)), {"scale_16bit": True, "channels": 1}),
    Case("32 bits", only(image("I", "TIFF"), "tif"), REFUSED),
    Case("floating point", only(image("F", "TIFF"), "tif"), REFUSED, {"scale_16bit": True}),
    Case("EXIF upside down", only(turned(3), "jpg"), Read((1, 1), shape=(3, 6, 8))),
    Case("EXIF sideways", only(turned(6), "jpg"), Read((1, 1), shape=(3, 8, 6))),
    Case("damaged EXIF", only(image(kind="JPEG", exif=b"Exif\0\0MM\0*\0\0"), "jpg"), ONE),
    Case("sizes differ", BASE | {"train/a/2.png": image(size=(9, 8))}, WRONG),
    Case(
        "sizes scaled", BASE | {"train/a/2.png": image(size=(99, 7))}, Read((3, 2), shape=(3, 4, 4)), {"image_size": 4}
    ),
    Case("one pixel", only(image(size=(1, 1))), Read((1, 1), shape=(3, 1, 1))),
    Case("checkpoints of notebooks", BASE | {"train/.ipynb_checkpoints/0.png": PNG}, Read()),
    Case("hidden test class", BASE | {"test/.trash/0.png": PNG}, Read()),
    Case(
        "hidden in a class",
        BASE | {"train/a/.thumbs/0.png": b"", "train/a/._0.png": b"", "train/b/.DS_Store": b""},
        Read(),
    ),
    Case(
        "passed over",
        BASE | {"train/a/x.TXT": b"", "test/b/y.txt": b"", "train/a/z.heic": b""},
        Read(note="2 .txt, 1 .heic"),
    ),
    Case("no extension", BASE | {"train/a/0": PNG}, Read(note="1 without an extension")),
    Case("second extension", BASE | {"train/a/5.png.txt": PNG}, Read(note="1 .txt")),
    Case(
        "extension of other bytes",
        BASE,
        Read(note=r"1 .\udcff\n"),
        {},
        lambda root: (root / "train/a/x.\udcff\n").touch(),
    ),
    Case("outside the classes", BASE | {"train/5.png": PNG, "train/list.csv": b""}, Read(note="1 .png outside")),
    Case(
        "vector graphics and video",
        BASE | {"train/a/1.svg": b"", "train/a/1.mpg": b"", "train/a/1.eps": b""},
        Read(note="1 .mpg"),
    ),
    Case("nothing readable", only(b"", "heic"), WRONG),
    Case("class without readable", BASE | {"train/c/0.svg": b""}, WRONG),
    Case("nested", BASE | {"train/a/x/y/0.png": PNG}, Read((3, 2))),
    Case("Train and Test", {name.capitalize(): data for name, data in BASE.items()}, Read()),
    Case(
        "TRAIN and VAL",
        {name.replace("test", "val").replace("train", "TRAIN"): data for name, data in BASE.items()},
        Read(),
    ),
    Case("test before val", BASE | {"val/a/0.png": b""}, Read()),
    Case(
        "val after an empty test",
        {**{f"val/{c}/0.png": PNG for c in "ab"}, **{n: d for n, d in BASE.items() if "train" in n}},
        Read(),
        {},
        lambda root: (root / "test").mkdir(),
    ),
    Case("no test", {name: data for name, data in BASE.items() if "train" in name}, WRONG),
    Case("no train", {name: data for name, data in BASE.items() if "test" in name}, WRONG),
    Case("classes alone", CLASSES, WRONG),
    Case("classes split", CLASSES, Read((8, 8), (2, 2)), {"split": 0.2}),
    Case(
        "train split", {f"train/{name}": data for name, data in CLASSES.items()}, Read((5, 5), (5, 5)), {"split": 0.5}
    ),
    Case(
        "outer folder split",
        {f"mine/{name}": data for name, data in CLASSES.items()},
        Read((8, 8), (2, 2)),
        {"split": 0.2},
    ),
    Case("split of a test set", BASE, (SettingError, "data.split"), {"split": 0.2}),
    Case("split of one image", CLASSES | {"c/0.png": PNG}, WRONG, {"split": 0.2}),
    Case("split of everything", CLASSES, (SettingError, "split"), {"split": 1.0}),
    Case("empty class", BASE, WRONG, {}, lambda root: (root / "train/c").mkdir()),
    Case("unknown test class", BASE | {"test/c/0.png": PNG}, WRONG),
    Case("class without test", BASE | {"train/c/0.png": PNG}, Read((2, 2, 1), (1, 1, 0), classes=("a", "b", "c"))),
    Case("single class", only(PNG, names="a"), Read((1,), (1,), classes=("a",))),
    Case("outer folder", {f"mine/{name}": data for name, data in BASE.items()}, Read()),
    Case("two outer folders", {f"{outer}/{name}": data for outer in "xy" for name, data in BASE.items()}, WRONG),
    Case(
        "Mac's zip",
        {f"mine/{name}": d for name, d in BASE.items()} | {"__MACOSX/mine/train/a/._0.png": b""},
        Read(),
        write=lambda path, files: write_zip(path.with_suffix(".zip"), files),
    ),
    Case(
        "Mac's zip split",
        {f"mine/{name}": data for name, data in CLASSES.items()} | {"__MACOSX/mine/a/._0.png": b""},
        Read((8, 8), (2, 2)),
        {"split": 0.2},
        write=lambda path, files: write_zip(path.with_suffix(".zip"), files),
    ),
    Case(
        "tar split",
        CLASSES,
        Read((8, 8), (2, 2)),
        {"split": 0.2},
        write=lambda path, files: write_tar(path.with_suffix(".tar"), files),
    ),
    Case("names in Unicode", only(PNG, names="🐈ä"), Read((1, 1), classes=("ä", "🐈"))),
    Case("line break in a name", {n.replace("/b/", "/b\n/"): d for n, d in BASE.items()}, Read(classes=("a", "b\n"))),
    Case("class of other bytes", {n.replace("/b/", "/\udcff/"): d for n, d in BASE.items()}, WRONG),
    Case("file of other bytes", BASE | {"train/a/\udcff.png": PNG}, Read((3, 2))),
    *(
        Case(f"{kind} file", BASE | {"train/a/9.png": data}, REFUSED)
        for kind, data in (("half", HALF), ("empty", b""), ("text", b"hello"))
    ),
    Case(
        "program as an image", BASE | {"train/a/9.png": b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 8 8\n"}, REFUSED
    ),
    Case(
        "broken skipped",
        BASE | {"train/a/9.png": HALF, "test/b/9.png": b""},
        Read(note="2 broken files, first 'test/b/9.png'"),
        {"skip_broken": True},
    ),
    Case("first broken", BASE | {"train/a/0.png": b""}, Read((1, 2), note="1 broken file"), {"skip_broken": True}),
    Case("broken class", BASE | {"train/c/0.png": HALF}, WRONG, {"skip_broken": True}),
    Case("all broken", only(b""), REFUSED, {"skip_broken": True}),
    Case("named pipe", BASE, Read(note="1 that are not regular"), {}, lambda root: os.mkfifo(root / "train/a/9.png")),
    Case(
        "device",
        BASE,
        Read(note="1 that are not regular"),
        {},
        lambda root: (root / "train/a/9.png").symlink_to("/dev/zero"),
    ),
    Case(
        "dangling link",
        BASE,
        Read(note="1 that are not regular"),
        {},
        lambda root: (root / "train/a/9.png").symlink_to("none"),
    ),
    Case("link", BASE, Read((3, 2)), {}, lambda root: (root / "train/a/9.png").symlink_to("0.png")),
    Case("circle", BASE, Read(), {}, lambda root: (root / "train/a/again").symlink_to(root / "train/a")),
]


@pytest.mark.parametrize("case", CASES, ids=[case.name for case in CASES])
def test_folder(tmp_path: Path, case: Case) -> None:
    path = case.write(tmp_path / "data", case.files)
    case.change(path)

    def reading() -> RawData:
        return read(DataSettings("folder", str(path), **case.settings), tmp_path / "cache")

    if not isinstance(case.outcome, Read):
        kind, setting = case.outcome
        with pytest.raises(kind) as error:
            reading()
        assert type(error.value) is kind
        assert getattr(error.value, "setting", "") == setting
        assert str(error.value).isprintable()
        return
    expected, raw = case.outcome, reading()
    assert raw.class_names == expected.classes
    assert tuple(torch.bincount(raw.train_labels).tolist()) == expected.train
    assert tuple(torch.bincount(raw.test_labels, minlength=len(expected.classes)).tolist()) == expected.test
    assert raw.train_images.shape[1:] == raw.test_images.shape[1:] == expected.shape
    notes = " ".join(raw.notes)
    assert bool(notes) == bool(expected.note)
    assert expected.note in notes
    assert notes.isprintable()
    again = reading()  # from the cache
    assert (again.digest, again.notes) == (raw.digest, raw.notes)
