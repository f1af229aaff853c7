"""Arrays of your own in one .npz file."""

from __future__ import annotations

import zipfile
import zlib
from pathlib import Path

import numpy as np

from pydistill.data.raw import RawData, raw_from
from pydistill.errors import FormatError, InputError

SINGLE = b"\x93NUMPY"  # how a .npy file begins
ARRAYS = ("train_images", "train_labels", "test_images", "test_labels")


def read_npz(path: Path) -> RawData:
    """A data set from train_images, train_labels, test_images, test_labels, and class_names if the file has
    them.

    Images are [n, C, H, W], uint8 0 … 255 or floating point in [0, 1]; labels [n] whole numbers from 0.

    Raises:
        InputError: there is no such file, it lacks an array, or the arrays are unsound.
        FormatError: it is no .npz file, is damaged, or holds Python objects (which are not unpickled).
    """
    if not path.is_file():
        raise InputError(
            f"data.path={str(path)!r} is no file; data.name=tensors needs a .npz file with {', '.join(ARRAYS)}"
        )
    try:
        with open(path, "rb") as handle:
            if handle.read(len(SINGLE)) == SINGLE:
                raise FormatError(
                    f"{path} holds a single array; data.name=tensors needs a .npz file with {', '.join(ARRAYS)}"
                )
            if not zipfile.is_zipfile(handle):  # np.load would take it for a pickle, and advise to run it
                raise FormatError(
                    f"{path} is no readable .npz file, or a part of one; data.name=tensors needs one with "
                    f"{', '.join(ARRAYS)}, which numpy.savez writes"
                )
            handle.seek(0)
            archive = np.load(handle, allow_pickle=False)
            missing = [name for name in ARRAYS if name not in archive.files]
            if missing:
                raise InputError(f"{path} lacks {', '.join(missing)}; it must hold {', '.join(ARRAYS)}")
            arrays = [archive[name] for name in ARRAYS]
            names = [str(name) for name in archive["class_names"]] if "class_names" in archive.files else None
    except (FormatError, InputError):
        raise
    except (ValueError, OSError, EOFError, zipfile.BadZipFile, zlib.error) as error:
        objects = "it holds Python objects, which are not unpickled; save arrays of numbers"
        why = objects if "allow_pickle" in str(error) else error
        raise FormatError(f"{path} is no readable .npz file of arrays: {why}") from error
    return raw_from("tensors", None if names is None else tuple(names), *arrays)
