"""Export experts as buffers, without overwriting buffers of other programs."""

from __future__ import annotations

import re
import shutil
from collections.abc import Iterable, Sequence
from pathlib import Path

from pydistill._util.files import read_json, refuse_links, sha256_of, write_json
from pydistill._util.format import counted
from pydistill.errors import FormatError, InputError
from pydistill.trajectories import TrajectoryStore, export_mct, export_mtt
from pydistill.trajectories.formats.mct import waypoint_stem

_RECORD = "pydistill-exported.json"
"""Name of the file with the SHA-256 digests of the exported buffers; a buffer that is being replaced has two."""
_STAGING = ".pydistill-exporting"
# Files named in the record are removed, so no name may be a path.
_NAME = r"(replay|waypoint|step)_buffer(_[a-z0-9]+)?_[0-9]+\.pt"


def refuse_foreign(folder: Path, names: Iterable[str], record: str = _RECORD) -> None:
    """Raise InputError if another program wrote or changed a buffer that is to be written or removed.

    These are the buffers of the names, and those that earlier exports wrote.
    """
    written = _recorded(folder / record)
    for name in dict.fromkeys([*names, *written]):
        file = folder / name
        if file.exists() and (name not in written or sha256_of(file) not in written[name]):
            raise InputError(
                f"{file} would be overwritten or removed, but another program wrote or changed it; choose another "
                "--buffer_path, or move the file"
            )


def export_buffers(store: TrajectoryStore, folder: Path, experts_per_file: int) -> list[Path]:
    """Write the experts as `replay_buffer_N.pt`, or as MCT's pairs if they are convexified; return the files.

    All earlier exports of the same kind are replaced.

    Raises:
        InputError: another program wrote or changed a file of that name.
        FormatError: the record of written buffers is damaged.
        WriteError: the disk is full.
    """
    export, record = export_mtt, _RECORD
    if store.kind == "convexified":
        stem = waypoint_stem(len(store.convexification["waypoints"]), store.convexification["fractions"])
        export, record = export_mct, f"pydistill-exported-{stem}.json"
    staging = folder / _STAGING
    shutil.rmtree(staging, ignore_errors=True)
    refuse_links(folder, (_STAGING,))  # it stays, as rmtree follows none
    try:
        read = export(store, staging, experts_per_file=experts_per_file)
        staged = sorted(staging.glob("*.pt"))  # step files before the waypoint files, for which readers look
        refuse_foreign(folder, [file.name for file in staged], record)
        old = _recorded(folder / record)
        new = {file.name: [sha256_of(file)] for file in staged}
        # Until all files are moved both digests are valid, so that a command killed here can be run again.
        write_json(folder / record, old | {name: old.get(name, []) + digests for name, digests in new.items()})
        for file in staged:
            file.replace(folder / file.name)
        # Files of an earlier export with more files would be read as additional experts.
        for name in old.keys() - new.keys():
            (folder / name).unlink(missing_ok=True)
        write_json(folder / record, new)
    finally:
        shutil.rmtree(staging, ignore_errors=True)
    return [folder / file.name for file in read]


def exported(count: int, files: Sequence[Path]) -> str:
    """Describe an export of so many experts, such as 20 experts in buffers/replay_buffer_0.pt … replay_buffer_1.pt."""
    return f"{counted(count, 'expert')} in {files[0]}{f' … {files[-1].name}' if len(files) > 1 else ''}"


def _recorded(path: Path) -> dict[str, list[str]]:
    if not path.exists():
        return {}
    record = read_json(path)
    if not isinstance(record, dict) or not all(
        re.fullmatch(_NAME, name) and isinstance(digests, list) and all(isinstance(digest, str) for digest in digests)
        for name, digests in record.items()
    ):
        raise FormatError(f"{path} is damaged; choose another --buffer_path, or move it and the buffers beside it")
    return record
