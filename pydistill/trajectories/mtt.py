"""MTT's expert files, `replay_buffer_N.pt`: read into a store, written from one."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Iterator
from itertools import chain
from pathlib import Path
from typing import Any

from torch import Tensor

from pydistill.errors import FormatError, InputError
from pydistill.trajectories.formats import (
    ForeignLayout,
    ListRows,
    check_count,
    check_record,
    listed,
    load_untrusted,
    numbered_files,
    refuse_others,
    save_torch,
)
from pydistill.trajectories.record import ExpertsRecord
from pydistill.trajectories.store import TrajectoryStore

Paths = str | os.PathLike[str] | Iterable[str | os.PathLike[str]]
_PATTERN = r"replay_buffer_([0-9]+)\.pt"


def read_mtt(path: str | os.PathLike[str]) -> list[ListRows]:
    """The experts of one `replay_buffer_N.pt`: of each, rows [T+1, P] that stay in the file until asked for.

    The file is a torch-saved list of experts, each a list of epochs 0 … T, each a list of parameter tensors
    in the order of `model.parameters()` (MTT, FTD, DATM, ATT, TESLA and MCT write the same).

    Raises:
        FormatError: damaged, hostile, or of another layout.
    """
    file = Path(path)
    experts = listed(load_untrusted(file), f"{file}")
    rows = [ListRows(expert, f"{file}, expert {index}") for index, expert in enumerate(experts)]
    for index, expert in enumerate(rows):
        if expert.shape[0] < 2:
            raise FormatError(f"{file}, expert {index} has one epoch only")
        expert.check_moves()
    return rows


def describe_mtt(path: str | os.PathLike[str]) -> ForeignLayout:
    """How many experts, epochs and which parameter shapes one `replay_buffer_N.pt` holds; raises as `read_mtt`."""
    experts = read_mtt(path)
    return ForeignLayout(len(experts), experts[0].shape[0] - 1, experts[0].shapes)


def import_mtt(
    paths: Paths,
    out: str | os.PathLike[str],
    record: ExpertsRecord,
    *,
    dtype: str = "float32",
    per_file: int | None = None,
    on_progress: Callable[[int], None] | None = None,
) -> TrajectoryStore:
    """Read MTT's files into a store.

    Args:
        paths: a folder of `replay_buffer_N.pt`, one file, or several in order.
        out: folder of the store; an interrupted import continues there, and an expert whose numbers in the files
            are no longer those in the store is imported again.
        record: what the experts are. The files do not say it; shapes and epochs are checked against it.
        dtype: how the store keeps rows: float32, bfloat16 or float64.
        per_file: take at most so many experts of each file, the first ones; None takes all.
        on_progress: called with the number of experts done.

    Raises:
        FormatError: a file is damaged, hostile, or of another layout; experts read before it are kept.
        MismatchError: a file's shapes or epochs are not the record's, or `out` holds other experts, or more of them.
        InputError: there is no file to read, or per_file is below 1.
    """
    if per_file is not None and per_file < 1:
        raise InputError(f"per_file must be at least 1 (or None for all experts of a file), not {per_file}")
    files = numbered_files(paths, _PATTERN)
    stream = _checked(files, record, per_file)
    first = next(stream)  # a bad first file leaves no store behind
    store = TrajectoryStore.create(out, record, dtype=dtype)
    count = 0
    for number, (details, rows) in enumerate(chain([first], stream)):
        if not store.holds(number, rows, details):
            store.add(number, rows, details=details)
        count = number + 1
        if on_progress is not None:
            on_progress(count)
    check_count(len(store), count, out)
    return store


def _checked(
    files: list[Path], record: ExpertsRecord, per_file: int | None
) -> Iterator[tuple[dict[str, Any], ListRows]]:
    """The experts of all files, one at a time, with where they come from."""
    for file in files:
        for position, rows in enumerate(read_mtt(file)[:per_file]):
            check_record(rows.shapes, rows.shape[0] - 1, record, f"{file}, expert {position}")
            yield {"source": file.name, "position": position}, rows


def export_mtt(store: TrajectoryStore, folder: str | os.PathLike[str], *, experts_per_file: int = 10) -> list[Path]:
    """Write recorded experts as MTT's `replay_buffer_0.pt`, `replay_buffer_1.pt`, … in float32, as that code needs.

    Args:
        store: recorded experts.
        folder: where to; files of the names to be written are replaced.
        experts_per_file: at most so many experts in one file; all of them are in memory together.

    Returns:
        The files written.

    Raises:
        InputError: no experts, convexified experts, or experts_per_file below 1; or the folder holds files of higher
            numbers, which would be read along.
        WriteError: the disk is full.
    """
    if store.kind != "recorded":
        raise InputError(f"MTT's files hold recorded experts, and {store.path} is {store.kind}; use export_mct")
    if experts_per_file < 1 or not len(store):
        raise InputError(
            f"experts_per_file = {experts_per_file} and the number of experts = {len(store)} must be 1 or more"
        )
    refuse_others(Path(folder), "replay_buffer", -(-len(store) // experts_per_file))
    files: list[Path] = []
    for first in range(0, len(store), experts_per_file):
        positions = range(first, min(first + experts_per_file, len(store)))
        files.append(Path(folder) / f"replay_buffer_{len(files)}.pt")
        save_torch([_epochs(store, position) for position in positions], files[-1])
    return files


def _epochs(store: TrajectoryStore, position: int) -> list[list[Tensor]]:
    """One expert as MTT's nested lists."""
    rows, layout = store.recorded(position).snapshots, store.record.layout
    return [list(layout.split(rows.row(epoch).float()).values()) for epoch in range(rows.shape[0])]
