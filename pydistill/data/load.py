"""Load a data set from its settings."""

from __future__ import annotations

import logging
from dataclasses import replace
from pathlib import Path

import torch

from pydistill._util.devices import usable_device
from pydistill.data.cache import cache_folder
from pydistill.data.dataset import Dataset, prepare
from pydistill.data.folders import FolderLayout, read_folder
from pydistill.data.imagenet import SUBSETS
from pydistill.data.npz import read_npz
from pydistill.data.raw import RawData, log_contents
from pydistill.data.settings import DataSettings
from pydistill.data.sklearn_digits import read_digits
from pydistill.data.statistics import published_normalisation
from pydistill.data.vision import SOURCES, read_vision
from pydistill.errors import SettingError

_OF_IMAGE_FILES = ("image_size", "channels", "split", "scale_16bit", "skip_broken")
_log = logging.getLogger("pydistill")


def load(settings: DataSettings, device: torch.device | str | None = "cpu") -> Dataset:
    """Read a data set onto a device and fit its preprocessing, which is applied now or batch by batch.

    The cache stores decoded image files as bytes, and fitted ZCA matrices.

    Args:
        settings: of the data set, its preprocessing and its storage.
        device: of its tensors; None: a GPU if there is one. `pixels="auto"` stores floats on the CPU.

    Raises:
        InputError: files are missing (the message names the setting to change), the data are invalid, or the device
            does not exist.
        FormatError: a file is damaged; the message names it.
        MissingDependencyError: an optional package is needed; the message names it.
    """
    device = usable_device(device)
    settings = settings.absolute()
    cache = cache_folder(settings.cache)
    normalise = published_normalisation(settings.name) if settings.statistics == "published" else None
    raw = read(settings, cache)
    log_contents(settings.title, raw.class_names, raw.train_labels, raw.test_labels, raw.train_images.shape[1:])
    for note in raw.notes:
        _log.warning("%s: %s", settings.title, note)
    as_bytes = settings.pixels == "bytes"
    if settings.pixels == "auto":  # whitening every batch costs far more time than storing floats costs memory
        as_bytes = device.type == "cuda" and not settings.zca and raw.train_images.dtype == torch.uint8
    prepared = prepare(raw, zca=settings.zca, normalise=normalise, cache=cache, as_bytes=as_bytes)
    return replace(prepared.to(device), name=settings.title, settings=settings)


def read(settings: DataSettings, cache: Path) -> RawData:
    """Read a data set before any preprocessing; raises what `load` raises."""
    name = settings.name
    path = None if settings.path is None else Path(settings.path).expanduser()
    layout = _folder_layout(settings, path)
    unused = {} if layout else dict.fromkeys(_OF_IMAGE_FILES, "image files")
    if name != "tensors":
        unused["layout"] = "a .npz file"
    for option, source in unused.items():
        value = getattr(settings, option)
        if value != getattr(DataSettings, option):
            raise SettingError(f"data.{option}", value, f"left out for {name}, which is not read from {source}")
    if layout is not None:
        return read_folder(_required(path, name), name, layout, cache)
    if name == "digits":
        if path is not None:
            raise SettingError("data.path", str(path), "left out for digits, which come with scikit-learn")
        return read_digits()
    if name == "tensors":
        return read_npz(_required(path, name), settings.layout)
    if path is not None and not path.exists() and not settings.download:
        raise SettingError("data.path", str(path), f"the folder or archive that holds {name}", "it does not exist")
    return read_vision(name, path or cache / "torchvision", download=settings.download)


def _folder_layout(settings: DataSettings, path: Path | None) -> FolderLayout | None:
    """Return the options for reading a data set of image files; None for other data sets."""
    name, size = settings.name, settings.image_size
    if name in SUBSETS:
        layout = FolderLayout(SUBSETS[name], 128 if size is None else size, test=("val", "test"))
    elif name == "tiny-imagenet":
        layout = FolderLayout(image_size=64 if size is None else size, test=("val", "test"), tiny_imagenet=True)
    elif name == "folder" or (name in SOURCES and path is not None and (path.is_file() or (path / "train").is_dir())):
        layout = FolderLayout(image_size=size)
    else:
        return None
    channels = settings.channels or (1 if name == "fashion-mnist" else 3)
    return replace(
        layout,
        mode="L" if channels == 1 else "RGB",
        split=settings.split,
        scale_16bit=settings.scale_16bit,
        skip_broken=settings.skip_broken,
    )


def _required(path: Path | None, name: str) -> Path:
    if path is None:
        allowed = "a .npz file" if name == "tensors" else "the folder or archive (tar, zip) that holds the images"
        raise SettingError("data.path", None, f"{allowed} for {name}")
    return path
