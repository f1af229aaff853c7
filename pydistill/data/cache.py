"""What is computed once and kept: data sets unpacked into byte arrays, and fitted ZCA matrices.

The cache can be deleted at any time; everything in it is made again from the data. A damaged entry is made
again, with a warning.
"""

from __future__ import annotations

import os
import warnings
from pathlib import Path

from torch import Tensor

from pydistill.data.preprocessing import Preprocessing
from pydistill.data.zca import Zca
from pydistill.errors import FormatError

ZCA_EPS = 0.1


def cache_folder(given: str | None) -> Path:
    """The cache folder: the one given, else $PYDISTILL_CACHE, else ~/.cache/pydistill. It need not exist
    yet."""
    return Path(
        given or os.environ.get("PYDISTILL_CACHE") or Path.home() / ".cache" / "pydistill"
    ).expanduser()


def cached_zca(train_images: Tensor, source: str, cache: Path, eps: float = ZCA_EPS) -> Zca:
    """The ZCA of training images whose digest is `source`, fitted now or found in `cache`."""
    path = cache / "zca" / f"{source[:32]}-{eps:g}.safetensors"
    if path.is_file():
        try:
            stored = Preprocessing.load(path)
            if isinstance(stored, Zca) and (stored.source, stored.eps) == (source, eps):
                return stored
            raise FormatError(f"{path} belongs to other data")
        except FormatError as error:
            warnings.warn(f"making a damaged cache entry again: {error}", stacklevel=2)
    fitted = Zca.fit(train_images, eps, source=source)
    fitted.save(path)
    return fitted
