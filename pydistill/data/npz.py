"""Read the arrays of a .npz file."""

from __future__ import annotations

import zipfile
import zlib
from pathlib import Path

import numpy as np

from pydistill._util.memory import check_memory_available
from pydistill.data.raw import ARRAYS, Layout, RawData, raw_from
from pydistill.errors import FormatError, InputError, SettingError


def read_npz(path: Path, layout: Layout) -> RawData:
    """Read the arrays of `from_arrays`, and class_names if the file has them; Python objects are not unpickled."""
    needed = f"data.name=tensors needs a .npz file with {', '.join(ARRAYS)}, which numpy.savez writes"
    if not path.is_file():
        raise SettingError("data.path", str(path), f"a .npz file with {', '.join(ARRAYS)}")
    if not zipfile.is_zipfile(path):  # np.load would treat it as a pickle and suggest to allow it
        raise FormatError(f"{path} is damaged or not a .npz file; {needed}")
    try:
        with np.load(path, allow_pickle=False) as archive:
            missing = [name for name in ARRAYS if name not in archive.files]
            if missing:
                raise InputError(f"{path} lacks {', '.join(missing)}; {needed}")
            size = sum(member.file_size for member in archive.zip.infolist())
            check_memory_available(size, f"reading {path}", "save fewer images, or as uint8")
            arrays = [archive[name] for name in ARRAYS]
            listed = archive["class_names"] if "class_names" in archive.files else None
            if listed is not None and listed.ndim != 1:
                raise InputError(f"{path} must have class_names [classes], not an array of {listed.ndim} dimensions")
            names = None if listed is None else tuple(map(str, listed))
    except InputError:
        raise
    except (ValueError, OSError, EOFError, zipfile.BadZipFile, zlib.error) as error:
        objects = "it holds Python objects, which are not unpickled; save arrays of numbers"
        reason = objects if "allow_pickle" in str(error) else error
        raise FormatError(f"{path} cannot be read as arrays: {reason}") from error
    return raw_from("tensors", names, *arrays, layout=layout)
