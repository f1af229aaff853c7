"""PNG files: what another reader finds in them, and what is refused."""

from __future__ import annotations

import io

import pytest
import torch

from pydistill._util.png import png_bytes, tile
from pydistill.errors import InputError


@pytest.mark.parametrize("channels", [1, 3])
@pytest.mark.parametrize(("height", "width"), [(1, 1), (1, 7), (5, 1), (6, 11)])
def test_another_reader_finds_the_pixels(channels: int, height: int, width: int) -> None:
    image = pytest.importorskip("PIL.Image")
    pixels = torch.randint(0, 256, (channels, height, width), dtype=torch.uint8)
    for given in (pixels, pixels.float() / 255, pixels.double() / 255):
        with image.open(io.BytesIO(png_bytes(given))) as found:
            found.verify()  # the checksums of all parts
        found = image.open(io.BytesIO(png_bytes(given)))
        assert found.size == (width, height)
        assert found.tobytes() == bytes(pixels.permute(1, 2, 0).flatten().tolist())


def test_numbers_beyond_the_range_are_clamped() -> None:
    image = pytest.importorskip("PIL.Image")
    found = image.open(io.BytesIO(png_bytes(torch.tensor([[[-1.0, 0.5, 2.0]]]))))
    assert list(found.tobytes()) == [0, 128, 255]


@pytest.mark.parametrize("shape", [(2, 4, 4), (4, 4), (3, 0, 4)])
def test_what_is_no_picture(shape: tuple[int, ...]) -> None:
    with pytest.raises(InputError, match=r"a PNG file holds an image \[1, H, W\] or \[3, H, W\]"):
        png_bytes(torch.zeros(shape))


def test_tiles_wrap_after_twenty_columns() -> None:
    images = torch.arange(42.0)[:, None, None, None].expand(42, 1, 2, 3)  # 21 classes of two
    sheet = tile(images, 21)
    assert list(sheet.shape) == [1, 2 * 2 * 4, 20 * 5]
    assert float(sheet[0, 5, 6]) == 3.0  # row 1 of class 1
    assert float(sheet[0, 9, 1]) == 40.0  # class 20 begins the second band
    assert float(sheet[0, 9, 6]) == 1.0  # beside it nothing but white
