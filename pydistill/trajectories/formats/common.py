"""Load, check and number the files of other tools; shared by their readers and writers."""

from __future__ import annotations

import os
import re
import zipfile
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
import torch
from torch import Tensor

from pydistill._util.files import atomic_path
from pydistill.errors import FormatError, InputError, MismatchError
from pydistill.trajectories.record import ExpertsRecord
from pydistill.trajectories.store import TrajectoryStore
from pydistill.trajectories.trajectory import ConvexifiedTrajectory

Shapes = tuple[tuple[int, ...], ...]


def _latin1(text: str, encoding: str) -> bytes:
    return text.encode("latin1")


class _NumberType:
    """The type of a NumPy number; stands in for numpy.dtype, which hostile arguments could harm."""

    def __init__(self, code: str, align: bool, copy: bool) -> None:
        if not re.fullmatch(r"b1|[iu][1248]|f[248]", code):
            raise ValueError(f"{code!r} is not the type of a number")
        self.code = code

    def __setstate__(self, state: Any) -> None:
        self.code = (">" if state[1] == ">" else "<") + self.code


def _number(kind: _NumberType, content: bytes) -> Any:
    """Return a NumPy number as Python's."""
    return np.frombuffer(content, kind.code, count=1)[0].item()


# The constructors of NumPy scalars, which published scripts save in place of Python's numbers.
_NUMPY: list[Any] = [
    (_number, "numpy.core.multiarray.scalar"),
    (_number, "numpy._core.multiarray.scalar"),
    (_NumberType, "numpy.dtype"),
    (_latin1, "_codecs.encode"),
]

Paths = str | os.PathLike[str] | Iterable[str | os.PathLike[str]]


@dataclass(frozen=True)
class ForeignLayout:
    """The sizes of the experts in a foreign file.

    Attributes:
        experts: their number.
        epochs: T, the last epoch.
        shapes: of the parameter tensors, in order.
        waypoint_epochs: of convexified experts; empty for recorded ones.
    """

    experts: int
    epochs: int
    shapes: Shapes
    waypoint_epochs: tuple[int, ...] = ()


def load_untrusted(path: Path) -> Any:
    """Load a torch-saved file without running any code from it; large tensors stay in the file.

    NumPy scalars become numbers.

    Raises:
        InputError: the file does not exist.
        FormatError: the file is damaged, or holds more than plain containers and tensors, or refers to one list so
            often that its elements are more than the file's bytes.
    """
    if not path.is_file():
        raise InputError(f"{path} does not exist; give the path of an existing file")
    try:
        with torch.serialization.safe_globals(_NUMPY):
            value = torch.load(path, map_location="cpu", weights_only=True, mmap=zipfile.is_zipfile(path))
    except Exception as error:  # a damaged pickle can raise nearly any error
        raise FormatError(
            f"{path} cannot be read as plain tensors: it is damaged, or reading it would run code that it contains; "
            "nothing was run"
        ) from error
    if _elements(value, {}) > path.stat().st_size:
        raise FormatError(f"{path} is hostile or damaged: it repeats one list so often that it cannot be read")
    return value


def _elements(value: Any, counts: dict[int, int], depth: int = 4) -> int:
    """Count the elements of nested lists, repeated lists as often as they occur, down to the depth of the formats."""
    if depth == 0 or not isinstance(value, (list, tuple)):
        return 1
    if id(value) not in counts:
        counts[id(value)] = sum(_elements(item, counts, depth - 1) for item in value)
    return counts[id(value)]


def save_torch(value: Any, path: Path) -> None:
    """Save with `torch.save`, atomically; raise WriteError if the file cannot be written."""
    with atomic_path(path) as temporary:
        try:
            with open(temporary, "wb") as handle:  # with a path, torch would hide the system's error
                torch.save(value, handle)
        except RuntimeError as error:  # torch wraps a failed write when it closes the file
            if isinstance(error.__context__, OSError):
                raise OSError(*error.__context__.args) from error
            raise


def listed(value: Any, name: str) -> list[Any]:
    """Return a list or tuple as a list; raise FormatError, with `name` first, if it is neither, or is empty."""
    if not isinstance(value, (list, tuple)) or not value:
        raise FormatError(f"{name} is not a list, or is empty")
    return list(value)


def is_plain_tensor(value: Any) -> bool:
    """Return whether `value` is a dense CPU tensor that stores every element.

    A file of a hundred bytes can hold a view that repeats one number 2^40 times; copying it would exhaust the memory.
    """
    if not isinstance(value, Tensor) or value.layout != torch.strided or value.is_quantized or value.is_nested:
        return False
    return value.device.type == "cpu" and value.numel() * value.element_size() <= value.untyped_storage().nbytes()


class ListRows:
    """Rows of flat parameters from lists of parameter tensors, as in foreign files: the epochs of one expert."""

    def __init__(self, points: Any, name: str) -> None:
        """Check that every point is a list of dense floating tensors, in memory or mapped, of the same shapes.

        Raises:
            FormatError: a point is not; the message begins with `name`.
        """
        self._points = [listed(point, f"{name}, point {index}") for index, point in enumerate(listed(points, name))]
        self._name = name
        for index, point in enumerate(self._points):
            if not all(is_plain_tensor(tensor) and tensor.dtype.is_floating_point for tensor in point):
                raise FormatError(f"{name}, point {index} holds something that is not a dense floating tensor")
            shapes = tuple(tuple(tensor.shape) for tensor in point)
            if index == 0:
                self.shapes: Shapes = shapes
            if shapes != self.shapes:
                raise FormatError(f"{name}, point {index} has other parameter shapes than point 0")

    @property
    def epochs(self) -> int:
        """T, the last epoch."""
        return len(self._points) - 1

    @property
    def shape(self) -> tuple[int, int]:
        """(points, P)."""
        return len(self._points), sum(tensor.numel() for tensor in self._points[0])

    def row(self, index: int) -> Tensor:
        """Return point `index` as a new flat tensor [P], in float64 if the file has float64, otherwise float32.

        Raises:
            FormatError: the point holds NaN or infinity.
        """
        row = torch.cat([tensor.detach().reshape(-1) for tensor in self._points[index]])
        if not bool(torch.isfinite(row).all()):
            raise FormatError(f"{self._name}, point {index} holds NaN or infinity: the training diverged")
        return row if row.dtype == torch.float64 else row.float()

    def check_moves(self) -> None:
        """Raise FormatError if the last point equals the first.

        On a CPU, MTT's buffer.py stores references instead of copies, so that every epoch equals the last one.
        """
        if torch.equal(self.row(0), self.row(len(self._points) - 1)):
            raise FormatError(
                f"{self._name} ends exactly where it begins, so it records no training "
                "(MTT's buffer.py writes such files when run on a CPU)"
            )


_Expert = TypeVar("_Expert", bound=ListRows)


def read_all(
    files: Sequence[Path], read: Callable[[Path], list[_Expert]], record: ExpertsRecord, per_file: int | None
) -> Iterator[tuple[dict[str, Any], _Expert]]:
    """Yield the experts of all files, up to `per_file` of each, with the file and the position of every expert."""
    if per_file is not None and per_file < 1:
        raise InputError(f"per_file must be at least 1 (or None for all experts of a file), not {per_file}")
    for file in files:
        for position, expert in enumerate(read(file)[:per_file]):
            _check_record(expert, record, f"{file}, expert {position}")
            yield {"source": file.name, "position": position}, expert


def _check_record(expert: ListRows, record: ExpertsRecord, where: str) -> None:
    """Raise a MismatchError if shapes or epochs differ from the record's; it names the first difference."""
    layout, shapes, epochs = record.layout, expert.shapes, expert.epochs
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


def add_all(
    store: TrajectoryStore,
    experts: Iterator[tuple[dict[str, Any], ListRows | ConvexifiedTrajectory]],
    on_progress: Callable[[int], None] | None,
) -> None:
    """Add experts with their details to a store that may hold some of them already, but no others."""
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


def export_files(
    store: TrajectoryStore, path: str | os.PathLike[str], stem: str, per_file: int, write: Callable[[range, Path], None]
) -> list[Path]:
    """Write the experts of a store as `STEM_0.pt`, `STEM_1.pt`, … and return these paths.

    Args:
        path: the folder of the files.
        per_file: the most experts in one file.
        write: writes the experts at these positions to this file.

    Raises:
        InputError: the store is empty, or per_file is below 1; or the folder holds files of higher numbers, which
            readers would add to this export.
    """
    if per_file < 1 or not len(store):
        raise InputError(f"experts_per_file = {per_file} and the number of experts = {len(store)} must be 1 or more")
    folder, starts = Path(path), range(0, len(store), per_file)
    count = len(starts)
    matches = [re.fullmatch(rf"{re.escape(stem)}_([0-9]+)\.pt", path.name) for path in folder.glob(f"{stem}_*.pt")]
    others = sorted(int(match[1]) for match in matches if match and int(match[1]) >= count)
    if others:
        names = ", ".join(f"{stem}_{number}.pt" for number in others[:4]) + (", …" if len(others) > 4 else "")
        raise InputError(
            f"{folder} holds {names} of another export, which readers would add to the {count} files of this one; "
            "move them elsewhere, or choose another folder"
        )
    files = [folder / f"{stem}_{number}.pt" for number in range(count)]
    for first, file in zip(starts, files, strict=True):
        write(range(first, min(first + per_file, len(store))), file)
    return files


def numbered_files(paths: Paths, pattern: str) -> list[Path]:
    """Return the files to read, sorted by the numbers that end their names.

    Args:
        paths: a folder, all of whose matching files are read; or one file; or several files in order.
        pattern: regular expression of the file names in a folder, with the number as its last group.

    Raises:
        InputError: no file matches.
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
