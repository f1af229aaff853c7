"""The index file of a store: read, compared, and changed by one process at a time."""

from __future__ import annotations

import errno
import json
from pathlib import Path
from typing import Any

from pydistill._util.files import read_json, write_json
from pydistill._util.layout import INDEX_NAME
from pydistill.errors import FormatError, InputError, MismatchError
from pydistill.trajectories.index import EXPERT_FILES, StoreIndex, VersionError


def write_index(folder: Path, index: StoreIndex) -> None:
    """Replace the folder's index, atomically."""
    write_json(folder / INDEX_NAME, index.to_json())


def read_index(folder: Path) -> StoreIndex:
    """The folder's index.

    Raises:
        InputError: there is none, or the path is too long.
        FormatError: damaged, or of a newer version.
    """
    path = folder / INDEX_NAME
    remedy = f"put an intact {INDEX_NAME} back, or choose another folder"
    try:
        value = read_json(path)
        json.dumps(value, allow_nan=False)
        return StoreIndex.from_json(value, str(path))
    except VersionError:
        raise
    except FormatError as error:
        raise FormatError(f"{error}; {remedy}") from error
    except ValueError as error:
        raise FormatError(f"{path} holds NaN or infinity, which an index never does; {remedy}") from error
    except (FileNotFoundError, NotADirectoryError) as error:
        told = f"there is no {INDEX_NAME} in it" if folder.is_dir() else "there is no such folder"
        raise InputError(
            f"{folder} holds no trajectory store: {told}; give the folder of one, which `pydistill experts` makes"
        ) from error
    except OSError as error:
        kind = InputError if error.errno == errno.ENAMETOOLONG else FormatError
        raise kind(
            f"{folder} holds no trajectory store: {path} cannot be read ({error.strerror or error}); "
            "`pydistill experts` makes one"
        ) from error


def refuse_lost_index(folder: Path) -> None:
    """InputError if experts' files lie in a folder without an index: new experts would take their places."""
    if next(folder.glob(EXPERT_FILES), None) is not None:
        raise InputError(
            f"{folder} holds files of experts, and the {INDEX_NAME} that belongs to them is gone; put it back, choose "
            "another folder, or move these files elsewhere"
        )


def remove_leftovers(folder: Path) -> None:
    """Delete what killed writers left under temporary names; call it while the folder is locked."""
    for pattern in (f".{EXPERT_FILES}.*.tmp", f".{INDEX_NAME}.*.tmp"):
        for path in folder.glob(pattern):
            path.unlink()


def check_same(found: StoreIndex, wanted: StoreIndex, folder: Path) -> None:
    """Refuse to continue a store of other experts, or of the same under other settings.

    Raises:
        MismatchError: naming what differs and both sides.
    """
    for name in ("kind", "dtype", "convexification"):
        mine, theirs = getattr(found, name), getattr(wanted, name)
        if mine != theirs:
            raise MismatchError(
                f"the store at {folder} and this run do not agree: {name} is {mine} there and {theirs} here; "
                "choose another folder"
            )
    try:
        found.record.check(wanted.record, sides=(f"the store at {folder}", "this run"), training=True)
    except MismatchError as error:
        raise MismatchError(
            f"{error}; choose another folder with --out, or give the data, the model and the training of those experts"
        ) from error


def through_json(index: StoreIndex) -> StoreIndex:
    """The index as it will be read back: tuples have become lists, and what JSON cannot hold is refused.

    Raises:
        InputError: the record's training settings are not json-able, or one of its fields is outside its limits.
    """
    try:
        value: Any = json.loads(json.dumps(index.to_json(), allow_nan=False))
    except (TypeError, ValueError) as error:
        raise InputError(f"the record's training settings must be json-able: {error}") from error
    try:
        return StoreIndex.from_json(value, "record")
    except FormatError as error:
        raise InputError(str(error)) from error
