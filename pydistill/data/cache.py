"""Cache data sets decoded into byte arrays, and fitted ZCA matrices.

The folder can be deleted at any time: its entries are recomputed from the data. A damaged entry is replaced with a
warning.
"""

from __future__ import annotations

import hashlib
import os
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

from torch import Tensor

from pydistill._util.files import remove_leftovers
from pydistill._util.tensor_file import read_tensors, write_tensors
from pydistill.data.preprocessing import Preprocessing
from pydistill.data.raw import ARRAYS, RawData
from pydistill.data.zca import Zca
from pydistill.errors import FormatError, InputError

FORMAT = 1
KEY = "pydistill.cache"
DAY = 24 * 3600.0
_ZCA_EPS = 0.1


def cache_folder(folder: str | None) -> Path:
    """Return the cache folder: `folder`, else $PYDISTILL_CACHE, else ~/.cache/pydistill. It may not exist yet."""
    return Path(folder or os.environ.get("PYDISTILL_CACHE") or "~/.cache/pydistill").expanduser()


def cached_raw(key: str, name: str, cache: Path, read: Callable[[], RawData]) -> RawData:
    """Return a data set's arrays from `cache`, reading and storing them first if there is no intact entry.

    Args:
        key: a string that is equal for two requests exactly if their arrays are.
        name: part of the entry's file name.
    """
    digest = hashlib.sha256(key.encode(errors="surrogateescape")).hexdigest()
    path = cache / "data" / f"{name}-{digest[:32]}.safetensors"
    if path.is_file():
        try:
            return _load_raw(path)
        except (FormatError, InputError) as error:
            _warn_of_damage(path, error)
    raw = read()
    header = {"format": FORMAT, "name": raw.name, "class_names": raw.class_names, "notes": raw.notes}
    _write(path, header, {array: getattr(raw, array) for array in ARRAYS})
    return raw


def cached_zca(train_images: Tensor, source: str, cache: Path, eps: float = _ZCA_EPS) -> Zca:
    """Return the ZCA of training images with the digest `source` from `cache`, fitting and storing it if necessary."""
    path = cache / "preprocessing" / f"zca-{source[:32]}-{eps:g}.safetensors"
    if path.is_file():
        try:
            header, tensors = read_tensors(path, KEY, FORMAT, "a cached ZCA")
            stored = Preprocessing.from_state(header, tensors)
            if isinstance(stored, Zca) and (stored.source, stored.eps) == (source, eps):
                return stored
            raise FormatError("it belongs to other data")
        except FormatError as error:
            _warn_of_damage(path, error)
    fitted = Zca.fit(train_images, eps, source=source)
    values, tensors = fitted.state()
    _write(path, {"format": FORMAT, **values}, tensors)
    return fitted


def _write(path: Path, header: dict[str, Any], tensors: dict[str, Tensor]) -> None:
    """Write an entry; remove what killed writers left. The cache has no lock, but no write takes a day."""
    remove_leftovers(path.parent, ("*.safetensors",), of_safetensors=True, older_than=DAY)
    write_tensors(path, KEY, header, tensors)


def _load_raw(path: Path) -> RawData:
    header, tensors = read_tensors(path, KEY, FORMAT, "a cached data set")
    try:
        return RawData(header["name"], tuple(header["class_names"]), **tensors, notes=tuple(header["notes"]))
    except (KeyError, TypeError) as error:
        raise FormatError(f"{path} is damaged ({error})") from error


def _warn_of_damage(path: Path, error: Exception) -> None:
    warnings.warn(f"the cache entry {path} is damaged and will be replaced: {error}", stacklevel=3)
