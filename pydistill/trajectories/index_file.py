"""Read, compare and replace the index file of a store, which one process writes at a time."""

from __future__ import annotations

import errno
import json
from pathlib import Path

from pydistill._util.files import read_json, remove_leftovers, write_json
from pydistill._util.layout import INDEX_NAME
from pydistill.errors import FormatError, InputError, MismatchError
from pydistill.trajectories.index import EXPERT_FILES, VERSION, StoreIndex


def write_index(folder: Path, index: StoreIndex) -> None:
    """Replace the folder's index atomically."""
    write_json(folder / INDEX_NAME, index.to_json())


def read_index(folder: Path) -> StoreIndex:
    """Read the folder's index.

    Raises:
        InputError: there is no index, or the path is too long.
        FormatError: the index is damaged, cannot be read, or has another version.
    """
    path = folder / INDEX_NAME
    try:
        value = read_json(path)
        version = value.get("version", VERSION) if isinstance(value, dict) else VERSION
        if version == VERSION:
            return StoreIndex.from_json(value, str(path))
    except FormatError as error:
        raise FormatError(f"{error}; put an intact {INDEX_NAME} back, or choose another folder") from error
    except (FileNotFoundError, NotADirectoryError) as error:
        reason = f"there is no {INDEX_NAME} in it" if folder.is_dir() else "there is no such folder"
        raise InputError(f"{folder} holds no trajectory store: {reason}; give a folder of trained experts") from error
    except OSError as error:
        kind = InputError if error.errno == errno.ENAMETOOLONG else FormatError
        raise kind(
            f"{folder} holds no trajectory store: {path} cannot be read ({error.strerror or error}); "
            "give a folder of trained experts"
        ) from error
    raise FormatError(f"{path} has version {version!r}; this version of pydistill reads {VERSION}")


def refuse_lost_index(folder: Path) -> None:
    """Raise an InputError if a folder has expert files but no index: new experts would replace them."""
    if next(folder.glob(EXPERT_FILES), None) is not None:
        raise InputError(
            f"{folder} holds expert files, but not their {INDEX_NAME}; put it back, choose another folder, or "
            "move these files elsewhere"
        )


def remove_temporary_files(folder: Path) -> None:
    """Delete the temporary files of killed writers; the caller must hold the folder's lock."""
    remove_leftovers(folder, (EXPERT_FILES, INDEX_NAME))


def check_same(stored: StoreIndex, new: StoreIndex, folder: Path) -> None:
    """Refuse to continue a store of other experts, or of the same experts under other settings.

    Raises:
        MismatchError: naming every difference and both sides.
    """
    for name in ("kind", "dtype", "convexification"):
        old_value, new_value = getattr(stored, name), getattr(new, name)
        if old_value != new_value:
            raise MismatchError(
                f"the store at {folder} and this run do not agree: {name} is {old_value} in the store and "
                f"{new_value} in this run; choose another folder"
            )
    try:
        stored.record.check(new.record, sides=(f"the store at {folder}", "this run"), training=True)
    except MismatchError as error:
        raise MismatchError(
            f"{error}; choose another folder, or give the data, the model and the training of those experts"
        ) from error


def through_json(index: StoreIndex) -> StoreIndex:
    """Return the index as `read_index` returns it, with lists instead of tuples.

    Raises:
        InputError: the record's training settings are not JSON-able.
    """
    try:
        value = json.loads(json.dumps(index.to_json(), allow_nan=False))
    except (TypeError, ValueError) as error:
        raise InputError(f"the record's training settings must be JSON-able: {error}") from error
    return StoreIndex.from_json(value, "the index")
