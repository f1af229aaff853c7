"""From which buffers a store was imported: kept in the store, so that it is read again only where they are the same."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from pydistill._util.files import read_json, sha256_of, write_json
from pydistill.errors import FormatError, InputError

NAME = "sources.json"


def keep_sources(out: Path, files: Sequence[Path], per_file: int | None) -> None:
    """Write down that the store in `out` holds all experts of these files, or the first `per_file` of each."""
    about = {file.name: _state(file) | {"sha256": sha256_of(file)} for file in files}
    write_json(out / NAME, {"experts_per_file": per_file, "files": about})


def imported_before(out: Path, files: Sequence[Path], per_file: int | None) -> bool:
    """True if the store in `out` was converted from these files; False if unknown.

    Raises:
        InputError: it was imported from other files, with another limit, or the files have changed since.
        FormatError: what it tells is damaged.
    """
    path = out / NAME
    if not path.exists():
        return False
    found = read_json(path)
    about = found.get("files") if isinstance(found, dict) else None
    if not isinstance(about, dict) or not all(isinstance(each, dict) for each in about.values()):
        raise FormatError(f"{path} is damaged; remove {out} to import the buffers again")
    again = f"remove {out} to import again, or choose another folder by --experts"
    before, now = _told(list(about), found.get("experts_per_file")), _told([file.name for file in files], per_file)
    if before != now:
        raise InputError(f"{out} holds the experts imported from {before}, and this command asks for {now}; {again}")
    for file in files:
        if not file.is_file():
            raise InputError(f"{file} is gone, from which the experts in {out} were imported; {again}")
        state = _state(file)
        # A copy has another time and the same content.
        unlike = state["bytes"] != about[file.name].get("bytes")
        moved = state["modified"] != about[file.name].get("modified")
        if unlike or (moved and sha256_of(file) != about[file.name].get("sha256")):
            raise InputError(f"{file} has changed since its experts were imported into {out}; {again}")
    return True


def _state(file: Path) -> dict[str, Any]:
    status = file.stat()
    return {"bytes": status.st_size, "modified": status.st_mtime_ns}


def _told(names: Sequence[str], per_file: Any) -> str:
    which = (
        "all experts" if per_file is None else "the first expert" if per_file == 1 else f"the first {per_file} experts"
    )
    return f"{which} of {', '.join(names)}"
