"""Record the buffers of an import, so that a later command reads them again only if they have changed."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from pydistill._util.files import read_json, sha256_of, write_json
from pydistill._util.locking import only_writer
from pydistill.errors import FormatError, InputError

NAME = "sources.json"


def write_sources(out: Path, files: Sequence[Path], per_file: int | None) -> None:
    """Record that the store in `out` holds all experts of these files, or the first `per_file` per file."""
    sources = {file.name: _state(file) | {"sha256": sha256_of(file)} for file in files}
    with only_writer(out, wait=True, writes=(NAME,)):
        write_json(out / NAME, {"experts_per_file": per_file, "files": sources})


def already_imported(out: Path, files: Sequence[Path], per_file: int | None) -> bool:
    """Return True if the store in `out` was imported from these files, False if it has no record of its sources.

    Raises:
        InputError: it was imported from other files, with another limit, or the files have changed since.
        FormatError: the record is damaged.
    """
    path = out / NAME
    if not path.exists():
        return False
    record = read_json(path)
    sources = record.get("files") if isinstance(record, dict) else None
    if not isinstance(sources, dict) or not all(isinstance(state, dict) for state in sources.values()):
        raise FormatError(f"{path} is damaged; remove {out} to import the buffers again")
    remedy = f"remove {out} to import again, or choose another folder with --experts"
    stored = _describe(list(sources), record.get("experts_per_file"))
    requested = _describe([file.name for file in files], per_file)
    if stored != requested:
        raise InputError(f"{out} holds {stored}, but the flags select {requested}; {remedy}")
    for file in files:
        if not file.is_file():
            raise InputError(f"{file}, the source of experts in {out}, does not exist any more; {remedy}")
        state = _state(file)
        source = sources[file.name]
        resized = state["bytes"] != source.get("bytes")
        touched = state["modified"] != source.get("modified")  # a copy has another time, but the same content
        if resized or (touched and sha256_of(file) != source.get("sha256")):
            raise InputError(f"{file} has changed since its experts were imported into {out}; {remedy}")
    return True


def _state(file: Path) -> dict[str, Any]:
    status = file.stat()
    return {"bytes": status.st_size, "modified": status.st_mtime_ns}


def _describe(names: Sequence[str], per_file: Any) -> str:
    limit = "all experts" if per_file is None else f"the first {per_file} experts"
    return f"{'the first expert' if per_file == 1 else limit} of {', '.join(names)}"
