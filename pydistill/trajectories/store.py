"""The trajectory store: a folder with one safetensors file per expert and an index."""

from __future__ import annotations

import hashlib
import json
import logging
import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from torch import Tensor

from pydistill._util.files import sha256_of
from pydistill._util.format import counted
from pydistill._util.layout import holds_experts, refuse_run
from pydistill._util.tensor_file import UnreadableError, tensor_sha256
from pydistill.errors import FormatError, InputError, MismatchError
from pydistill.trajectories.convexification import WAYPOINTS, FractionRule, Smoothing, convexify, waypoint_epochs
from pydistill.trajectories.expert_file import DTYPES, FileRows, matrix_of, read_tensor
from pydistill.trajectories.index import (
    ExpertEntry,
    StoreIndex,
    check_same,
    file_name,
    read_index,
    refuse_lost_index,
    store_writer,
    through_json,
    write_expert,
    write_index,
)
from pydistill.trajectories.record import ExpertsRecord
from pydistill.trajectories.trajectory import ConvexifiedTrajectory, RecordedTrajectory, Rows, as_rows

_log = logging.getLogger("pydistill")


class TrajectoryStore:
    """A folder of experts that are read a row at a time.

    An expert is written under a temporary name, renamed, and then entered in the index, which is itself replaced by a
    rename: a run killed at any moment leaves only complete experts. Experts have numbers (0, 1, …, possibly with gaps
    while several processes train them) and positions 0 … len − 1 in the order of their numbers; `store[i]` takes
    positions.
    """

    def __init__(self, path: Path, index: StoreIndex) -> None:
        """Use `open` or `create`."""
        self._path = path
        self._index = index
        self._opened: dict[tuple[str, str], FileRows] = {}

    @classmethod
    def open(cls, path: str | os.PathLike[str]) -> TrajectoryStore:
        """Open an existing store; reads its index only.

        Raises:
            InputError: there is no store at `path`.
            FormatError: its index is damaged or of a newer version.
        """
        folder = Path(path)
        return cls(folder, read_index(folder))

    @classmethod
    def create(
        cls,
        path: str | os.PathLike[str],
        record: ExpertsRecord,
        *,
        kind: str = "recorded",
        dtype: str = "float32",
        convexification: Mapping[str, Any] | None = None,
    ) -> TrajectoryStore:
        """Create an empty store, or open the one at `path` if it holds the same kind of experts.

        Args:
            path: its folder.
            record: the network, data and training of the experts.
            kind: recorded or convexified.
            dtype: of the stored rows: float32, bfloat16 (half the size; points are float32) or float64.
            convexification: the settings of convexified experts.

        Raises:
            MismatchError: the store at `path` is for other experts; the message names every difference and both sides.
            FormatError: the store at `path` cannot be read.
            InputError: kind or dtype is unknown, or the folder holds a run, or expert files without an index.
        """
        folder = Path(path)
        # The index on disk went through JSON, so convert the new one before comparing them.
        index = through_json(StoreIndex(record, kind, dtype, dict(convexification or {})))
        refuse_run(folder)
        with store_writer(folder):
            if holds_experts(folder):
                stored = read_index(folder)
                check_same(stored, index, folder)
                index = stored
            else:
                refuse_lost_index(folder)
                write_index(folder, index)
        return cls(folder, index)

    def __repr__(self) -> str:
        record = self.record
        return (
            f"TrajectoryStore({self.path}: {counted(len(self), f'{self.kind} expert')} of "
            f"{counted(record.epochs, 'epoch')}, {record.architecture}, {record.dataset})"
        )

    @property
    def path(self) -> Path:
        """The store's folder."""
        return self._path

    @property
    def record(self) -> ExpertsRecord:
        """The network, data and training of the experts."""
        return self._index.record

    @property
    def kind(self) -> str:
        """The kind of the experts: recorded or convexified."""
        return self._index.kind

    @property
    def dtype(self) -> str:
        """The dtype of the stored rows."""
        return self._index.dtype

    @property
    def convexification(self) -> dict[str, Any]:
        """The settings waypoints, smoothing and fractions of convexified experts; empty otherwise."""
        return dict(self._index.convexification)

    @property
    def end(self) -> float:
        """T, the last epoch of every expert."""
        return float(self.record.epochs)

    @property
    def continuous(self) -> bool:
        """True if the experts have points at real times."""
        return self.kind == "convexified"

    @property
    def experts(self) -> tuple[int, ...]:
        """The numbers of the stored experts, rising."""
        return tuple(sorted(self._index.experts))

    @property
    def digest(self) -> str:
        """SHA-256 over the experts' numbers and parameters; equal for stores of the same experts."""
        entries = [(number, self._index.experts[number]) for number in self.experts]
        hashes = [[number, entry.rows_sha256, entry.fractions_sha256] for number, entry in entries]
        return hashlib.sha256(json.dumps(hashes).encode()).hexdigest()

    def __contains__(self, number: object) -> bool:
        """Return whether expert `number` is stored."""
        return number in self._index.experts

    def __len__(self) -> int:
        """Return the number of stored experts."""
        return len(self._index.experts)

    def __iter__(self) -> Iterator[RecordedTrajectory | ConvexifiedTrajectory]:
        """Iterate over the experts' trajectories by rising number."""
        return (self[position] for position in range(len(self)))

    def __getitem__(self, position: int) -> RecordedTrajectory | ConvexifiedTrajectory:
        """Return the trajectory of the expert at `position`, 0 … len − 1.

        Raises:
            InputError: the position is out of range.
            FormatError: this expert's file is missing, truncated or damaged; the others stay readable.
        """
        return self.recorded(position) if self.kind == "recorded" else self.convexified(position)

    def recorded(self, position: int) -> RecordedTrajectory:
        """Return `self[position]` of a store of recorded experts; raises InputError for any other store."""
        if self.kind != "recorded":
            raise InputError(f"recorded experts are needed, but the store at {self._path} is {self.kind}")
        return RecordedTrajectory(self._rows(self._entry(position)))

    def convexified(self, position: int) -> ConvexifiedTrajectory:
        """Return `self[position]` of a store of convexified experts; raises InputError for any other store."""
        if self.kind != "convexified":
            raise InputError(f"convexified experts are needed, but the store at {self._path} is {self.kind}")
        entry = self._entry(position)
        rows = self._rows(entry)
        path = self._path / entry.file
        fractions = read_tensor(path, "fractions", entry.fractions_sha256)
        try:
            return ConvexifiedTrajectory(rows, entry.waypoint_epochs, fractions, self.record.sizes)
        except InputError as error:
            raise FormatError(f"{path} does not fit its index: {error}") from error

    def _entry(self, position: int) -> ExpertEntry:
        numbers = self.experts
        if not 0 <= position < len(numbers):
            raise InputError(
                f"position = {position} must be 0 or more and below {len(numbers)}, "
                f"the number of experts in {self._path}"
            )
        return self._index.experts[numbers[position]]

    def _rows(self, entry: ExpertEntry) -> FileRows:
        path = self._path / entry.file
        size = path.stat().st_size if path.is_file() else 0
        if size != entry.bytes:
            fault = f"has {size} bytes of {entry.bytes}" if size else "is missing or empty"
            raise FormatError(f"{path} {fault}; train, import or copy this expert again")
        key = (entry.file, entry.sha256)
        if key not in self._opened:  # FileRows remember which rows have been checked
            name = "snapshots" if self.kind == "recorded" else "waypoints"
            shape = (len(entry.rows_sha256), self.record.layout.total)
            self._opened[key] = FileRows(path, name, shape, self.dtype, entry.rows_sha256)
        return self._opened[key]

    def accuracies(self, position: int) -> dict[str, list[float]]:
        """Return the accuracies recorded with the expert at `position`: name → one value per epoch."""
        return {name: list(values) for name, values in self._entry(position).accuracies.items()}

    def details(self, position: int) -> dict[str, Any]:
        """Return the other values recorded with the expert at `position`, for example its seed."""
        return dict(self._entry(position).details)

    def holds(self, number: int, expert: Rows | ConvexifiedTrajectory, details: Mapping[str, Any]) -> bool:
        """Return whether expert `number` is stored with these details and exactly these numbers in the store's dtype.

        Compares the hash of every row of `expert` with the index. Of the stored file, only size and header are checked.
        """
        entry = self._index.experts.get(number)
        if entry is None or entry.details != details or self._fault(number, content=False) is not None:
            return False
        if isinstance(expert, ConvexifiedTrajectory):
            rows = expert.waypoints
            if tensor_sha256(expert.fractions) != entry.fractions_sha256:
                return False
        else:
            rows = expert
        stored = (rows.row(index).to(DTYPES[self.dtype]) for index in range(rows.shape[0]))
        return rows.shape[0] == len(entry.rows_sha256) and all(
            tensor_sha256(row) == sha256 for row, sha256 in zip(stored, entry.rows_sha256, strict=True)
        )

    def verify(self, *, content: bool = True) -> dict[int, str]:
        """Check the store's files; returns the damage as expert number → one sentence.

        Args:
            content: read every byte and compare hashes; otherwise check only sizes and headers (fast).

        Raises:
            FormatError: `content` is false, and a file exists but cannot be opened, so that it may be intact.
        """
        faults = {number: self._fault(number, content=content) for number in self.experts}
        return {number: fault for number, fault in faults.items() if fault is not None}

    def _fault(self, number: int, *, content: bool) -> str | None:
        """Return the damage to expert `number`'s file in one sentence, or None."""
        try:
            self[self.experts.index(number)]
            path = self._path / file_name(number)
            if content and sha256_of(path) != self._index.experts[number].sha256:
                raise FormatError(f"{path} is damaged: its hash is not the one in the index")
        except UnreadableError as error:
            if content:
                return str(error)
            raise  # callers of the fast check replace damaged files
        except FormatError as error:
            return str(error)
        return None

    def add(
        self,
        number: int,
        snapshots: Tensor | Rows,
        accuracies: Mapping[str, Sequence[float]] | None = None,
        details: Mapping[str, Any] | None = None,
    ) -> None:
        """Write recorded expert `number`, replacing the expert of that number.

        Args:
            number: 0, 1, …
            snapshots: [T+1, P], converted to the store's dtype.
            accuracies: name → one value per epoch.
            details: other JSON-able values, for example the expert's seed.

        Logs a warning if the expert stands still between two epochs.

        Raises:
            InputError: the shapes differ from the record's, a value is not finite, or the store is convexified.
            WriteError: the disk is full; the stored experts are untouched.
        """
        if self.kind != "recorded":
            raise InputError(f"snapshots need a store of recorded experts, but {self._path} is {self.kind}")
        shape = (self.record.epochs + 1, self.record.layout.total)
        matrix = matrix_of("snapshots", as_rows(snapshots), shape, self.dtype)
        self._warn_of_standstill(number, matrix, range(len(matrix)))
        self._index = write_expert(self._path, self.kind, number, {"snapshots": matrix}, {}, accuracies, details)

    def add_convexified(
        self,
        number: int,
        trajectory: ConvexifiedTrajectory,
        accuracies: Mapping[str, Sequence[float]] | None = None,
        details: Mapping[str, Any] | None = None,
    ) -> None:
        """Write convexified expert `number`, replacing the expert of that number; raises as `add` does."""
        if self.kind != "convexified":
            raise InputError(f"a convexified trajectory needs a convexified store, but {self._path} is {self.kind}")
        if trajectory.end != self.end or trajectory.sizes != self.record.sizes:
            raise InputError(
                f"the trajectory ends at epoch {trajectory.end:g} with parameter tensors of sizes "
                f"{list(trajectory.sizes)}, but the record of {self._path} has {self.end:g} and "
                f"{list(self.record.sizes)}"
            )
        shape = (len(trajectory.waypoint_epochs), self.record.layout.total)
        matrix = matrix_of("waypoints", trajectory.waypoints, shape, self.dtype)
        self._warn_of_standstill(number, matrix, trajectory.waypoint_epochs)
        fractions = trajectory.fractions
        tensors = {"waypoints": matrix, "fractions": fractions}
        extra = {"waypoint_epochs": trajectory.waypoint_epochs, "fractions_sha256": tensor_sha256(fractions)}
        self._index = write_expert(self._path, self.kind, number, tensors, extra, accuracies, details)

    def _warn_of_standstill(self, number: int, matrix: Tensor, epochs: Sequence[int]) -> None:
        """Warn of rows that equal the row before: the matching loss divides by the distance between two rows."""
        still = [epoch for epoch, before, row in zip(epochs[1:], matrix, matrix[1:], strict=False) if row.equal(before)]
        if still:
            shown = ", ".join(map(str, still[:3])) + (", …" if len(still) > 3 else "")
            _log.warning(
                "expert %d in %s has not moved at epoch %s; segments without movement are passed over",
                number,
                self._path,
                shown,
            )

    def write_convexified(
        self,
        path: str | os.PathLike[str],
        *,
        waypoints: int | Sequence[int] = WAYPOINTS,
        smoothing: Smoothing = "neighbours",
        fractions: FractionRule = "path",
        dtype: str | None = None,
        on_progress: Callable[[int, int], None] | None = None,
    ) -> TrajectoryStore:
        """Convexify every expert into another store, reusing intact results of an earlier call.

        Args:
            path: folder of the convexified store.
            waypoints, smoothing, fractions: see `convexify`.
            dtype: of the waypoints; by default that of this store.
            on_progress: called with (experts done, number of experts).

        Raises:
            InputError: this store is convexified already, or a setting is outside its limits.
            MismatchError: `path` holds other experts, or experts convexified with other settings.
            FormatError: an expert of this store cannot be read.
        """
        if self.kind != "recorded":
            raise InputError(f"only recorded experts can be convexified, but {self._path} is convexified already")
        epochs = waypoint_epochs(self.record.epochs, waypoints)
        settings = {"waypoints": list(epochs), "smoothing": smoothing, "fractions": fractions}
        out = TrajectoryStore.create(
            path, self.record, kind="convexified", dtype=dtype or self.dtype, convexification=settings
        )
        others = [str(number) for number in out.experts if number not in self]
        if others:  # readers would take them for experts of this store
            raise MismatchError(
                f"the convexified store at {path} holds experts that {self._path} does not: {', '.join(others)}; "
                "remove it to convexify again, or choose another folder"
            )
        damaged = out.verify(content=False)
        for position, number in enumerate(self.experts):
            source = self._entry(position)
            intact = number in out and number not in damaged
            source_sha256 = out.details(out.experts.index(number)).get("recorded_sha256") if intact else None
            if source_sha256 != source.sha256:
                trajectory = convexify(
                    self._rows(source), self.record.sizes, waypoints=epochs, smoothing=smoothing, fractions=fractions
                )
                provenance = {**source.details, "recorded_sha256": source.sha256}
                out.add_convexified(number, trajectory, source.accuracies, provenance)
            if on_progress is not None:
                on_progress(position + 1, len(self))
        return out
