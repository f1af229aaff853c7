"""The index of a trajectory store: what is in the folder, read with suspicion."""

from __future__ import annotations

import math
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from pydistill.errors import FormatError
from pydistill.trajectories.expert_file import DTYPES
from pydistill.trajectories.record import ExpertsRecord

FORMAT = "pydistill-trajectories"
VERSION = 1
KINDS = ("recorded", "convexified")
EXPERT_FILES = "expert_*.safetensors"  # as a pattern of a shell's
_FILE_NAME = re.compile(r"expert_[0-9]{4,9}\.safetensors")
_SHA256 = re.compile(r"[0-9a-f]{64}")


class VersionError(FormatError):
    """An index of a version that this pydistill does not read."""


def file_name(number: int) -> str:
    """The name of expert `number`'s file."""
    return f"expert_{number:04d}.safetensors"


@dataclass(frozen=True)
class ExpertEntry:
    """What the index says of one expert.

    Attributes:
        file: name inside the store's folder, never a path.
        bytes, sha256: size and hash of the whole file.
        rows_sha256: hash of each row of `snapshots` or `waypoints`.
        waypoint_epochs, fractions_sha256: of a convexified expert; else empty.
        accuracies: name → one value per epoch, for example "test".
        details: anything else that is json-able, for example the expert's seed.
    """

    file: str
    bytes: int
    sha256: str
    rows_sha256: tuple[str, ...]
    waypoint_epochs: tuple[int, ...] = ()
    fractions_sha256: str = ""
    accuracies: dict[str, list[float]] = field(default_factory=dict)
    details: dict[str, Any] = field(default_factory=dict)

    def to_json(self) -> dict[str, Any]:
        """The entry as JSON."""
        value: dict[str, Any] = {"file": self.file, "bytes": self.bytes, "sha256": self.sha256}
        value["rows_sha256"] = list(self.rows_sha256)
        if self.waypoint_epochs:
            value["waypoint_epochs"] = list(self.waypoint_epochs)
            value["fractions_sha256"] = self.fractions_sha256
        return {**value, "accuracies": self.accuracies, "details": self.details}


@dataclass
class StoreIndex:
    """The content of `index.json`.

    Attributes:
        record: what the experts are.
        kind: recorded or convexified.
        dtype: of the stored rows: float32, bfloat16 or float64.
        convexification: how convexified experts were made (waypoints, smoothing, fractions); else empty.
        experts: by expert number.
    """

    record: ExpertsRecord
    kind: str
    dtype: str
    convexification: dict[str, Any] = field(default_factory=dict)
    experts: dict[int, ExpertEntry] = field(default_factory=dict)

    def to_json(self) -> dict[str, Any]:
        """The index as JSON."""
        return {
            "format": FORMAT,
            "version": VERSION,
            "kind": self.kind,
            "dtype": self.dtype,
            "record": self.record.to_json(),
            "convexification": self.convexification,
            "experts": {str(number): self.experts[number].to_json() for number in sorted(self.experts)},
        }

    @staticmethod
    def from_json(value: Any, where: str) -> StoreIndex:
        """The index from JSON.

        Raises:
            FormatError: not an index, of a newer version, or damaged; `where` names the file.
        """
        if not isinstance(value, Mapping) or value.get("format") != FORMAT:
            raise FormatError(f"{where} is not the index of a trajectory store")
        if value.get("version") != VERSION:
            raise VersionError(
                f"{where} is of version {value.get('version')!r} and this pydistill reads version {VERSION}; "
                "use a newer pydistill"
            )
        kind, dtype, convexification = value.get("kind"), value.get("dtype"), value.get("convexification")
        if kind not in KINDS:
            raise FormatError(f"{where}: 'kind' is {kind!r} and not one of {', '.join(KINDS)}")
        if not isinstance(dtype, str) or dtype not in DTYPES:
            raise FormatError(f"{where}: 'dtype' is {dtype!r} and not one of {', '.join(DTYPES)}")
        if not isinstance(convexification, dict):
            raise FormatError(f"{where}: 'convexification' is not an object")
        record = ExpertsRecord.from_json(value.get("record"), where)
        experts = value.get("experts")
        if not isinstance(experts, Mapping):
            raise FormatError(f"{where}: 'experts' is not an object")
        index = StoreIndex(record, kind, dtype, convexification)
        for key, entry in experts.items():
            number = _number(key, where)
            index.experts[number] = _entry(entry, number, index, where)
        return index


def _number(key: str, where: str) -> int:
    if not re.fullmatch(r"0|[1-9][0-9]{0,8}", key):
        raise FormatError(f"{where}: {key!r} is not the number of an expert")
    return int(key)


def _entry(value: Any, number: int, index: StoreIndex, where: str) -> ExpertEntry:
    at = f"{where}: expert {number}"
    if not isinstance(value, Mapping):
        raise FormatError(f"{at} is not an object")
    name, size, rows = value.get("file"), value.get("bytes"), value.get("rows_sha256")
    # A name with a folder in it could make a reader open, or a writer replace, files outside the store.
    if not isinstance(name, str) or not _FILE_NAME.fullmatch(name) or name != file_name(number):
        raise FormatError(f"{at} has the file name {name!r}, which must be {file_name(number)!r}")
    if not isinstance(size, int) or isinstance(size, bool) or size < 1:
        raise FormatError(f"{at}: 'bytes' is not a size")
    if not isinstance(rows, list):
        raise FormatError(f"{at}: 'rows_sha256' is not a list")
    epochs: tuple[int, ...] = ()
    fractions = ""
    if index.kind == "convexified":
        epochs = _epochs(value.get("waypoint_epochs"), index.record.epochs, at)
        fractions = _sha256(value.get("fractions_sha256"), at)
    expected = len(epochs) or index.record.epochs + 1
    if len(rows) != expected:
        raise FormatError(f"{at}: 'rows_sha256' lists {len(rows)} rows and there must be {expected}")
    details = value.get("details")
    if not isinstance(details, dict):
        raise FormatError(f"{at}: 'details' is not an object")
    return ExpertEntry(
        file=name,
        bytes=size,
        sha256=_sha256(value.get("sha256"), at),
        rows_sha256=tuple(_sha256(row, at) for row in rows),
        waypoint_epochs=epochs,
        fractions_sha256=fractions,
        accuracies=_accuracies(value.get("accuracies"), at),
        details=details,
    )


def _sha256(value: Any, at: str) -> str:
    if not isinstance(value, str) or not _SHA256.fullmatch(value):
        raise FormatError(f"{at}: a hash is not 64 hexadecimal digits")
    return value


def _epochs(value: Any, end: int, at: str) -> tuple[int, ...]:
    whole = isinstance(value, list) and all(isinstance(epoch, int) and not isinstance(epoch, bool) for epoch in value)
    if not whole or len(value) < 2 or value != sorted(set(value)) or value[0] != 0 or value[-1] != end:
        raise FormatError(f"{at}: 'waypoint_epochs' does not rise from 0 to {end}")
    return tuple(value)


def _accuracies(value: Any, at: str) -> dict[str, list[float]]:
    if not isinstance(value, dict) or not all(isinstance(series, list) for series in value.values()):
        raise FormatError(f"{at}: 'accuracies' is not an object of lists")
    for series in value.values():
        if not all(isinstance(x, (int, float)) and not isinstance(x, bool) and math.isfinite(x) for x in series):
            raise FormatError(f"{at}: 'accuracies' holds something that is not a finite number")
    return {name: [float(x) for x in series] for name, series in value.items()}
