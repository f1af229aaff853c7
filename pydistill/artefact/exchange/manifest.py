"""Read and write the manifest of an export, which records the preprocessing of its images.

    preprocessing.json    {"kind": "normalise", "mean": […], "std": […], "files": {name: SHA-256}}, or kind "zca"

It implies that the images are class-major, as in all exports. It applies only to the files whose digests it lists.
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
    """The preprocessing of an export's images: a normalisation, or None for ZCA, whose matrices are not stored."""

    normalisation: Normalise | None


def write(preprocessing: Preprocessing, files: Sequence[Path], folder: Path) -> Path:
    """Write the manifest of an export of these files; returns its path."""
    about: dict[str, Any] = {"kind": preprocessing.kind}
    if isinstance(preprocessing, Normalise):
        about |= {"mean": preprocessing.mean.tolist(), "std": preprocessing.std.tolist()}
    about["files"] = {file.name: sha256_of(file) for file in files if file.name.startswith(("images", "labels"))}
    write_json(folder / NAME, about)
    return folder / NAME


def read(folder: Path, files: Mapping[str, str]) -> Manifest | None:
    """Read the manifest of the files with these digests by name; None without a manifest for them.

    Raises:
        FormatError: the manifest is damaged.
    """
    path = folder / NAME
    if not path.is_file():
        return None
    about = read_json(path)
    digests = about.get("files") if isinstance(about, dict) else None
    if not isinstance(digests, dict) or not digests or about.get("kind") not in ("normalise", "zca"):
        raise FormatError(f"{path} is damaged; export the set again, or remove this file and pass the preprocessing")
    if any(files.get(name) != digest for name, digest in digests.items()):
        return None
    if about["kind"] == "zca":
        return Manifest(None)
    try:
        mean, std = (torch.tensor(about[name], dtype=torch.float64) for name in ("mean", "std"))
        return Manifest(Normalise(mean, std))
    except (KeyError, TypeError, ValueError, RuntimeError, OverflowError, InputError) as error:
        raise FormatError(f"{path} is damaged: its mean and std are not one number per channel ({error})") from error
