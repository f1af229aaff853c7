"""Export experts as buffers, without overwriting buffers of other programs."""

from __future__ import annotations

import re
import shutil
from collections.abc import Iterable
from pathlib import Path

from pydistill._util.files import read_json, refuse_links, sha256_of, write_json
from pydistill.errors import FormatError, InputError
from pydistill.trajectories import TrajectoryStore, export_mtt

_RECORD = "pydistill-exported.json"
"""Name of the file with the SHA-256 digests of the exported buffers; a buffer that is being replaced has two."""
_STAGING = ".pydistill-exporting"
_NAME = r"replay_buffer_[0-9]+\.pt"  # files named in the record are removed, so no name may be a path


def refuse_foreign(folder: Path, names: Iterable[str]) -> None:
    """Raise InputError if another program wrote or changed a buffer that is to be written or removed.

    These are the buffers of the names, and those that earlier exports wrote.
    """
    written = _recorded(folder)
    for name in dict.fromkeys([*names, *written]):
        file = folder / name
        if file.exists() and (name not in written or sha256_of(file) not in written[name]):
            raise InputError(
                f"{file} would be overwritten or removed, but another program wrote or changed it; choose another "
                "--buffer_path, or move the file"
            )


def export_buffers(store: TrajectoryStore, folder: Path, experts_per_file: int) -> list[Path]:
    """Write the experts as `replay_buffer_N.pt`, replacing all earlier exports; return the files.

    Raises:
        InputError: another program wrote or changed a file of that name.
        FormatError: the record of written buffers is damaged.
        WriteError: the disk is full.
    """
    staging = folder / _STAGING
    shutil.rmtree(staging, ignore_errors=True)
    refuse_links(folder, (_STAGING,))  # it stays, as rmtree follows none
    try:
        staged = export_mtt(store, staging, experts_per_file=experts_per_file)
        refuse_foreign(folder, [file.name for file in staged])
        old = _recorded(folder)
        new = {file.name: [sha256_of(file)] for file in staged}
        # Until all files are moved both digests are valid, so that a command killed here can be run again.
        write_json(folder / _RECORD, old | {name: old.get(name, []) + digests for name, digests in new.items()})
        files = [file.replace(folder / file.name) for file in staged]
        # Files of an earlier export with more files would be read as additional experts.
        for name in old.keys() - new.keys():
            (folder / name).unlink(missing_ok=True)
        write_json(folder / _RECORD, new)
    finally:
        shutil.rmtree(staging, ignore_errors=True)
    return files


def _recorded(folder: Path) -> dict[str, list[str]]:
    path = folder / _RECORD
    if not path.exists():
        return {}
    record = read_json(path)
    if not isinstance(record, dict) or not all(
        re.fullmatch(_NAME, name) and isinstance(digests, list) and all(isinstance(digest, str) for digest in digests)
        for name, digests in record.items()
    ):
        raise FormatError(f"{path} is damaged; remove it, and the buffers in its folder that pydistill wrote")
    return record
