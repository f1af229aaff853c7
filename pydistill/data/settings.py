"""Settings of a data set and its preprocessing."""

from __future__ import annotations

import os
import re
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Literal

from pydistill._util.files import check_utf8
from pydistill._util.settings import Settings, setting
from pydistill.data.imagenet import SUBSETS
from pydistill.data.raw import Layout
from pydistill.data.statistics import PUBLISHED
from pydistill.data.vision import SOURCES
from pydistill.errors import SettingError

Pixels = Literal["auto", "bytes", "floats"]
Statistics = Literal["measured", "published"]
NAMES = ("digits", *SOURCES, "tiny-imagenet", *SUBSETS, "folder", "tensors")
_LARGEST_SIDE = 4096
"""Maximum side in pixels; networks on larger images need more memory than any machine has."""


@dataclass(frozen=True)
class DataSettings(Settings):
    """Settings of a data set: its name, its path, its preprocessing and its storage.

    `statistics` selects the mean and standard deviation of the normalisation: measured on the training images, or the
    constants of MTT's code and its descendants, with which their experts were trained (docs/compat.md).

    `pixels` selects the storage of uint8 images: as bytes, in a quarter of the memory, with every batch preprocessed
    when it is made; or as floats, preprocessed once. auto means bytes on a GPU unless the images are whitened.
    """

    name: str = setting("digits", ", ".join(NAMES))
    path: str | None = setting(None, "the folder, archive or .npz file of the data; the built-in digits need none")
    image_size: int | None = setting(
        None,
        "side in pixels to which images are resized and centre-cropped; null for the data set's own",
        at_least=1,
        at_most=_LARGEST_SIDE,
    )
    zca: bool = setting(False, "ZCA-whiten instead of normalising per channel")
    statistics: Statistics = setting("measured", "mean and deviation of the normalisation: measured or published")
    download: bool = setting(False, "let torchvision download what is missing (cifar10, cifar100, fashion-mnist, svhn)")
    pixels: Pixels = setting("auto", "how images are stored in memory: auto, bytes or floats")
    split: float | None = setting(
        None,
        "share of the images of every class that is set aside for testing, for image files without test/",
        above=0,
        below=1,
    )
    channels: int | None = setting(
        None, "of image files: 1 for grey, 3 for colour; null for 3, or 1 for fashion-mnist", at_least=1, at_most=3
    )
    scale_16bit: bool = setting(False, "convert 16-bit grey image files to 8 bits instead of refusing them")
    skip_broken: bool = setting(False, "pass over image files that cannot be decoded instead of refusing them")
    layout: Layout = setting("auto", "axes of a .npz file's images: nchw, nhwc, or auto to decide by the shape")
    cache: str | None = setting(
        None, "folder for unpacked data and ZCA matrices; null for $PYDISTILL_CACHE or ~/.cache/pydistill"
    )

    @property
    def title(self) -> str:
        """The name of the data set; of folders and .npz files, their own name without endings such as .tar.gz."""
        if self.path is None or self.name not in ("folder", "tensors"):
            return self.name
        name = os.path.basename(os.path.abspath(self.path))
        return re.sub(r"(\.(npz|zip|tar|tgz|gz|xz|bz2))+$", "", name) or self.name

    def absolute(self) -> DataSettings:
        """Return the settings with absolute paths, which hold in any working directory.

        Raises:
            InputError: a path is not UTF-8.
        """
        paths = {}
        for name in ("path", "cache"):
            if (path := getattr(self, name)) is not None:
                paths[name] = str(Path(path).expanduser().absolute())
                check_utf8(paths[name])
        return replace(self, **paths)  # type: ignore[arg-type]

    def _check(self) -> None:
        if self.name not in NAMES:
            raise SettingError("name", self.name, f"one of {', '.join(NAMES)}")
        if self.channels == 2:
            raise SettingError("channels", self.channels, "1, 3 or null")
        if self.statistics == "published" and self.zca:
            allowed = "measured with zca, which whitens instead of normalising"
            raise SettingError("statistics", self.statistics, allowed)
        if self.statistics == "published" and self.name not in PUBLISHED:
            allowed = f"measured for {self.name}, as there are published numbers for {', '.join(PUBLISHED)} only"
            raise SettingError("statistics", self.statistics, allowed)
