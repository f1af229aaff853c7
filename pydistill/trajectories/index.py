"""The index of a trajectory store: its entries, its file, and the writing of an expert with its entry."""

from __future__ import annotations

import errno
import json
import math
import re
from collections.abc import Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from torch import Tensor

from pydistill._util.files import read_json, sha256_of, write_json
from pydistill._util.layout import INDEX_NAME
from pydistill._util.locking import only_writer
from pydistill._util.tensor_file import tensor_sha256, write_tensors
from pydistill.errors import FormatError, InputError, MismatchError
from pydistill.trajectories._json import from_json
from pydistill.trajectories.expert_file import DTYPES, KEY
from pydistill.trajectories.record import ExpertsRecord

_FORMAT = "pydistill-trajectories"
VERSION = 1
_KINDS = ("recorded", "convexified")
_EXPERT_FILES = "expert_*.safetensors"  # a shell pattern
_SHA256 = re.compile(r"[0-9a-f]{64}")


def file_name(number: int) -> str:
    """Return the file name of expert `number`."""
    return f"expert_{number:04d}.safetensors"


@dataclass(frozen=True)
class ExpertEntry:
    """The index entry of one expert.

    Attributes:
        file: name inside the store's folder, never a path.
        bytes, sha256: size and hash of the file.
        rows_sha256: hash of every row of `snapshots` or `waypoints`.
        waypoint_epochs, fractions_sha256: of a convexified expert; else empty.
        accuracies: name → one value per epoch, for example "test".
        details: other JSON-able values, for example the expert's seed.

    Raises:
        InputError: the size is below 1, a hash is malformed, or an accuracy is not finite.
    """

    file: str
    bytes: int
    sha256: str
    rows_sha256: tuple[str, ...]
    waypoint_epochs: tuple[int, ...] = ()
    fractions_sha256: str = ""
    accuracies: dict[str, list[float]] = field(default_factory=dict)
    details: dict[str, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        if self.bytes < 1:
            raise InputError(f"'bytes' is {self.bytes}, which is not the size of a file")
        hashes = (self.sha256, *self.rows_sha256, *([self.fractions_sha256] if self.waypoint_epochs else []))
        if not all(_SHA256.fullmatch(text) for text in hashes):
            raise InputError("a hash is not 64 hexadecimal digits")
        if not all(math.isfinite(value) for values in self.accuracies.values() for value in values):
            raise InputError("'accuracies' must be finite numbers")


@dataclass
class StoreIndex:
    """The content of `index.json`.

    Attributes:
        record: the network, data and training of the experts.
        kind: recorded or convexified.
        dtype: of the stored rows: float32, bfloat16 or float64.
        convexification: settings of convexified experts (waypoints, smoothing, fractions); else empty.
        experts: by expert number.

    Raises:
        InputError: kind or dtype is not one of these.
    """

    record: ExpertsRecord
    kind: str
    dtype: str
    convexification: dict[str, Any] = field(default_factory=dict)
    experts: dict[int, ExpertEntry] = field(default_factory=dict)

    def __post_init__(self) -> None:
        if self.kind not in _KINDS:
            raise InputError(f"kind = {self.kind!r} must be one of {', '.join(_KINDS)}")
        if self.dtype not in DTYPES:
            raise InputError(f"dtype = {self.dtype!r} must be one of {', '.join(DTYPES)}")

    def to_json(self) -> dict[str, Any]:
        """Return the index as JSON."""
        experts = {str(number): asdict(self.experts[number]) for number in sorted(self.experts)}
        return {"format": _FORMAT, "version": VERSION, **asdict(self), "experts": experts}

    @staticmethod
    def from_json(value: Any, where: str) -> StoreIndex:
        """Make an index from JSON.

        Raises:
            FormatError: it is not an index or is damaged; `where` names the file.
        """
        experts = value.get("experts") if isinstance(value, dict) else None
        if not isinstance(experts, dict) or value.get("format") != _FORMAT:
            raise FormatError(f"{where} is not the index of a trajectory store")
        index = from_json(StoreIndex, {**value, "experts": {}}, where)
        for key, entry in experts.items():
            if not re.fullmatch(r"0|[1-9][0-9]{0,8}", key):
                raise FormatError(f"{where}: {key!r} is not the number of an expert")
            index.experts[int(key)] = from_json(ExpertEntry, entry, f"{where}: expert {key}")
            index._check(int(key), f"{where}: expert {key}")
        return index

    def _check(self, number: int, where: str) -> None:
        """Check an expert's entry against the record."""
        entry, end = self.experts[number], self.record.epochs
        # A name with a folder in it could make a reader open, or a writer replace, files outside the store.
        if entry.file != file_name(number):
            raise FormatError(f"{where} has the file name {entry.file!r}, which must be {file_name(number)!r}")
        epochs = entry.waypoint_epochs
        rises = len(epochs) > 1 and list(epochs) == sorted(set(epochs)) and epochs[0] == 0 and epochs[-1] == end
        if self.kind == "convexified" and not rises:
            raise FormatError(f"{where}: 'waypoint_epochs' does not rise from 0 to {end}")
        expected = len(epochs) if self.kind == "convexified" else end + 1
        if len(entry.rows_sha256) != expected:
            raise FormatError(f"{where}: 'rows_sha256' lists {len(entry.rows_sha256)} rows instead of {expected}")


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
    if next(folder.glob(_EXPERT_FILES), None) is not None:
        raise InputError(
            f"{folder} holds expert files, but not their {INDEX_NAME}; put it back, choose another folder, or "
            "move these files elsewhere"
        )


def store_writer(folder: Path) -> AbstractContextManager[None]:
    """Wait for and hold the lock of a store, and delete the temporary files of killed writers."""
    return only_writer(folder, wait=True, writes=(_EXPERT_FILES, INDEX_NAME))


def check_same(stored: StoreIndex, new: StoreIndex, folder: Path) -> None:
    """Raise MismatchError, with every difference, for a store of other experts or of other settings."""
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
    """Return the index as `read_index` returns it, with lists instead of tuples."""
    return StoreIndex.from_json(_json_of(index.to_json(), "the record's training settings"), "the index")


def _json_of(value: Any, subject: str) -> Any:
    """Return a value as JSON gives it back; raise InputError, with `subject` first, if it is not JSON-able."""
    try:
        return json.loads(json.dumps(value, allow_nan=False))
    except (TypeError, ValueError) as error:
        raise InputError(f"{subject} must be JSON-able: {error}") from error


def write_expert(
    folder: Path,
    kind: str,
    number: int,
    tensors: Mapping[str, Tensor],
    extra: Mapping[str, Any],
    accuracies: Mapping[str, Sequence[float]] | None,
    details: Mapping[str, Any] | None,
) -> StoreIndex:
    """Write expert `number` into the store at `folder`, in place of one of that number; returns the new index.

    A process killed at any moment leaves the index without this expert or with all of it.

    Args:
        tensors: of the expert's file, by name; the first is the matrix of rows.
        extra: fields of the `ExpertEntry` that only convexified experts have.
        accuracies, details: as for `TrajectoryStore.add`, which lists the errors.
    """
    if not 0 <= number < 10**9:
        raise InputError(f"number = {number} must be at least 0 and below 10^9")
    series = {name: [float(value) for value in values] for name, values in (accuracies or {}).items()}
    if not all(math.isfinite(value) for values in series.values() for value in values):
        raise InputError("accuracies must be finite numbers")
    plain_details = _json_of(dict(details or {}), "details")
    path = folder / file_name(number)
    rows = next(iter(tensors.values()))
    with store_writer(folder):
        # Another process may have added experts since the caller read the index.
        index = read_index(folder)
        if index.experts.pop(number, None):  # a kill during the replacement leaves the expert absent, not damaged
            write_index(folder, index)
        write_tensors(path, KEY, {"format": VERSION, "kind": kind, "expert": number}, tensors)
        index.experts[number] = ExpertEntry(
            file=path.name,
            bytes=path.stat().st_size,
            sha256=sha256_of(path),
            rows_sha256=tuple(tensor_sha256(row) for row in rows),
            accuracies=series,
            details=plain_details,
            **extra,
        )
        write_index(folder, index)
    return index
