"""Read and write MCT's convexified expert files, pairs of `waypoint_buffer…_N.pt` and `step_buffer…_N.pt`."""

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
from pydistill.trajectories.trajectory import ConvexifiedTrajectory

_PATTERN = r"waypoint_buffer(?:_(?:ip[0-9]+|uni|dec|proj))?_([0-9]+)\.pt"
_TAGS = {"path": "", "uniform": "_uni", "decreasing": "_dec", "projected": "_proj"}


class MctExpert(ListRows):
    """The waypoints [w, P] of one expert in a pair of MCT's files, which stay in the file until they are read.

    Attributes:
        waypoint_epochs: their epochs.
        fractions: [T + w − 1, tensors] as in the file, in float64.
    """

    def __init__(self, waypoints: Any, steps: Any, name: str) -> None:
        """Check that the two nested lists belong together.

        Raises:
            FormatError: they do not, or have another layout; the message begins with `name`.
        """
        super().__init__(waypoints, f"{name}, waypoints")
        count, tensors = self.shape[0], len(self.shapes)
        pieces = _pieces(listed(steps, f"{name}, fractions"), name)
        if count != len(pieces) + 1:
            raise FormatError(f"{name} has {count} waypoints and fractions for {len(pieces)} segments between them")
        epochs = [0]
        rows: list[Tensor] = []
        for segment, piece in enumerate(pieces):
            rows += [_weights(row, tensors, f"{name}, fractions of segment {segment}") for row in piece]
            epochs.append(epochs[-1] + len(piece) - 1)
            if len(piece) < 2:
                raise FormatError(f"{name}, fractions of segment {segment} cover no epoch")
        self.waypoint_epochs = tuple(epochs)
        self.fractions = torch.stack(rows)
        self.check_moves()

    @property
    def epochs(self) -> int:
        """T, the epoch of the last waypoint."""
        return self.waypoint_epochs[-1]


def _pieces(steps: list[Any], name: str) -> list[list[Any]]:
    """Return the fractions by segment and epoch; files with two waypoints omit the level of segments."""
    first = listed(steps[0], f"{name}, fractions")[0]
    if isinstance(first, (list, tuple)):
        return [listed(piece, f"{name}, fractions") for piece in steps]
    return [steps]


def _weights(row: Any, tensors: int, name: str) -> Tensor:
    """Return one number per parameter tensor as float64 [tensors]."""
    numbers = listed(row, name)
    single = all(isinstance(x, Tensor) and x.numel() == 1 and x.dtype.is_floating_point for x in numbers)
    if len(numbers) != tensors or not single:
        raise FormatError(f"{name} are not one number for each of {tensors} parameter tensors")
    weights = torch.stack([x.detach().reshape(()).double() for x in numbers])
    if not bool(torch.isfinite(weights).all()):
        raise FormatError(f"{name} hold NaN or infinity")
    return weights


def waypoint_stem(waypoints: int, rule: str) -> str:
    """Return the name of MCT's files of experts with this number of waypoints, without the number of the file."""
    return f"waypoint_buffer_ip{waypoints}" if waypoints > 2 else f"waypoint_buffer{_TAGS.get(rule, '')}"


def partner(file: Path) -> Path:
    """Return the step file that belongs to a waypoint file; raises InputError for a file of another name."""
    if not file.name.startswith("waypoint_buffer"):
        raise InputError(f"paths must name MCT's waypoint_buffer files, and {file.name} is not one")
    return file.with_name(file.name.replace("waypoint_buffer", "step_buffer", 1))


def read_mct(path: str | os.PathLike[str]) -> list[MctExpert]:
    """Read the experts of one pair of MCT's files by the path of its waypoint file.

    Both files are torch-saved nested lists. Waypoint file: [expert][waypoint][parameter tensor]. Step file:
    [expert][segment][epoch][parameter tensor], where the epochs of a segment include both ends and every entry is a
    fraction (a tensor without dimensions); with two waypoints the level of segments is absent.

    Raises:
        FormatError: one of the files is missing, damaged, hostile, or has another layout.
        InputError: `path` does not name a waypoint file.
    """
    file = Path(path)
    step_file = partner(file)
    waypoints = listed(load_untrusted(file), f"{file}")
    steps = listed(load_untrusted(step_file), f"{step_file}")
    if len(waypoints) != len(steps):
        raise FormatError(f"{file} holds {len(waypoints)} experts and its partner {step_file.name} {len(steps)}")
    pairs = enumerate(zip(waypoints, steps, strict=True))
    return [MctExpert(points, paces, f"{file}, expert {index}") for index, (points, paces) in pairs]


def describe_mct(path: str | os.PathLike[str]) -> ForeignLayout:
    """Read the numbers of experts, epochs and waypoints and the parameter shapes of a pair; raises as `read_mct`."""
    experts = read_mct(path)
    first = experts[0]
    return ForeignLayout(len(experts), first.epochs, first.shapes, first.waypoint_epochs)


def import_mct(
    paths: Paths,
    out: str | os.PathLike[str],
    record: ExpertsRecord,
    *,
    dtype: str = "float32",
    per_file: int | None = None,
    on_progress: Callable[[int], None] | None = None,
) -> TrajectoryStore:
    """Read MCT's files into a convexified store, with the fractions that the files hold.

    Args:
        paths: a folder with `waypoint_buffer…_N.pt` of one kind, one such file, or several in order; their
            `step_buffer…_N.pt` are in the same folder.
        out, record, dtype, per_file, on_progress: as for `import_mtt`.

    Raises:
        FormatError: a file is missing, damaged, hostile, or has another layout; experts read before it stay in the
            store.
        MismatchError: a file's shapes or epochs differ from the record's, or `out` holds other experts.
        InputError: no file matches, or files of several kinds do, or per_file is below 1.
    """
    files = numbered_files(paths, _PATTERN)
    kinds = sorted({re.sub(r"_[0-9]+\.pt$", "", file.name) for file in files})
    if len(kinds) > 1:
        raise InputError(f"paths holds files of several kinds ({', '.join(kinds)}); name the files of one")
    rule = next((rule for rule, tag in _TAGS.items() if tag and kinds[0].endswith(tag)), "path")
    experts = read_all(files, read_mct, record, per_file)
    first = next(experts)  # a bad first file leaves no store behind
    settings = {"waypoints": list(first[1].waypoint_epochs), "fractions": rule, "source": "MCT"}
    store = TrajectoryStore.create(out, record, kind="convexified", dtype=dtype, convexification=settings)
    add_all(store, _trajectories(chain([first], experts), first[1].waypoint_epochs, record), on_progress)
    return store


def _trajectories(
    experts: Iterable[tuple[dict[str, Any], MctExpert]], epochs: tuple[int, ...], record: ExpertsRecord
) -> Iterator[tuple[dict[str, Any], ConvexifiedTrajectory]]:
    """Turn the experts into trajectories; all must have their waypoints at the same epochs."""
    for details, expert in experts:
        if expert.waypoint_epochs != epochs:
            raise FormatError(
                f"{details['source']}, expert {details['position']} has its waypoints at epochs "
                f"{list(expert.waypoint_epochs)} and the first expert at {list(epochs)}"
            )
        yield details, ConvexifiedTrajectory(expert, epochs, expert.fractions, record.sizes)


def export_mct(store: TrajectoryStore, folder: str | os.PathLike[str], *, experts_per_file: int = 10) -> list[Path]:
    """Write convexified experts as MCT's pairs of files.

    The names follow MCT's distillation: `…_ipW_N.pt` for W > 2 waypoints; for two, `…_N.pt`,
    `…_uni_N.pt`, `…_dec_N.pt` or `…_proj_N.pt` by the rule of the fractions. All numbers are float32, as its code
    requires.

    Args:
        store: convexified experts with the same waypoint epochs.
        folder: of the files, which replace files of the same names.
        experts_per_file: the most experts in one pair.

    Returns:
        The paths of the waypoint files; their step files are in the same folder.

    Raises:
        InputError: the store is empty, the experts are recorded, or experts_per_file is below 1; or the folder
            holds files of higher numbers, which readers would add to this export.
        WriteError: the disk is full.
    """
    if store.kind != "convexified":
        raise InputError(
            f"MCT's files hold convexified experts, and {store.path} is {store.kind}; convexify them first"
        )
    count = len(store.convexified(0).waypoint_epochs) if len(store) else 0

    def write(positions: range, file: Path) -> None:
        experts = [_nested(store, position) for position in positions]
        # Readers look for waypoint files, so the step file is written first: a killed export leaves no half pair.
        save_torch([steps for _, steps in experts], partner(file))
        save_torch([points for points, _ in experts], file)

    stem = waypoint_stem(count, str(store.convexification.get("fractions", "path")))
    return export_files(store, folder, stem, experts_per_file, write)


def _nested(store: TrajectoryStore, position: int) -> tuple[list[list[Tensor]], list[Any]]:
    """Return one expert as MCT's nested lists of waypoints and of fractions."""
    trajectory = store.convexified(position)
    layout, epochs = store.record.layout, trajectory.waypoint_epochs
    rows = [trajectory.waypoints.row(index).float() for index in range(len(epochs))]
    waypoints = [list(layout.split(row).values()) for row in rows]
    lengths = [last - first + 1 for first, last in pairwise(epochs)]
    pieces: list[Any] = [_scalars(piece) for piece in torch.split(trajectory.fractions, lengths)]
    return waypoints, pieces if len(pieces) > 1 else pieces[0]


def _scalars(piece: Tensor) -> list[list[Tensor]]:
    return [[torch.tensor(value, dtype=torch.float32) for value in row] for row in piece.tolist()]
