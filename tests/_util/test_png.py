"""PNG files and sheets of images."""

from __future__ import annotations

import io
import sys

import pytest
import torch

from pydistill._util import png
from pydistill._util.png import png_bytes, tile
from pydistill.errors import InputError, MissingDependencyError


@pytest.mark.parametrize("channels", [1, 3])
@pytest.mark.parametrize("dtype", [torch.uint8, torch.float32, torch.float64])
def test_png_round_trip(channels: int, dtype: torch.dtype) -> None:
    image = pytest.importorskip("PIL.Image")
    pixels = torch.randint(0, 256, (channels, 6, 11), dtype=torch.uint8)
    levels = pixels if dtype == torch.uint8 else pixels.to(dtype) / 255
    opened = image.open(io.BytesIO(png_bytes(levels)))
    assert opened.size == (11, 6)
    assert opened.tobytes() == bytes(pixels.permute(1, 2, 0).flatten().tolist())


def test_values_outside_the_range_are_clamped() -> None:
    image = pytest.importorskip("PIL.Image")
    opened = image.open(io.BytesIO(png_bytes(torch.tensor([[[-1.0, 0.5, 2.0]]]))))
    assert list(opened.tobytes()) == [0, 128, 255]


@pytest.mark.parametrize("shape", [(2, 4, 4), (4, 4), (3, 0, 4)])
def test_other_shapes_are_refused(shape: tuple[int, ...]) -> None:
    with pytest.raises(InputError):
        png_bytes(torch.zeros(shape))


def test_without_pillow(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "PIL", None)
    with pytest.raises(MissingDependencyError, match="pip install pillow"):
        png_bytes(torch.zeros(1, 2, 2))


def test_tiles_wrap_after_twenty_columns() -> None:
    images = torch.arange(42.0)[:, None, None, None].expand(42, 1, 2, 3)  # 21 classes of two
    sheet = tile(images, 21)
    assert list(sheet.shape) == [1, 2 * 2 * 4, 20 * 5]
    assert float(sheet[0, 5, 6]) == 3.0  # row 1 of class 1
    assert float(sheet[0, 9, 1]) == 40.0  # class 20 begins the second band
    assert float(sheet[0, 9, 6]) == 1.0  # the rest of the band is white


@pytest.mark.parametrize("channels", [1, 2, 3])
def test_sheet_shows_the_first_images_of_every_class(channels: int, monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("PIL")
    images = torch.rand(6, channels, 4, 5)
    monkeypatch.setattr(png, "SHEET_PIXELS", 4 * 5 * 3)
    assert png.html_sheet(images, 3, "x") == png.html_sheet(images[::2], 3, "x")
    monkeypatch.setattr(png, "SHEET_PIXELS", 1)
    assert png.html_sheet(images, 3, "x") == png.html_sheet(images[:1], 1, "x")
    assert png.html_sheet(images, 3, "x").startswith('<div><img src="data:image/png;base64,')


def test_sheet_of_a_table_or_without_pillow_is_text(monkeypatch: pytest.MonkeyPatch) -> None:
    assert png.html_sheet(torch.rand(2, 7, 1, 1), 2, "<rows>") == "<div><code>&lt;rows&gt;</code></div>"
    monkeypatch.setitem(sys.modules, "PIL", None)
    assert png.html_sheet(torch.rand(2, 1, 4, 4), 2, "text") == "<div><code>text</code></div>"
