"""Which data, from where: the settings that a configuration file or the command line fills in."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from pydistill.errors import InputError

Pixels = Literal["auto", "bytes", "floats"]
PIXELS = ("auto", "bytes", "floats")
LARGEST_SIDE = 4096
"""Pixels; networks on larger images need more memory than any machine has."""


@dataclass(frozen=True)
class DataSettings:
    """Which data set, where it lies, and how it is preprocessed.

    Args:
        name: digits, cifar10, cifar100, fashion-mnist, svhn, tiny-imagenet, imagenette, imagewoof,
            imagefruit, imagemeow, imagesquawk, imageyellow, folder or tensors.
        path: the folder, archive or .npz file that holds it; the embedded digits need none.
        image_size: side in pixels to which images are resized and centre-cropped; the set's own by default.
        zca: ZCA-whiten instead of normalising per channel.
        download: let torchvision download what is missing (cifar10, cifar100, fashion-mnist, svhn).
        pixels: how pictures that come as bytes are kept: as bytes, in a quarter of the memory, each batch preprocessed
            when it is made; as floats, preprocessed once; or auto, which is bytes on a GPU unless they are whitened.
        cache: folder for unpacked data and ZCA matrices; $PYDISTILL_CACHE or ~/.cache/pydistill by default.

    Raises:
        InputError: image_size outside its limits.
    """

    name: str = "digits"
    path: str | None = None
    image_size: int | None = None
    zca: bool = False
    download: bool = False
    pixels: Pixels = "auto"
    cache: str | None = None

    def __post_init__(self) -> None:
        if self.image_size is not None and not 1 <= self.image_size <= LARGEST_SIDE:
            raise InputError(f"data.image_size={self.image_size} must be at least 1 pixel and at most {LARGEST_SIDE}")
