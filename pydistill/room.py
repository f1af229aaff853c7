"""Whether something fits into memory, asked before it is tried: who takes too much is killed without a word."""

from __future__ import annotations

from pathlib import Path

from pydistill.errors import OutOfMemoryError

_MEMORY = Path("/proc/meminfo")


def available_memory() -> int | None:
    """Bytes that this machine can still give, or None where it does not tell (it is asked as Linux has it)."""
    try:
        lines = _MEMORY.read_text(encoding="ascii").splitlines()
    except OSError:
        return None
    found = [line.split()[1] for line in lines if line.startswith("MemAvailable:")]
    return int(found[0]) * 1024 if found else None


def check_room(needed: int, what: str, remedy: str) -> None:
    """Refuse what cannot fit.

    Args:
        needed: bytes, at the least.
        what: needs them; the message's subject, in the singular.
        remedy: the setting to change.

    Raises:
        OutOfMemoryError: more is needed than there is.
    """
    free = available_memory()
    if free is not None and needed > free:
        raise OutOfMemoryError(f"{what} needs {needed / 2**30:.1f} GiB and {free / 2**30:.1f} GiB are free; {remedy}")
