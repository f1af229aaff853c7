"""The most memory that a piece of work needed: resident memory of this process, and a GPU's."""

from __future__ import annotations

import resource
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import torch

from pydistill.errors import OutOfMemoryError

_RESET = Path("/proc/self/clear_refs")
_STATUS = Path("/proc/self/status")


@dataclass
class Peak:
    """Bytes at the highest moment so far: of the process, and of tensors on the GPU (None without one)."""

    resident: int = 0
    device: int | None = None


@contextmanager
def peak_memory(device: torch.device | str) -> Iterator[Peak]:
    """Measures the body: the peak is in the yielded object when the body has ended.

    Where the kernel does not let the mark be lowered, the resident peak is that of the process since its beginning.
    """
    peak = Peak()
    on_gpu = torch.device(device).type == "cuda"
    lowered = _lower_the_mark()
    if on_gpu:
        torch.cuda.reset_peak_memory_stats(device)
    yield peak
    peak.resident = _high_water() if lowered else highest_resident()
    peak.device = torch.cuda.max_memory_allocated(device) if on_gpu else None


def highest_resident() -> int:
    """Peak resident memory of this process since its beginning, in bytes."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024


def _lower_the_mark() -> bool:
    """Begin Linux's high-water mark anew; returns whether that was possible."""
    try:
        _RESET.write_text("5", encoding="ascii")
        _high_water()
    except (OSError, StopIteration):
        return False
    return True


def _high_water() -> int:
    lines = _STATUS.read_text(encoding="ascii").splitlines()
    return int(next(line for line in lines if line.startswith("VmHWM")).split()[1]) * 1024


_MEMORY = Path("/proc/meminfo")
_OWN_GROUP = Path("/proc/self/cgroup")
_GROUPS = Path("/sys/fs/cgroup")


def available_memory() -> int | None:
    """Bytes that this process can still be given, or None where the machine does not tell (Linux does).

    They are what the machine has, or what its control groups (version 2: containers, services) are still allowed,
    whichever is less.
    """
    found = [each for each in (_of_the_machine(), _of_the_groups()) if each is not None]
    return min(found, default=None)


def check_memory_available(needed: int, what: str, remedy: str) -> None:
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


def _of_the_machine() -> int | None:
    try:
        lines = _MEMORY.read_text(encoding="ascii").splitlines()
        found = [line.split()[1] for line in lines if line.startswith("MemAvailable:")]
        return int(found[0]) * 1024 if found else None
    except (OSError, ValueError, IndexError):  # a form that is not known tells nothing
        return None


def _of_the_groups() -> int | None:
    """What the tightest of the process's group and those above it is still allowed; None without a limit."""
    try:
        lines = _OWN_GROUP.read_text(encoding="utf-8").splitlines()
    except (OSError, ValueError):
        return None
    own = [line.removeprefix("0::/") for line in lines if line.startswith("0::/")]
    if not own or ".." in Path(own[0]).parts:  # of another namespace, which does not tell
        return None
    group = _GROUPS / own[0]
    within = [group, *(each for each in group.parents if each.is_relative_to(_GROUPS))]
    return min((left for each in within if (left := _of_the_group(each)) is not None), default=None)


def _of_the_group(group: Path) -> int | None:
    try:
        limit = (group / "memory.max").read_text(encoding="ascii").strip()
        used = int((group / "memory.current").read_text(encoding="ascii"))
        held = dict(line.split() for line in (group / "memory.stat").read_text(encoding="ascii").splitlines())
        if limit == "max":
            return None
        cached = int(held.get("inactive_file", 0)) + int(held.get("active_file", 0))  # given back before a kill
        return max(0, int(limit) - used + cached)
    except (OSError, ValueError):  # the uppermost has none of them; a form that is not known tells nothing
        return None
