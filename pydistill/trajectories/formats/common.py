"""Shared by the readers and writers of other tools' files: untrusted loading, checks, numbered files."""

from __future__ import annotations

import os
import re
import zipfile
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from pydistill._util.files import atomic_path
from pydistill.errors import FormatError, InputError, MismatchError
from pydistill.trajectories.record import ExpertsRecord
from pydistill.trajectories.store import TrajectoryStore
from pydistill.trajectories.trajectory import ConvexifiedTrajectory

Paths = str | os.PathLike[str] | Iterable[str | os.PathLike[str]]
Shapes = tuple[tuple[int, ...], ...]


@dataclass(frozen=True)
class ForeignLayout:
    """The sizes of the experts in a foreign file.

    Attributes:
        experts: their number.
        epochs: T, the last epoch.
        shapes: of the parameter tensors, in order; foreign files do not name them.
        waypoint_epochs: of convexified experts; empty for recorded ones.
    """

    experts: int
    epochs: int
    shapes: Shapes
    waypoint_epochs: tuple[int, ...] = ()


def load_untrusted(path: Path) -> Any:
    """Load a torch-saved file without running any code from it; large tensors stay in the file.

    Raises:
        InputError: there is no such file.
        FormatError: the file is damaged, or holds more than plain containers and tensors.
    """
    if not path.is_file():
        raise InputError(f"{path} does not exist; give the path of a file that does")
    try:
        return torch.load(path, map_location="cpu", weights_only=True, mmap=zipfile.is_zipfile(path))
    except Exception as error:  # a damaged pickle can raise nearly any error
        raise FormatError(
            f"{path} cannot be read as plain tensors: it is damaged, or reading it would run code that it contains; "
            "nothing was run"
        ) from error


def save_torch(value: Any, path: Path) -> None:
    """Save with `torch.save`, atomically.

    Raises:
        WriteError: the disk is full or the folder cannot be written.
    """
    with atomic_path(path) as temporary:
        try:
            with open(temporary, "wb") as handle:  # given a path, torch hides the system's error
                torch.save(value, handle)
        except RuntimeError as error:  # torch wraps a failed write when it closes the file
            if isinstance(error.__context__, OSError):
                raise OSError(*error.__context__.args) from error
            raise


def listed(value: Any, what: str) -> list[Any]:
    """Check that `value` is a list or tuple with at least one element.

    Raises:
        FormatError: it is not; `what` names it.
    """
    if not isinstance(value, (list, tuple)) or not value:
        raise FormatError(f"{what} is not a list, or is an empty one")
    return list(value)


def parameter_tensors(value: Any, what: str) -> list[Tensor]:
    """Check that `value` is a list of parameter tensors: dense, floating, in memory or mapped.

    Raises:
        FormatError: it is something else; `what` names it.
    """
    tensors = listed(value, what)
    for tensor in tensors:
        if not is_plain_tensor(tensor) or not tensor.dtype.is_floating_point:
            raise FormatError(f"{what} holds something that is not a dense floating tensor")
    return tensors


def is_plain_tensor(value: Any) -> bool:
    """True for a dense CPU tensor that stores every element.

    A file of a hundred bytes can hold a view that repeats one number 2^40 times; copying it would exhaust the memory.
    """
    if not isinstance(value, Tensor) or value.layout != torch.strided or value.is_quantized:
        return False
    return value.device.type == "cpu" and value.numel() * value.element_size() <= value.untyped_storage().nbytes()


def shapes_of(tensors: Sequence[Tensor]) -> Shapes:
    """The shapes of the tensors."""
    return tuple(tuple(tensor.shape) for tensor in tensors)


class ListRows:
    """Rows of flat parameters from lists of parameter tensors, as in foreign files."""

    def __init__(self, points: Any, what: str) -> None:
        """Check that every point is a list of tensors of the same shapes.

        Raises:
            FormatError: they are not; `what` names the expert.
        """
        self._points = [parameter_tensors(point, f"{what}, point {i}") for i, point in enumerate(listed(points, what))]
        self.shapes = shapes_of(self._points[0])
        self._what = what
        for index, point in enumerate(self._points):
            if shapes_of(point) != self.shapes:
                raise FormatError(f"{what}, point {index} has other parameter shapes than point 0")

    @property
    def shape(self) -> tuple[int, int]:
        """(points, P)."""
        return len(self._points), sum(tensor.numel() for tensor in self._points[0])

    def row(self, index: int) -> Tensor:
        """Point `index` as a new flat tensor [P], float64 if the file has float64, else float32.

        Raises:
            FormatError: it holds NaN or infinity.
        """
        row = torch.cat([tensor.detach().reshape(-1) for tensor in self._points[index]])
        if not bool(torch.isfinite(row).all()):
            raise FormatError(f"{self._what}, point {index} holds NaN or infinity: the training diverged")
        return row if row.dtype == torch.float64 else row.float()

    def check_moves(self) -> None:
        """Refuse an expert that ends where it began.

        On a CPU, MTT's buffer.py stores references instead of copies, so that every epoch is the last one.

        Raises:
            FormatError: the first and the last point are the same.
        """
        if torch.equal(self.row(0), self.row(len(self._points) - 1)):
            raise FormatError(
                f"{self._what} ends exactly where it begins, so it records no training "
                "(MTT's buffer.py writes such files when run on a CPU)"
            )


def check_record(shapes: Shapes, epochs: int, record: ExpertsRecord, where: str) -> None:
    """Refuse a file whose shapes or number of epochs differ from the record's.

    Raises:
        MismatchError: naming the first parameter that differs, or the epochs, and both sides.
    """
    layout = record.layout
    if len(shapes) != len(layout.shapes):
        raise MismatchError(
            f"{where} and the record do not agree: the experts have {len(shapes)} parameter tensors "
            f"in the file and {len(layout.shapes)} in the record ({record.architecture})"
        )
    for name, shape, expected in zip(layout.names, shapes, layout.shapes, strict=True):
        if shape != expected:
            hint = ""
            if record.in_channels == 1 and name == layout.names[-2]:
                hint = " (experts of MTT's ConvNet on one-channel images have first_padding=3)"
            raise MismatchError(
                f"{where} and the record do not agree: parameter {name} is {list(shape)} in the file "
                f"and {list(expected)} in the record ({record.architecture}){hint}"
            )
    if epochs != record.epochs:
        raise MismatchError(
            f"{where} and the record do not agree: the experts end at epoch {epochs} in the file "
            f"and at epoch {record.epochs} in the record"
        )


def check_per_file(per_file: int | None) -> None:
    """Raise an InputError for a limit of experts per file below 1."""
    if per_file is not None and per_file < 1:
        raise InputError(f"per_file must be at least 1 (or None for all experts of a file), not {per_file}")


def add_all(
    store: TrajectoryStore,
    experts: Iterator[tuple[dict[str, Any], ListRows | ConvexifiedTrajectory]],
    on_progress: Callable[[int], None] | None,
) -> None:
    """Add experts with their details to a store, except those that it holds already.

    Raises:
        MismatchError: the store holds other experts besides these.
    """
    count = 0
    for number, (details, expert) in enumerate(experts):
        if not store.holds(number, expert, details):
            if isinstance(expert, ConvexifiedTrajectory):
                store.add_convexified(number, expert, details=details)
            else:
                store.add(number, expert, details=details)
        count = number + 1
        if on_progress is not None:
            on_progress(count)
    if len(store) != count:
        raise MismatchError(
            f"{store.path} holds {len(store)} experts and the files to import {count}: the others come from another "
            "import; remove the store to import again, or choose another folder"
        )


def batches_of(store: TrajectoryStore, experts_per_file: int) -> list[range]:
    """Positions of the experts of each file of an export.

    Raises:
        InputError: there is no expert, or experts_per_file is below 1.
    """
    if experts_per_file < 1 or not len(store):
        raise InputError(
            f"experts_per_file = {experts_per_file} and the number of experts = {len(store)} must be 1 or more"
        )
    starts = range(0, len(store), experts_per_file)
    return [range(first, min(first + experts_per_file, len(store))) for first in starts]


def refuse_others(folder: Path, stem: str, count: int) -> None:
    """Refuse to export `STEM_0.pt` … into a folder that holds `STEM_count.pt` or later ones, which would stay there.

    Raises:
        InputError: there are such files, which readers would take for experts of this export.
    """
    matches = [re.fullmatch(rf"{re.escape(stem)}_([0-9]+)\.pt", path.name) for path in folder.glob(f"{stem}_*.pt")]
    others = sorted(int(match[1]) for match in matches if match and int(match[1]) >= count)
    if others:
        names = ", ".join(f"{stem}_{number}.pt" for number in others[:4]) + (", …" if len(others) > 4 else "")
        raise InputError(
            f"{folder} holds {names} of another export, which readers would add to the {count} files of this one; "
            "remove them, or choose another folder"
        )


def numbered_files(paths: Paths, pattern: str) -> list[Path]:
    """The files to read, in the order of the numbers that end their names.

    Args:
        paths: a folder, of which all matching files are read; or one file; or several, read in this order.
        pattern: regular expression of the file names in a folder, with the number as its last group.

    Raises:
        InputError: there is no file to read.
    """
    if not isinstance(paths, (str, os.PathLike)):
        files = [Path(path) for path in paths]
    elif Path(paths).is_dir():
        matches = [(re.fullmatch(pattern, path.name), path) for path in Path(paths).iterdir()]
        files = [path for _, path in sorted((int(m.groups()[-1]), path) for m, path in matches if m)]
    else:
        files = [Path(paths)]
    if not files:
        raise InputError(f"paths = {paths} holds no file to import; their names look like {pattern}")
    return files
