"""From settings to a data set."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import torch

from pydistill._util.devices import usable_device
from pydistill.data.cache import cache_folder
from pydistill.data.dataset import Dataset, prepare
from pydistill.data.folders import FolderLayout, read_folder
from pydistill.data.imagenet import SUBSETS
from pydistill.data.npz import read_npz
from pydistill.data.raw import RawData
from pydistill.data.settings import PIXELS, STATISTICS, DataSettings
from pydistill.data.sklearn_digits import read_digits
from pydistill.data.statistics import published_normalisation
from pydistill.data.vision import LAYOUTS, read_vision
from pydistill.errors import InputError

NAMES = ("digits", *LAYOUTS, "tiny-imagenet", *SUBSETS, "folder", "tensors")
"""The values of DataSettings.name."""


def load(settings: DataSettings, device: torch.device | str = "cpu") -> Dataset:
    """Read a data set onto a device and fit its preprocessing, which is applied to all images now or to each batch.

    Image files are decoded once and kept in the cache as bytes; a fitted ZCA is kept there too.

    Args:
        settings: which, from where, and how its pictures are kept.
        device: where its tensors shall be; on the CPU `auto` keeps floats.

    Raises:
        InputError: the name is unknown, files are missing (the message says which setting to give), or the
            data are unsound, or there is no such device.
        FormatError: a file is damaged; the message names it.
        MissingDependencyError: an optional package is needed; the message names it.
    """
    device = usable_device(device)
    cache = cache_folder(settings.cache)
    if settings.pixels not in PIXELS:
        raise InputError(f"data.pixels must be one of {', '.join(PIXELS)}, not {settings.pixels!r}")
    if settings.statistics not in STATISTICS:
        raise InputError(f"data.statistics must be one of {', '.join(STATISTICS)}, not {settings.statistics!r}")
    if settings.statistics == "published" and settings.zca:
        raise InputError("data.statistics=published is a normalisation and data.zca=true whitens instead; give one")
    normalise = published_normalisation(settings.name) if settings.statistics == "published" else None
    raw = read(settings, cache)
    # Whitening is a product with a [D, D] matrix, which is not worth repeating for memory that nobody asked to save.
    wanted = device.type == "cuda" and not settings.zca and raw.train_images.dtype == torch.uint8
    as_bytes = wanted if settings.pixels == "auto" else settings.pixels == "bytes"
    prepared = prepare(raw, zca=settings.zca, normalise=normalise, cache=cache, as_bytes=as_bytes)
    return replace(prepared.to(device), settings=settings)


def read(settings: DataSettings, cache: Path) -> RawData:
    """The data set as it came, before any preprocessing; raises what `load` raises."""
    name, size = settings.name, settings.image_size
    if name not in NAMES:
        raise InputError(f"data.name={name!r} is none of {', '.join(NAMES)}")
    path = None if settings.path is None else Path(settings.path).expanduser()
    if name in SUBSETS:
        return read_folder(
            _given(path, name),
            name,
            FolderLayout(SUBSETS[name], 128 if size is None else size, test=("val", "test")),
            cache,
        )
    if name == "tiny-imagenet":
        layout = FolderLayout(
            image_size=64 if size is None else size, test=("val", "test"), notes=("val_annotations.txt", "words.txt")
        )
        return read_folder(_given(path, name), name, layout, cache)
    if name == "folder" or (path is not None and name not in ("digits", "tensors") and _is_image_folder(path)):
        layout = FolderLayout(image_size=size, mode="L" if name == "fashion-mnist" else "RGB")
        return read_folder(_given(path, name), name, layout, cache)
    if size is not None:
        raise InputError(f"data.image_size={size} applies to image files only, and {name} here is none; leave it out")
    if name == "digits":
        if path is not None:
            raise InputError(
                f"data.name=digits comes with scikit-learn and reads no data.path={path}; leave data.path out, or give "
                "data.name the data set that lies there"
            )
        return read_digits()
    if name == "tensors":
        return read_npz(_given(path, name))
    if path is not None and not path.exists() and not settings.download:
        raise InputError(f"data.path={path} does not exist; give the folder or archive that holds {name}")
    return read_vision(name, path or cache / "torchvision", download=settings.download)


def _given(path: Path | None, name: str) -> Path:
    if path is None:
        what = "a .npz file" if name == "tensors" else "the folder or archive (tar, zip) that holds its images"
        raise InputError(f"data.name={name} needs data.path: {what}")
    return path


def _is_image_folder(path: Path) -> bool:
    """Whether a data set that also comes in torchvision's layout is given as image files."""
    return path.is_file() or (path / "train").is_dir()
