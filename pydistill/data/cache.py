"""What is computed once and kept: data sets unpacked into byte arrays, and fitted ZCA matrices.

The cache can be deleted at any time; everything in it is made again from the data. A damaged entry is made
again too, with a warning.
"""

from __future__ import annotations

import hashlib
import json
import os
import warnings
from collections.abc import Callable
from pathlib import Path

from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor

from pydistill._util.files import atomic_path
from pydistill.data.preprocessing import Preprocessing
from pydistill.data.raw import RawData
from pydistill.data.zca import Zca
from pydistill.errors import FormatError, InputError

ZCA_EPS = 0.1
ARRAYS = ("train_images", "train_labels", "test_images", "test_labels")


def cache_folder(given: str | None) -> Path:
    """The cache folder: the one given, else $PYDISTILL_CACHE, else ~/.cache/pydistill. It need not exist
    yet."""
    return Path(given or os.environ.get("PYDISTILL_CACHE") or "~/.cache/pydistill").expanduser()


def cached_raw(key: str, name: str, cache: Path, make: Callable[[], RawData]) -> RawData:
    """A data set's arrays, found in `cache` or made now and put there.

    Args:
        key: a text that two requests share exactly if they mean the same arrays.
        name: of the data set; part of the entry's file name.
        make: reads the data set; called if there is no sound entry.
    """
    path = (
        cache / "data" / f"{name}-{hashlib.sha256(key.encode(errors='surrogateescape')).hexdigest()[:32]}.safetensors"
    )
    if path.is_file():
        try:
            return _load_raw(path)
        except (FormatError, InputError) as error:
            _warn_of_damage(path, error)
    raw = make()
    header = {"name": raw.name, "class_names": json.dumps(raw.class_names), "digest": raw.digest}
    with atomic_path(path) as temporary:
        save_file({array: getattr(raw, array) for array in ARRAYS}, temporary, header)
    return raw


def cached_zca(train_images: Tensor, source: str, cache: Path, eps: float = ZCA_EPS) -> Zca:
    """The ZCA of training images whose digest is `source`, fitted now or found in `cache`."""
    path = cache / "zca" / f"{source[:32]}-{eps:g}.safetensors"
    if path.is_file():
        try:
            stored = Preprocessing.load(path)
            if isinstance(stored, Zca) and (stored.source, stored.eps) == (source, eps):
                return stored
            raise FormatError("it belongs to other data")
        except FormatError as error:
            _warn_of_damage(path, error)
    fitted = Zca.fit(train_images, eps, source=source)
    fitted.save(path)
    return fitted


def _load_raw(path: Path) -> RawData:
    try:
        with safe_open(path, framework="pt") as handle:
            header = handle.metadata() or {}
            tensors = {array: handle.get_tensor(array) for array in ARRAYS}
        raw = RawData(header["name"], tuple(json.loads(header["class_names"])), **tensors)
    except (SafetensorError, KeyError, ValueError) as error:
        raise FormatError(f"it cannot be read ({error})") from error
    if raw.digest != header.get("digest"):
        raise FormatError("its content does not have the digest that it had when it was written")
    return raw


def _warn_of_damage(path: Path, error: Exception) -> None:
    warnings.warn(f"the cache entry {path} is damaged and is made again: {error}", stacklevel=3)
