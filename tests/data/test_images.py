"""Images are turned, scaled and reduced to 8 bits as documented, within limits."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from pydistill.data import images
from pydistill.data.images import decode, formats
from pydistill.errors import FormatError
from tests.data.files import picture, pixels


def test_exif_orientation(tmp_path: Path) -> None:
    exif = Image.Exif()
    exif[0x0112] = 6  # the camera was turned: the image is to be rotated clockwise
    picture(0, 8, 6).save(tmp_path / "a.png", exif=exif)
    stored = pixels(picture(0, 8, 6))
    assert (decode(tmp_path / "a.png", "a", None, "RGB") == np.rot90(stored, -1, (1, 2))).all()
    assert (decode(tmp_path / "a.png", "a", None, "RGB", upright=False) == stored).all()


@pytest.mark.parametrize("ending", ["png", "tif"])
def test_16_bits_are_scaled_by_257(tmp_path: Path, ending: str) -> None:
    values = np.array([[0, 128, 129, 257], [385, 386, 65406, 65535]], dtype=np.uint16)
    Image.fromarray(values).save(tmp_path / f"a.{ending}")
    decoded = decode(tmp_path / f"a.{ending}", "a", None, "L", scale_16bit=True)
    assert decoded.tolist() == [[[0, 0, 1, 1], [1, 2, 254, 255]]]
    with pytest.raises(FormatError):
        decode(tmp_path / f"a.{ending}", "a", None, "L")


@pytest.mark.parametrize("size", [(300, 7), (7, 300), (64, 64)])
def test_long_images_are_cropped_before_scaling(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, size: tuple[int, int]
) -> None:
    smooth = picture(0, 3, 3).resize(size, Image.Resampling.BILINEAR)
    smooth.save(tmp_path / "a.png")
    expected = decode(tmp_path / "a.png", "a", 12, "RGB")
    monkeypatch.setattr(images, "MAX_PIXELS", 64 * 64)
    cropped = decode(tmp_path / "a.png", "a", 12, "RGB")
    assert cropped.shape == (3, 12, 12)
    assert np.abs(cropped.astype(int) - expected).max() <= 1


def test_a_strip_is_not_scaled_as_it_is(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    Image.new("RGB", (1, 100_000)).save(tmp_path / "a.png")
    sizes = []
    resize = Image.Image.resize

    def recorded(image: Image.Image, size: tuple[int, int], *rest: Any) -> Image.Image:
        sizes.append(size)
        return resize(image, size, *rest)

    monkeypatch.setattr(Image.Image, "resize", recorded)
    assert decode(tmp_path / "a.png", "a", 64, "RGB").shape == (3, 64, 64)
    assert sizes == [(64, 64)]


def test_formats() -> None:
    assert {".jpg", ".jfif", ".png", ".gif", ".tif", ".webp"} <= formats().keys()
    assert not {".eps", ".pdf", ".mpg", ".h5"} & formats().keys()
