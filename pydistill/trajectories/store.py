"""The trajectory store: a folder with one safetensors file per expert and an index."""

from __future__ import annotations

import hashlib
import json
import math
import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from pydistill._util.files import sha256_of
from pydistill._util.format import counted
from pydistill._util.layout import holds_experts, refuse_run
from pydistill._util.locking import only_writer
from pydistill._util.tensor_file import UnreadableError, tensor_sha256, write_tensors
from pydistill.errors import FormatError, InputError, MismatchError
from pydistill.trajectories.convexification import FractionRule, Smoothing, convexify, waypoint_epochs
from pydistill.trajectories.expert_file import DTYPES, KEY, FileRows, read_tensor
from pydistill.trajectories.index import KINDS, VERSION, ExpertEntry, StoreIndex, file_name
from pydistill.trajectories.index_file import (
    check_same,
    read_index,
    refuse_lost_index,
    remove_leftovers,
    through_json,
    write_index,
)
from pydistill.trajectories.record import ExpertsRecord
from pydistill.trajectories.trajectory import ConvexifiedTrajectory, RecordedTrajectory, Rows, as_rows


class TrajectoryStore:
    """Experts on disk, read a row at a time.

    An expert is first written whole under a temporary name, renamed, and then entered in the index, itself
    replaced by a rename: a run killed at any moment leaves whole experts only. Experts have numbers (0, 1,
    …, possibly with gaps while several processes train them) and positions 0 … len − 1 in the order of
    their numbers; `store[i]` takes positions.
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
        """Make an empty store, or continue the one at `path` if it is for the same experts.

        Args:
            path: its folder.
            record: what the experts are.
            kind: recorded or convexified.
            dtype: how rows are stored: float32, bfloat16 (half the size; points come back as float32),
                float64.
            convexification: the settings of convexified experts.

        Raises:
            MismatchError: there is a store of other experts; the differing fields are named with both sides.
            FormatError: there is a store that cannot be read.
            InputError: kind or dtype is none of those, or the folder holds a run, or files of experts without an
                index.
        """
        if kind not in KINDS:
            raise InputError(f"kind = {kind!r} must be one of {', '.join(KINDS)}")
        if dtype not in DTYPES:
            raise InputError(f"dtype = {dtype!r} must be one of {', '.join(DTYPES)}")
        folder = Path(path)
        # What is compared with an older index must have been through JSON as well.
        index = through_json(StoreIndex(record, kind, dtype, dict(convexification or {})))
        refuse_run(folder)
        with only_writer(folder, wait=True):
            remove_leftovers(folder)
            if holds_experts(folder):
                found = read_index(folder)
                check_same(found, index, folder)
                index = found
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
        """What the experts are."""
        return self._index.record

    @property
    def kind(self) -> str:
        """recorded or convexified."""
        return self._index.kind

    @property
    def dtype(self) -> str:
        """How rows are stored."""
        return self._index.dtype

    @property
    def convexification(self) -> dict[str, Any]:
        """waypoints, smoothing and fractions of convexified experts; empty otherwise."""
        return dict(self._index.convexification)

    @property
    def end(self) -> float:
        """T of every expert."""
        return float(self.record.epochs)

    @property
    def continuous(self) -> bool:
        """True if the experts can be read at real times."""
        return self.kind == "convexified"

    @property
    def experts(self) -> tuple[int, ...]:
        """The numbers of the experts that are there, rising."""
        return tuple(sorted(self._index.experts))

    @property
    def digest(self) -> str:
        """SHA-256 over the experts' numbers and parameters: stores have the same one if they hold the same experts."""
        entries = [(number, self._index.experts[number]) for number in self.experts]
        # of the rows, not of the files, whose headers may be written in another order
        told = [[number, entry.rows_sha256, entry.fractions_sha256] for number, entry in entries]
        return hashlib.sha256(json.dumps(told).encode()).hexdigest()

    def __contains__(self, number: object) -> bool:
        """Is expert `number` there?"""
        return number in self._index.experts

    def __len__(self) -> int:
        """How many experts are there."""
        return len(self._index.experts)

    def __iter__(self) -> Iterator[RecordedTrajectory | ConvexifiedTrajectory]:
        """The experts' trajectories by rising number."""
        return (self[position] for position in range(len(self)))

    def __getitem__(self, position: int) -> RecordedTrajectory | ConvexifiedTrajectory:
        """The trajectory of the expert at `position`, 0 … len − 1.

        Raises:
            InputError: no such position.
            FormatError: this expert's file is missing, truncated or damaged; others stay readable.
        """
        return self.recorded(position) if self.kind == "recorded" else self.convexified(position)

    def recorded(self, position: int) -> RecordedTrajectory:
        """`self[position]` of a store of recorded experts; InputError in another."""
        if self.kind != "recorded":
            raise InputError(f"recorded trajectories are wanted, and the store at {self._path} is {self.kind}")
        return RecordedTrajectory(self._rows(self._entry(position)))

    def convexified(self, position: int) -> ConvexifiedTrajectory:
        """`self[position]` of a store of convexified experts; InputError in another."""
        if self.kind != "convexified":
            raise InputError(f"convexified trajectories are wanted, and the store at {self._path} is {self.kind}")
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
            told = f"has {size} bytes of {entry.bytes}" if size else "is missing or empty"
            raise FormatError(f"{path} {told}; train, import or copy this expert again")
        key = (entry.file, entry.sha256)
        if key not in self._opened:  # kept, because they remember which rows have been checked
            name = "snapshots" if self.kind == "recorded" else "waypoints"
            shape = (len(entry.rows_sha256), self.record.layout.total)
            self._opened[key] = FileRows(path, name, shape, self.dtype, entry.rows_sha256)
        return self._opened[key]

    def accuracies(self, position: int) -> dict[str, list[float]]:
        """The accuracies recorded with the expert at `position`: name → one value per epoch."""
        return {name: list(values) for name, values in self._entry(position).accuracies.items()}

    def details(self, position: int) -> dict[str, Any]:
        """Whatever else was recorded with the expert at `position`, for example its seed."""
        return dict(self._entry(position).details)

    def holds(self, number: int, expert: Rows | ConvexifiedTrajectory, details: Mapping[str, Any]) -> bool:
        """Whether expert `number` is there with these details and, as this store keeps them, with these very numbers.

        Every row is read and its hash compared with the index; of the store's own file, the size and header alone are.
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
        kept = (rows.row(index).to(DTYPES[self.dtype]) for index in range(rows.shape[0]))
        return rows.shape[0] == len(entry.rows_sha256) and all(
            tensor_sha256(row) == sha256 for row, sha256 in zip(kept, entry.rows_sha256, strict=True)
        )

    def verify(self, *, content: bool = True) -> dict[int, str]:
        """What is wrong with the store's files: expert number → one sentence; empty if all is well.

        Args:
            content: read every byte and compare hashes; else look at sizes and headers only (fast).

        Raises:
            FormatError: `content` is false, and a file that is there cannot be opened: it may be whole.
        """
        faults = {number: self._fault(number, content=content) for number in self.experts}
        return {number: fault for number, fault in faults.items() if fault is not None}

    def _fault(self, number: int, *, content: bool) -> str | None:
        """What is wrong with expert `number`'s file, as `verify` tells it."""
        try:
            self[self.experts.index(number)]
            path = self._path / file_name(number)
            if content and sha256_of(path) != self._index.experts[number].sha256:
                raise FormatError(f"{path} is damaged: its hash is not the one in the index")
        except UnreadableError as error:
            if content:
                return str(error)
            raise  # whoever asks so quickly makes again what is not whole
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
        """Write recorded expert `number`, replacing the one of that number.

        Args:
            number: 0, 1, …
            snapshots: [T+1, P], converted to the store's dtype.
            accuracies: name → one value per epoch.
            details: anything json-able, for example the expert's seed.

        Raises:
            InputError: shapes that are not the record's, values that are not finite, or a convexified store.
            WriteError: the disk is full; the experts already there are untouched.
        """
        if self.kind != "recorded":
            raise InputError(f"snapshots belong in a store of recorded experts, and {self._path} is {self.kind}")
        rows = self._matrix("snapshots", as_rows(snapshots), self.record.epochs + 1)
        self._write(number, rows, {}, {}, accuracies, details)

    def add_convexified(
        self,
        number: int,
        trajectory: ConvexifiedTrajectory,
        accuracies: Mapping[str, Sequence[float]] | None = None,
        details: Mapping[str, Any] | None = None,
    ) -> None:
        """Write convexified expert `number`, replacing the one of that number; raises as `add` does."""
        if self.kind != "convexified":
            raise InputError(
                f"a convexified trajectory belongs in a convexified store, and {self._path} is {self.kind}"
            )
        if trajectory.end != self.end or trajectory.sizes != self.record.sizes:
            raise InputError(
                f"the trajectory ends at epoch {trajectory.end:g} with parameter tensors of sizes "
                f"{list(trajectory.sizes)}, and the record of {self._path} says {self.end:g} and "
                f"{list(self.record.sizes)}"
            )
        waypoints = self._matrix("waypoints", trajectory.waypoints, len(trajectory.waypoint_epochs))
        fractions = trajectory.fractions
        extra = {"waypoint_epochs": trajectory.waypoint_epochs, "fractions_sha256": tensor_sha256(fractions)}
        self._write(number, waypoints, {"fractions": fractions}, extra, accuracies, details)

    def _matrix(self, name: str, rows: Rows, count: int) -> dict[str, Tensor]:
        expected = (count, self.record.layout.total)
        if rows.shape != expected:
            raise InputError(f"{name} must have the shape {list(expected)} of the record, not {list(rows.shape)}")
        matrix = torch.empty(expected, dtype=DTYPES[self.dtype])
        for index in range(count):
            matrix[index] = rows.row(index)
            if not bool(torch.isfinite(matrix[index]).all()):
                raise InputError(
                    f"{name} must be finite numbers, but row {index} holds NaN or infinity as {self.dtype}"
                )
        return {name: matrix}

    def _write(
        self,
        number: int,
        matrix: dict[str, Tensor],
        others: dict[str, Tensor],
        extra: dict[str, Any],
        accuracies: Mapping[str, Sequence[float]] | None,
        details: Mapping[str, Any] | None,
    ) -> None:
        if not 0 <= number < 10**9:
            raise InputError(f"number = {number} must be 0 or more")
        kept = {name: [float(value) for value in values] for name, values in (accuracies or {}).items()}
        if not all(math.isfinite(value) for values in kept.values() for value in values):
            raise InputError("accuracies must be finite numbers")
        try:
            kept_details = json.loads(json.dumps(dict(details or {}), allow_nan=False))
        except (TypeError, ValueError) as error:
            raise InputError(f"details must be json-able: {error}") from error
        (rows,) = matrix.values()
        header = {"format": VERSION, "kind": self.kind, "expert": number}
        path = self._path / file_name(number)
        with only_writer(self._path, wait=True):
            # Another process may have added experts since this one last looked.
            index = read_index(self._path)
            if index.experts.pop(number, None):  # absent, not damaged, if killed while it is replaced
                write_index(self._path, index)
            write_tensors(path, KEY, header, {**matrix, **others})
            index.experts[number] = ExpertEntry(
                file=path.name,
                bytes=path.stat().st_size,
                sha256=sha256_of(path),
                rows_sha256=tuple(tensor_sha256(row) for row in rows),
                accuracies=kept,
                details=kept_details,
                **extra,
            )
            write_index(self._path, index)
        self._index = index

    def write_convexified(
        self,
        path: str | os.PathLike[str],
        *,
        waypoints: int | Sequence[int] = 4,
        smoothing: Smoothing = "neighbours",
        fractions: FractionRule = "path",
        dtype: str | None = None,
        on_progress: Callable[[int, int], None] | None = None,
    ) -> TrajectoryStore:
        """Convexify every expert into another store; what was made there of the same expert is kept, if it is whole.

        Args:
            path: folder of the convexified store.
            waypoints, smoothing, fractions: see `convexify`.
            dtype: of its waypoints; default: as here.
            on_progress: called with (experts done, of how many).

        Raises:
            InputError: this store is convexified already, or a setting is outside its limits.
            MismatchError: `path` holds other experts, also beside these, or these under other settings.
            FormatError: an expert here cannot be read.
        """
        if self.kind != "recorded":
            raise InputError(f"only recorded experts can be convexified, and {self._path} is convexified already")
        epochs = waypoint_epochs(self.record.epochs, waypoints)
        settings = {"waypoints": list(epochs), "smoothing": smoothing, "fractions": fractions}
        out = TrajectoryStore.create(
            path, self.record, kind="convexified", dtype=dtype or self.dtype, convexification=settings
        )
        others = [str(number) for number in out.experts if number not in self]
        if others:  # a reader of the result would take them for experts of this store
            raise MismatchError(
                f"the convexified store at {path} holds experts that the one it is to be made of, {self._path}, does "
                f"not: {', '.join(others)}; remove it to convexify again, or choose another folder"
            )
        broken = out.verify(content=False)
        for position, number in enumerate(self.experts):
            source = self._entry(position)
            kept = number in out and number not in broken
            made_of = out.details(out.experts.index(number)).get("recorded_sha256") if kept else None
            if made_of != source.sha256:
                convex = convexify(
                    self._rows(source),
                    self.record.sizes,
                    waypoints=epochs,
                    smoothing=smoothing,
                    fractions=fractions,
                )
                out.add_convexified(
                    number, convex, source.accuracies, {**source.details, "recorded_sha256": source.sha256}
                )
            if on_progress is not None:
                on_progress(position + 1, len(self))
        return out
