"""The buffers that `buffer` writes, recognised by their digests."""

from __future__ import annotations

import re
import shutil
from collections.abc import Iterable
from pathlib import Path

from pydistill._util.files import read_json, sha256_of, write_json
from pydistill.errors import FormatError, InputError
from pydistill.trajectories import TrajectoryStore, export_mtt

RECORD = "pydistill-exported.json"
"""SHA-256 of every buffer written here, by file name: one, or two while it is being replaced."""
STAGING = ".pydistill-exporting"
_NAME = r"replay_buffer_[0-9]+\.pt"  # what the record names is removed, so never a path


def refuse_foreign(folder: Path, names: Iterable[str]) -> None:
    """Refuse to go on if one of these files, or of those written here before, is there and not as it was written here.

    Raises:
        InputError: that is so.
        FormatError: the record of what was written is damaged.
    """
    written = _recorded(folder)
    for name in dict.fromkeys([*names, *written]):
        file = folder / name
        if file.exists() and (name not in written or sha256_of(file) not in written[name]):
            raise InputError(
                f"{file} would be replaced or removed and is of another program, or was changed since it was written "
                "here; choose another --buffer_path, or move it away"
            )


def export_buffers(store: TrajectoryStore, folder: Path, experts_per_file: int) -> list[Path]:
    """Write the experts as `replay_buffer_N.pt`, in place of all that were written here before; returns the files.

    Raises:
        InputError: a file of that name is of another program.
        FormatError: the record of what was written is damaged.
        WriteError: the disk is full.
    """
    staging = folder / STAGING
    shutil.rmtree(staging, ignore_errors=True)
    try:
        staged = export_mtt(store, staging, experts_per_file=experts_per_file)
        refuse_foreign(folder, [file.name for file in staged])
        before = _recorded(folder)
        now = {file.name: [sha256_of(file)] for file in staged}
        # Both digests are good while files are moved, so that a command killed here can be given again.
        write_json(folder / RECORD, before | {name: before.get(name, []) + new for name, new in now.items()})
        files = [file.replace(folder / file.name) for file in staged]
        # What an export with more files left would be read as further experts, which it holds a second time.
        for name in before.keys() - now.keys():
            (folder / name).unlink(missing_ok=True)
        write_json(folder / RECORD, now)
    finally:
        shutil.rmtree(staging, ignore_errors=True)
    return files


def _recorded(folder: Path) -> dict[str, list[str]]:
    path = folder / RECORD
    if not path.exists():
        return {}
    found = read_json(path)
    if not isinstance(found, dict) or not all(
        re.fullmatch(_NAME, name) and isinstance(each, list) and all(isinstance(digest, str) for digest in each)
        for name, each in found.items()
    ):
        raise FormatError(f"{path} is damaged; remove it, and the buffers beside it if they were written here")
    return found
