"""The index of a trajectory store: the record of the experts, and the file and hashes of every expert."""

from __future__ import annotations

import math
import re
from dataclasses import asdict, dataclass, field
from typing import Any

from pydistill.errors import FormatError, InputError
from pydistill.trajectories._json import from_json
from pydistill.trajectories.expert_file import DTYPES
from pydistill.trajectories.record import ExpertsRecord

FORMAT = "pydistill-trajectories"
VERSION = 1
KINDS = ("recorded", "convexified")
EXPERT_FILES = "expert_*.safetensors"  # a shell pattern
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
        if self.kind not in KINDS:
            raise InputError(f"kind = {self.kind!r} must be one of {', '.join(KINDS)}")
        if self.dtype not in DTYPES:
            raise InputError(f"dtype = {self.dtype!r} must be one of {', '.join(DTYPES)}")

    def to_json(self) -> dict[str, Any]:
        """Return the index as JSON."""
        experts = {str(number): asdict(self.experts[number]) for number in sorted(self.experts)}
        return {"format": FORMAT, "version": VERSION, **asdict(self), "experts": experts}

    @staticmethod
    def from_json(value: Any, where: str) -> StoreIndex:
        """Make an index from JSON.

        Raises:
            FormatError: it is not an index or is damaged; `where` names the file.
        """
        experts = value.get("experts") if isinstance(value, dict) else None
        if not isinstance(experts, dict) or value.get("format") != FORMAT:
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
