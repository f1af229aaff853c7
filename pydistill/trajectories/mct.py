"""MCT's convexified expert files, pairs `waypoint_buffer…_N.pt` and `step_buffer…_N.pt`: read and written."""

from __future__ import annotations

import os
import re
from collections.abc import Callable, Iterable, Iterator
from itertools import chain, pairwise
from pathlib import Path
from typing import Any

import torch
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
from pydistill.trajectories.trajectory import ConvexifiedTrajectory

Paths = str | os.PathLike[str] | Iterable[str | os.PathLike[str]]
_PATTERN = r"waypoint_buffer(?:_(?:ip[0-9]+|uni|dec|proj))?_([0-9]+)\.pt"
_TAGS = {"path": "", "uniform": "_uni", "decreasing": "_dec", "projected": "_proj"}


class MctExpert:
    """One expert of a pair of MCT's files.

    Attributes:
        waypoints: rows [w, P] that stay in the file until asked for.
        waypoint_epochs: their epochs.
        fractions: [T + w − 1, tensors] as in the file, in float64.
    """

    def __init__(self, waypoints: Any, steps: Any, what: str) -> None:
        """Check the two nested lists against each other.

        Raises:
            FormatError: they are of another layout, or do not belong together; `what` names the expert.
        """
        self.waypoints = ListRows(waypoints, f"{what}, waypoints")
        count, tensors = self.waypoints.shape[0], len(self.waypoints.shapes)
        pieces = _pieces(listed(steps, f"{what}, fractions"), what)
        if count != len(pieces) + 1:
            raise FormatError(f"{what} has {count} waypoints and fractions for {len(pieces)} segments between them")
        epochs = [0]
        rows: list[Tensor] = []
        for segment, piece in enumerate(pieces):
            rows += [_weights(row, tensors, f"{what}, fractions of segment {segment}") for row in piece]
            epochs.append(epochs[-1] + len(piece) - 1)
            if len(piece) < 2:
                raise FormatError(f"{what}, fractions of segment {segment} cover no epoch")
        self.waypoint_epochs = tuple(epochs)
        self.fractions = torch.stack(rows)
        self.waypoints.check_moves()


def _pieces(steps: list[Any], what: str) -> list[list[Any]]:
    """Segments of epochs of fractions: files of two waypoints leave out the level of segments."""
    first = listed(steps[0], f"{what}, fractions")[0]
    if isinstance(first, (list, tuple)):
        return [listed(piece, f"{what}, fractions") for piece in steps]
    return [steps]


def _weights(row: Any, tensors: int, what: str) -> Tensor:
    """One number per parameter tensor as float64 [tensors]."""
    numbers = listed(row, what)
    single = all(isinstance(x, Tensor) and x.numel() == 1 and x.dtype.is_floating_point for x in numbers)
    if len(numbers) != tensors or not single:
        raise FormatError(f"{what} are not one number for each of {tensors} parameter tensors")
    weights = torch.stack([x.detach().reshape(()).double() for x in numbers])
    if not bool(torch.isfinite(weights).all()):
        raise FormatError(f"{what} hold NaN or infinity")
    return weights


def partner(file: Path) -> Path:
    """The step file that belongs to a waypoint file; InputError for a file of another name."""
    if not file.name.startswith("waypoint_buffer"):
        raise InputError(f"paths must name MCT's waypoint_buffer files, and {file.name} is none")
    return file.with_name(file.name.replace("waypoint_buffer", "step_buffer", 1))


def read_mct(path: str | os.PathLike[str]) -> list[MctExpert]:
    """The experts of one pair of MCT's files, found by the name of its waypoint file.

    Waypoint file: a torch-saved list of experts, each a list of w waypoints, each a list of parameter
    tensors. Step file: a list of experts, each a list of w − 1 segments, each a list of its epochs (both ends
    included), each a list of one fraction (a tensor without dimensions) per parameter tensor; with two
    waypoints the level of segments is absent.

    Raises:
        FormatError: one of the two is missing, damaged, hostile, or of another layout.
        InputError: not the name of a waypoint file.
    """
    file = Path(path)
    beside = partner(file)
    waypoints = listed(load_untrusted(file), f"{file}")
    steps = listed(load_untrusted(beside), f"{beside}")
    if len(waypoints) != len(steps):
        raise FormatError(f"{file} holds {len(waypoints)} experts and its partner {beside.name} {len(steps)}")
    pairs = enumerate(zip(waypoints, steps, strict=True))
    return [MctExpert(points, paces, f"{file}, expert {index}") for index, (points, paces) in pairs]


def describe_mct(path: str | os.PathLike[str]) -> ForeignLayout:
    """How many experts, epochs, waypoints and which shapes a pair holds; raises as `read_mct`."""
    experts = read_mct(path)
    first = experts[0]
    return ForeignLayout(len(experts), first.waypoint_epochs[-1], first.waypoints.shapes, first.waypoint_epochs)


def import_mct(
    paths: Paths,
    out: str | os.PathLike[str],
    record: ExpertsRecord,
    *,
    dtype: str = "float32",
    per_file: int | None = None,
    on_progress: Callable[[int], None] | None = None,
) -> TrajectoryStore:
    """Read MCT's files into a convexified store, fractions as the files have them.

    Args:
        paths: a folder with `waypoint_buffer…_N.pt` of one kind, one such file, or several in order; each
            one's `step_buffer…_N.pt` lies beside it.
        out, record, dtype, per_file, on_progress: as for `import_mtt`.

    Raises:
        FormatError: a file is missing, damaged, hostile, or of another layout; experts read before it are
            kept.
        MismatchError: a file's shapes or epochs are not the record's, or `out` holds other experts, or more of them.
        InputError: there is no file to read, or files of several kinds, or per_file is below 1.
    """
    if per_file is not None and per_file < 1:
        raise InputError(f"per_file must be at least 1 (or None for all experts of a file), not {per_file}")
    files = numbered_files(paths, _PATTERN)
    kinds = sorted({re.sub(r"_[0-9]+\.pt$", "", file.name) for file in files})
    if len(kinds) > 1:
        raise InputError(f"paths holds files of several kinds ({', '.join(kinds)}); name the files of one")
    rule = next((rule for rule, tag in _TAGS.items() if tag and kinds[0].endswith(tag)), "path")
    stream = _checked(files, record, per_file)
    first = next(stream)  # a bad first file leaves no store behind
    settings = {"waypoints": list(first[1].waypoint_epochs), "fractions": rule, "source": "MCT"}
    store = TrajectoryStore.create(out, record, kind="convexified", dtype=dtype, convexification=settings)
    count = 0
    for number, (details, expert) in enumerate(chain([first], stream)):
        if expert.waypoint_epochs != first[1].waypoint_epochs:
            raise FormatError(
                f"{details['source']}, expert {details['position']} has its waypoints at epochs "
                f"{list(expert.waypoint_epochs)} and the first expert at {list(first[1].waypoint_epochs)}"
            )
        trajectory = ConvexifiedTrajectory(expert.waypoints, expert.waypoint_epochs, expert.fractions, record.sizes)
        if not store.holds(number, trajectory, details):
            store.add_convexified(number, trajectory, details=details)
        count = number + 1
        if on_progress is not None:
            on_progress(count)
    check_count(len(store), count, out)
    return store


def _checked(
    files: list[Path], record: ExpertsRecord, per_file: int | None
) -> Iterator[tuple[dict[str, Any], MctExpert]]:
    """The experts of all files, one at a time, with where they come from."""
    for file in files:
        for position, expert in enumerate(read_mct(file)[:per_file]):
            where = f"{file}, expert {position}"
            check_record(expert.waypoints.shapes, expert.waypoint_epochs[-1], record, where)
            yield {"source": file.name, "position": position}, expert


def export_mct(store: TrajectoryStore, folder: str | os.PathLike[str], *, experts_per_file: int = 10) -> list[Path]:
    """Write convexified experts as MCT's pairs of files.

    The names are those that MCT's distillation looks for: `…_ipW_N.pt` for W > 2 waypoints; for two
    `…_N.pt`, `…_uni_N.pt`, `…_dec_N.pt` or `…_proj_N.pt` by the rule of the fractions. Everything is
    written in float32, as that code needs.

    Args:
        store: convexified experts with the same waypoint epochs.
        folder: where to; files of the names to be written are replaced.
        experts_per_file: at most so many experts in one pair.

    Returns:
        The waypoint files written; each one's step file lies beside it.

    Raises:
        InputError: no experts, recorded experts, or experts_per_file below 1; or the folder holds files of higher
            numbers, which would be read along.
        WriteError: the disk is full.
    """
    if store.kind != "convexified":
        raise InputError(
            f"MCT's files hold convexified experts, and {store.path} is {store.kind}; convexify them first"
        )
    if experts_per_file < 1 or not len(store):
        raise InputError(
            f"experts_per_file = {experts_per_file} and the number of experts = {len(store)} must be 1 or more"
        )
    rule = store.convexification.get("fractions", "path")
    count = len(store.convexified(0).waypoint_epochs)
    stem = "waypoint_buffer" + (f"_ip{count}" if count > 2 else _TAGS.get(str(rule), ""))
    refuse_others(Path(folder), stem, -(-len(store) // experts_per_file))
    files: list[Path] = []
    for first in range(0, len(store), experts_per_file):
        experts = [_nested(store, i) for i in range(first, min(first + experts_per_file, len(store)))]
        file = Path(folder) / f"{stem}_{len(files)}.pt"
        # Readers look for waypoint files, so the partner goes first: a killed run leaves no half pair to be found.
        save_torch([steps for _, steps in experts], partner(file))
        save_torch([points for points, _ in experts], file)
        files.append(file)
    return files


def _nested(store: TrajectoryStore, position: int) -> tuple[list[list[Tensor]], list[Any]]:
    """One expert as MCT's nested lists of waypoints and of fractions."""
    trajectory = store.convexified(position)
    layout, epochs = store.record.layout, trajectory.waypoint_epochs
    rows = [trajectory.waypoints.row(index).float() for index in range(len(epochs))]
    waypoints = [list(layout.split(row).values()) for row in rows]
    lengths = [last - first + 1 for first, last in pairwise(epochs)]
    pieces: list[Any] = [_scalars(piece) for piece in torch.split(trajectory.fractions, lengths)]
    return waypoints, pieces if len(pieces) > 1 else pieces[0]


def _scalars(piece: Tensor) -> list[list[Tensor]]:
    return [[torch.tensor(value, dtype=torch.float32) for value in row] for row in piece.tolist()]
