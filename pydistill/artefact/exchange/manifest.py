"""What an export leaves beside its files, so that an import need not guess: what made the images of pixels.

    preprocessing.json    {"kind": "normalise", "mean": […], "std": […], "files": {name: SHA-256}}, or kind "zca"

The order of the images is told by the same file: exports are class-major. It says nothing of other images and labels,
so one that lies beside files with other digests is as if it were not there.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from pydistill._util.files import read_json, sha256_of, write_json
from pydistill.data import Normalise, Preprocessing
from pydistill.errors import FormatError, InputError

NAME = "preprocessing.json"


@dataclass(frozen=True)
class Manifest:
    """What an export told of its images.

    Attributes:
        kind: normalise or zca.
        normalisation: its numbers; None for zca, whose matrices are not among them.
    """

    kind: str
    normalisation: Normalise | None


def write(preprocessing: Preprocessing, files: Sequence[Path], folder: Path) -> Path:
    """Write the file for an export of these files; returns its path."""
    about: dict[str, Any] = {"kind": preprocessing.kind}
    if isinstance(preprocessing, Normalise):
        about |= {"mean": preprocessing.mean.tolist(), "std": preprocessing.std.tolist()}
    about["files"] = {file.name: sha256_of(file) for file in files if file.name.startswith(("images", "labels"))}
    write_json(folder / NAME, about)
    return folder / NAME


def read(folder: Path, files: Mapping[str, str]) -> Manifest | None:
    """What is told of files with these digests by name; None where nothing is.

    Raises:
        FormatError: the file is damaged.
    """
    path = folder / NAME
    if not path.is_file():
        return None
    found = read_json(path)
    told = found.get("files") if isinstance(found, dict) else None
    if not isinstance(told, dict) or not told or found.get("kind") not in ("normalise", "zca"):
        raise FormatError(f"{path} is damaged; export the set again, or remove this file and say what it says")
    if any(files.get(name) != digest for name, digest in told.items()):
        return None
    if found["kind"] == "zca":
        return Manifest("zca", None)
    try:
        mean, std = (torch.tensor(found[name], dtype=torch.float64) for name in ("mean", "std"))
        return Manifest("normalise", Normalise(mean, std))
    except (KeyError, TypeError, ValueError, RuntimeError, OverflowError, InputError) as error:
        raise FormatError(f"{path} is damaged: its mean and std are no numbers per channel ({error})") from error
