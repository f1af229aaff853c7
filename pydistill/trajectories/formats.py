"""What the readers and writers of other people's expert files share: untrusted loading, checks, numbered files."""

from __future__ import annotations

import os
import re
import zipfile
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from pydistill._util.files import atomic_path
from pydistill.errors import FormatError, InputError, MismatchError
from pydistill.trajectories.record import ExpertsRecord

Shapes = tuple[tuple[int, ...], ...]


@dataclass(frozen=True)
class ForeignLayout:
    """What a foreign file holds, without its numbers.

    Attributes:
        experts: how many.
        epochs: T, the last epoch.
        shapes: of the parameter tensors, in order; foreign files do not name them.
        waypoint_epochs: of convexified experts; empty for recorded ones.
    """

    experts: int
    epochs: int
    shapes: Shapes
    waypoint_epochs: tuple[int, ...] = ()


def load_untrusted(path: Path) -> Any:
    """The content of a torch-saved file, from which no code is ever run; large tensors stay in the file.

    Raises:
        InputError: there is no such file.
        FormatError: damaged, or more than plain containers and tensors.
    """
    if not path.is_file():
        raise InputError(f"{path} does not exist; give the path of a file that does")
    try:
        return torch.load(path, map_location="cpu", weights_only=True, mmap=zipfile.is_zipfile(path))
    except Exception as error:  # a damaged pickle can fail with nearly any type of error
        raise FormatError(
            f"{path} cannot be read as plain tensors: it is damaged, or reading it would mean running code "
            "that it carries; nothing was run"
        ) from error


def save_torch(value: Any, path: Path) -> None:
    """`torch.save`, atomically.

    Raises:
        WriteError: the disk is full or the folder cannot be written.
    """
    with atomic_path(path) as temporary:
        try:
            with open(temporary, "wb") as handle:  # given a path, torch does not tell what the system said
                torch.save(value, handle)
        except RuntimeError as error:  # what torch makes of a failed write when it ends the file
            if isinstance(error.__context__, OSError):
                raise OSError(*error.__context__.args) from error
            raise


def listed(value: Any, what: str) -> list[Any]:
    """`value` itself, a list (or tuple) with at least one element.

    Raises:
        FormatError: it is not; `what` names it.
    """
    if not isinstance(value, (list, tuple)) or not value:
        raise FormatError(f"{what} is not a list with something in it")
    return list(value)


def parameter_tensors(value: Any, what: str) -> list[Tensor]:
    """`value` as a list of parameter tensors: dense, floating, in memory or mapped.

    Raises:
        FormatError: it is something else; `what` names it.
    """
    tensors = listed(value, what)
    for tensor in tensors:
        if not is_plain_tensor(tensor) or not tensor.dtype.is_floating_point:
            raise FormatError(f"{what} holds something that is not a dense floating tensor")
    return tensors


def is_plain_tensor(value: Any) -> bool:
    """Whether it is a dense tensor of numbers in memory, or mapped, with an element of its own in each place.

    A file of a hundred bytes can hold a view that repeats one number 2^40 times; copying it would need all memory.
    """
    if not isinstance(value, Tensor) or value.layout != torch.strided or value.is_quantized:
        return False
    return value.device.type == "cpu" and value.numel() * value.element_size() <= value.untyped_storage().nbytes()


def shapes_of(tensors: Sequence[Tensor]) -> Shapes:
    """Their shapes."""
    return tuple(tuple(tensor.shape) for tensor in tensors)


class ListRows:
    """Rows of flat parameters out of lists of parameter tensors, as foreign files keep them."""

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
        """Point `index` as a new flat tensor [P], float64 if the file has that and else float32.

        Raises:
            FormatError: it holds NaN or infinity.
        """
        row = torch.cat([tensor.detach().reshape(-1) for tensor in self._points[index]])
        if not bool(torch.isfinite(row).all()):
            raise FormatError(f"{self._what}, point {index} holds NaN or infinity: the training diverged")
        return row if row.dtype == torch.float64 else row.float()

    def check_moves(self) -> None:
        """Refuse an expert that ends where it began.

        MTT's buffer.py keeps references instead of copies when it runs on a CPU: every epoch is then the
        last.

        Raises:
            FormatError: the first and the last point are the same.
        """
        if torch.equal(self.row(0), self.row(len(self._points) - 1)):
            raise FormatError(
                f"{self._what} ends exactly where it begins, so it records no training "
                "(MTT's buffer.py writes such files when run on a CPU)"
            )


def check_record(shapes: Shapes, epochs: int, record: ExpertsRecord, where: str) -> None:
    """Refuse a file whose shapes or number of epochs are not the record's.

    Raises:
        MismatchError: naming the first parameter that differs, or the epochs, and both sides.
    """
    wanted = record.layout
    if len(shapes) != len(wanted.shapes):
        raise MismatchError(
            f"{where} and the record do not agree: the experts have {len(shapes)} parameter tensors "
            f"in the file and {len(wanted.shapes)} in the record ({record.architecture})"
        )
    for name, found, expected in zip(wanted.names, shapes, wanted.shapes, strict=True):
        if found != expected:
            hint = ""
            if record.in_channels == 1 and name == wanted.names[-2]:
                hint = " (experts of MTT's ConvNet on one-channel images have first_padding=3)"
            raise MismatchError(
                f"{where} and the record do not agree: parameter {name} is {list(found)} in the file "
                f"and {list(expected)} in the record ({record.architecture}){hint}"
            )
    if epochs != record.epochs:
        raise MismatchError(
            f"{where} and the record do not agree: the experts end at epoch {epochs} in the file "
            f"and at epoch {record.epochs} in the record"
        )


def check_count(found: int, imported: int, out: str | os.PathLike[str]) -> None:
    """Refuse a store that holds experts of an earlier import beside those of this one.

    Raises:
        MismatchError: it holds more than were imported.
    """
    if found != imported:
        raise MismatchError(
            f"{out} holds {found} experts and the files to import {imported}: the others are of another import; "
            "remove it to import again, or choose another folder"
        )


def refuse_others(folder: Path, stem: str, count: int) -> None:
    """Refuse to export `STEM_0.pt` … into a folder that holds further files of the name, which stay.

    Raises:
        InputError: there are any from `count` on: readers would take them for experts of the export.
    """
    matches = [re.fullmatch(rf"{re.escape(stem)}_([0-9]+)\.pt", path.name) for path in folder.glob(f"{stem}_*.pt")]
    others = sorted(int(match[1]) for match in matches if match and int(match[1]) >= count)
    if others:
        names = ", ".join(f"{stem}_{number}.pt" for number in others[:4]) + (", …" if len(others) > 4 else "")
        raise InputError(
            f"{folder} holds {names} of another export, which its readers would add to the {count} to be written; "
            "remove them, or choose another folder"
        )


def numbered_files(paths: str | os.PathLike[str] | Iterable[str | os.PathLike[str]], pattern: str) -> list[Path]:
    """The files to read, in the order of the number that ends their names.

    Args:
        paths: a folder, whose files that match are taken; or one file; or several, taken as they are.
        pattern: regular expression of the file names in a folder, with the number as its last group.

    Raises:
        InputError: nothing to read.
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
