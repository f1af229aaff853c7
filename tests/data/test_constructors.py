"""Constructors of data sets: by name, from folders, arrays in any layout, and other libraries' data sets."""

from __future__ import annotations

import os
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch

import pydistill.data
from pydistill.data import Dataset, DataSettings, Zca, from_arrays, from_dataset, from_folder, from_npz, load
from pydistill.data.settings import NAMES
from pydistill.errors import InputError

Image = pytest.importorskip("PIL.Image")

PIXELS = np.random.default_rng(0).integers(0, 256, (12, 3, 8, 6), dtype=np.uint8)
LABELS = np.arange(12) % 3
REFERENCE = from_arrays(PIXELS[:9], LABELS[:9], PIXELS[9:], LABELS[9:], name="mine", class_names="abc")


class Items:
    """A map-style data set over a list of items."""

    def __init__(self, items: list[Any], **attributes: Any) -> None:
        self.items = items
        vars(self).update(attributes)

    def __len__(self) -> int:
        return len(self.items)

    def __getitem__(self, index: int) -> Any:
        return self.items[index]


def same(one: Dataset, other: Dataset) -> bool:
    return one.digest == other.digest and torch.equal(one.train_images, other.train_images)


def test_every_name_has_a_constructor() -> None:
    others = {"folder": "from_folder", "tensors": "from_npz"}
    for name in NAMES:
        constructor = others.get(name, name.replace("-", "_"))
        assert constructor in pydistill.data.__all__
        assert callable(getattr(pydistill.data, constructor))


def test_constructor_equals_load() -> None:
    read = pydistill.data.digits(zca=True)
    assert same(read, load(DataSettings(zca=True)))
    assert isinstance(read.preprocessing, Zca)
    assert read.settings == DataSettings(zca=True)


def test_path_is_stored_as_absolute(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for split in ("train", "test"):
        for label in range(2):
            folder = tmp_path / "photos" / split / f"class {label}"
            folder.mkdir(parents=True)
            Image.fromarray(PIXELS[label].transpose(1, 2, 0)).save(folder / "0.png")
    monkeypatch.chdir(tmp_path)
    read = from_folder("photos", image_size=4, cache=str(tmp_path / "cache"))
    assert read.settings is not None
    assert read.settings.path == os.path.join(tmp_path, "photos")
    assert read.class_names == ("class 0", "class 1")
    assert read.image_size == (4, 4)


@pytest.mark.parametrize("kind", [np.asarray, torch.as_tensor])
def test_layouts_of_arrays(kind: Any) -> None:
    last = kind(PIXELS.transpose(0, 2, 3, 1).copy())
    assert same(from_arrays(last[:9], LABELS[:9], last[9:], LABELS[9:]), REFERENCE)
    flat = kind(PIXELS[:, 0].copy())
    grey = kind(PIXELS[:, :1].copy())
    one, other = (from_arrays(images[:9], LABELS[:9], images[9:], LABELS[9:]) for images in (flat, grey))
    assert same(one, other)
    assert one.in_channels == 1


@pytest.mark.parametrize(
    ("shape", "channels", "size"),
    [
        ((7, 1, 1), 7, (1, 1)),  # a table
        ((3, 8, 8), 3, (8, 8)),
        ((12, 128, 1), 12, (128, 1)),  # signals
        ((8, 8, 1), 1, (8, 8)),
        ((8, 6, 4), 4, (8, 6)),
    ],
)
def test_position_of_the_channels(shape: tuple[int, ...], channels: int, size: tuple[int, int]) -> None:
    images = np.random.default_rng(1).random((6, *shape))
    read = from_arrays(images, np.arange(6) % 2, images, np.arange(6) % 2)
    assert (read.in_channels, read.image_size) == (channels, size)


def test_layouts_in_npz_files(tmp_path: Path) -> None:
    last = PIXELS.transpose(0, 2, 3, 1)
    arrays = {"train_images": last[:9], "train_labels": LABELS[:9], "test_images": last[9:], "test_labels": LABELS[9:]}
    np.savez(tmp_path / "mine.npz", **arrays)
    assert same(from_npz(tmp_path / "mine.npz"), REFERENCE)


def pil(pixels: np.ndarray[Any, Any]) -> Image.Image:
    return Image.fromarray(pixels.transpose(1, 2, 0))


@pytest.mark.parametrize(
    "image",
    [pil, lambda pixels: pixels, torch.as_tensor, lambda pixels: pixels.transpose(1, 2, 0)],
    ids=["PIL", "array", "tensor", "channels last"],
)
def test_from_map_style_data_set(image: Any) -> None:
    items = [(image(pixels), int(label)) for pixels, label in zip(PIXELS, LABELS, strict=True)]
    read = from_dataset(Items(items[:9], classes=["a", "b", "c"]), Items(items[9:]))
    assert same(read, REFERENCE)
    assert read.class_names == ("a", "b", "c")
    assert read.name == "Items"
    assert read.settings is None


def test_from_tensor_dataset() -> None:
    images, labels = torch.as_tensor(PIXELS) / 255, torch.as_tensor(LABELS)
    dataset = torch.utils.data.TensorDataset(images, labels)
    parts = [torch.utils.data.Subset(dataset, range(*span)) for span in ((0, 9), (9, 12))]
    read = from_dataset(*parts, name="mine", class_names="abc")
    torch.testing.assert_close(read.train_images, REFERENCE.train_images, rtol=0, atol=1e-5)


@pytest.mark.parametrize("columns", [("img", "fine_label"), ("picture", "kind")])
def test_from_columns(columns: tuple[str, str]) -> None:
    items = [{columns[0]: pil(pixels), columns[1]: int(label)} for pixels, label in zip(PIXELS, LABELS, strict=True)]
    features = {columns[1]: SimpleNamespace(names=["a", "b", "c"])}
    named = columns if columns[0] == "picture" else None
    read = from_dataset(Items(items[:9], features=features), Items(items[9:]), columns=named)
    assert same(read, REFERENCE)
    assert read.class_names == ("a", "b", "c")


def test_modes_of_pil_images() -> None:
    grey = [(Image.fromarray(pixels[0]), 0) for pixels in PIXELS]
    read = from_dataset(Items(grey), Items(grey))
    assert read.in_channels == 1
    alpha = [(pil(pixels).convert("RGBA"), int(label)) for pixels, label in zip(PIXELS, LABELS, strict=True)]
    assert same(from_dataset(Items(alpha[:9]), Items(alpha[9:])), REFERENCE)


@pytest.mark.parametrize(
    ("items", "message"),
    [
        ([], "train"),
        (iter([1]), "train"),
        ([(PIXELS[0], "cat")], r"train\[0\]"),
        ([(PIXELS[0], 0), (PIXELS[1, :, :4], 0)], r"train\[1\]"),
        ([PIXELS[0]], r"train\[0\]"),
        ([("cat.png", 0)], r"train\[0\]"),
        ([{"photo": PIXELS[0], "label": 0}], "columns"),
        ([(Image.new("I;16", (8, 8)), 0)], "8 bits"),
    ],
)
def test_invalid_items_are_refused(items: Any, message: str) -> None:
    with pytest.raises(InputError, match=message):
        from_dataset(Items(items) if isinstance(items, list) else items, Items([(PIXELS[0], 0)]))


def test_repr_and_html() -> None:
    assert repr(REFERENCE) == "Dataset(mine: 9 + 3 images 3×8×6 of 3 classes, normalise, cpu)"
    shown = REFERENCE._repr_html_()
    assert shown.startswith('<div><img src="data:image/png;base64,')
    assert "Dataset(mine" in shown
    rows = pydistill.data.from_table([[1.0], [2.0]], [0, 1], [[1.5]], [1], name="<people>")
    assert "<img" not in rows._repr_html_()
    assert "&lt;people&gt;" in rows._repr_html_()
