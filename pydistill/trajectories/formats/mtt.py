"""Read and write MTT's expert files, `replay_buffer_N.pt`."""

from __future__ import annotations

import os
from collections.abc import Callable
from itertools import chain
from pathlib import Path

from torch import Tensor

from pydistill.errors import FormatError, InputError
from pydistill.trajectories.formats.common import (
    ForeignLayout,
    ListRows,
    Paths,
    add_all,
    export_files,
    listed,
    load_untrusted,
    numbered_files,
    read_all,
    save_torch,
)
from pydistill.trajectories.record import ExpertsRecord
from pydistill.trajectories.store import TrajectoryStore

_PATTERN = r"replay_buffer_([0-9]+)\.pt"


def read_mtt(path: str | os.PathLike[str]) -> list[ListRows]:
    """Read the experts of one `replay_buffer_N.pt` as rows [T+1, P], which stay in the file until they are read.

    The file is a torch-saved nested list [expert][epoch 0 … T][parameter tensor], with the tensors in the order of
    `model.parameters()`. MTT, FTD, DATM, ATT, TESLA and MCT write the same format.

    Raises:
        FormatError: the file is damaged, hostile, or has another layout.
    """
    file = Path(path)
    experts = listed(load_untrusted(file), f"{file}")
    rows = [ListRows(expert, f"{file}, expert {index}") for index, expert in enumerate(experts)]
    for index, expert in enumerate(rows):
        if expert.epochs < 1:
            raise FormatError(f"{file}, expert {index} has one epoch only")
        expert.check_moves()
    return rows


def describe_mtt(path: str | os.PathLike[str]) -> ForeignLayout:
    """Read the numbers of experts and epochs and the parameter shapes of a file; raises as `read_mtt`."""
    experts = read_mtt(path)
    return ForeignLayout(len(experts), experts[0].epochs, experts[0].shapes)


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
        out: folder of the store. An interrupted import continues there; an expert whose numbers in the files differ
            from those in the store is imported again.
        record: the network, data and training of the experts, which the files do not hold; their shapes and epochs
            are checked against it.
        dtype: of the stored rows: float32, bfloat16 or float64.
        per_file: the number of experts to import from every file; None imports all.
        on_progress: called with the number of experts done.

    Raises:
        FormatError: a file is damaged, hostile, or has another layout; experts read before it stay in the store.
        MismatchError: a file's shapes or epochs differ from the record's, or `out` holds other experts.
        InputError: no file matches, or per_file is below 1.
    """
    experts = read_all(numbered_files(paths, _PATTERN), read_mtt, record, per_file)
    first = next(experts)  # a bad first file leaves no store behind
    store = TrajectoryStore.create(out, record, dtype=dtype)
    add_all(store, chain([first], experts), on_progress)
    return store


def export_mtt(store: TrajectoryStore, folder: str | os.PathLike[str], *, experts_per_file: int = 10) -> list[Path]:
    """Write recorded experts as MTT's `replay_buffer_0.pt`, `replay_buffer_1.pt`, … in float32, as its code requires.

    Args:
        store: recorded experts.
        folder: of the files, which replace files of the same names.
        experts_per_file: the most experts in one file, which are in memory together.

    Returns:
        The paths of the files.

    Raises:
        InputError: the store is empty, the experts are convexified, or experts_per_file is below 1; or the folder
            holds files of higher numbers, which readers would add to this export.
        WriteError: the disk is full.
    """
    if store.kind != "recorded":
        raise InputError(f"MTT's files hold recorded experts, and {store.path} is {store.kind}; use export_mct")

    def write(positions: range, file: Path) -> None:
        save_torch([_epochs(store, position) for position in positions], file)

    return export_files(store, folder, "replay_buffer", experts_per_file, write)


def _epochs(store: TrajectoryStore, position: int) -> list[list[Tensor]]:
    """Return one expert as MTT's nested lists."""
    rows, layout = store.recorded(position).snapshots, store.record.layout
    return [list(layout.split(rows.row(epoch).float()).values()) for epoch in range(rows.shape[0])]
