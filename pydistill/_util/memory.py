"""Measure the peak memory of this process and the memory that it can still allocate."""

from __future__ import annotations

import ctypes
import os
import re
import resource
from pathlib import Path
from typing import TYPE_CHECKING

from pydistill.errors import InputError, OutOfMemoryError, SettingError

if TYPE_CHECKING:
    import torch

_BUDGET = re.compile(r"(\d+(?:\.\d+)?) ?(%|[kMGT]?B)")
_BYTES = {"B": 1, "kB": 10**3, "MB": 10**6, "GB": 10**9, "TB": 10**12}
_M_MMAP_MAX, _M_TRIM_THRESHOLD = -4, -1  # of glibc's malloc.h
_MEMINFO = Path("/proc/meminfo")
_OWN_CGROUP = Path("/proc/self/cgroup")
_CGROUPS = Path("/sys/fs/cgroup")


def peak_resident() -> int:
    """Return the peak resident memory of this process since it started, in bytes."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024


def keep_freed_memory() -> None:
    """Make glibc's malloc, PyTorch's allocator on the CPU, keep freed memory instead of returning it to the system.

    Returned memory costs a page fault for every page when it is used again, which can take as long as the arithmetic of
    a training step. It holds for the process. Nothing is changed by another C library, if the environment sets malloc
    (`MALLOC_…`, `GLIBC_TUNABLES`), or with `PYDISTILL_MALLOC=default`.
    """
    environment = os.environ
    if environment.get("PYDISTILL_MALLOC") == "default" or "GLIBC_TUNABLES" in environment:
        return
    if any(name.startswith("MALLOC_") for name in environment):
        return
    try:
        mallopt = ctypes.CDLL(None).mallopt
    except (OSError, AttributeError):
        return
    mallopt(_M_MMAP_MAX, 0)
    mallopt(_M_TRIM_THRESHOLD, -1)


def available_memory() -> int | None:
    """Return how many bytes this process can still allocate, or None if the system does not say.

    On Linux this is the machine's available memory, or the rest of the tightest limit of the process's cgroups
    (version 2, as in containers) if that is less.
    """
    limits = [limit for limit in (_machine_available(), _cgroup_available()) if limit is not None]
    return min(limits, default=None)


def check_memory_available(needed: int, subject: str, *remedy: str) -> None:
    """Refuse an allocation that cannot fit.

    Args:
        needed: bytes, at least.
        subject: of the message, a singular noun phrase that names the allocation.
        remedy: the setting to change, in parts of text and names.

    Raises:
        OutOfMemoryError: less is available.
    """
    available = available_memory()
    if available is not None and needed > available:
        raise OutOfMemoryError(
            f"{subject} needs {needed / 2**30:.1f} GiB and {available / 2**30:.1f} GiB are free; ", *remedy
        )


def memory_budget(memory: object, device: torch.device) -> int | None:
    """Convert a budget of memory to bytes.

    Args:
        memory: a text such as "4GB" or "500MB"; "50%", or a fraction in [0, 1], of the memory that is free on the
            device now; or None, which is returned.

    Raises:
        SettingError: it is something else.
        InputError: a fraction is asked for and the system does not say what is free.
    """
    if memory is None:
        return None
    text = f"{100 * memory:f}%" if isinstance(memory, float) else str(memory)
    match = _BUDGET.fullmatch(text)
    if match is None or (match[2] == "%" and float(match[1]) > 100):
        raise SettingError("memory", memory, 'a text such as "4GB", or "50%" of what is free')
    if match[2] != "%":
        return int(float(match[1]) * _BYTES[match[2]])
    if device.type == "cuda":
        import torch  # not above: the command line's help imports this module

        free: int | None = torch.cuda.mem_get_info(device)[0]
    else:
        free = available_memory()
    if free is None:
        raise InputError('the system does not say how much memory is free; give memory in bytes, such as "4GB"')
    return int(float(match[1]) / 100 * free)


def is_out_of_memory(error: BaseException) -> bool:
    """Return whether memory ran out: Python's error, or PyTorch's on a GPU or, which has no type, on the CPU."""
    return (
        isinstance(error, MemoryError)
        or type(error).__name__ == "OutOfMemoryError"
        or (isinstance(error, RuntimeError) and "can't allocate memory" in str(error))
    )


def _machine_available() -> int | None:
    """Read MemAvailable; None if there is no such line."""
    try:
        values = dict(line.split(":", 1) for line in _MEMINFO.read_text(encoding="ascii").splitlines())
        return int(values["MemAvailable"].split()[0]) * 1024
    except (OSError, ValueError, LookupError):
        return None


def _cgroup_available() -> int | None:
    """Return the rest of the tightest limit on this process's cgroup and its parents; None without a limit."""
    try:
        lines = _OWN_CGROUP.read_text(encoding="utf-8").splitlines()
    except (OSError, ValueError):
        return None
    own = next((line.removeprefix("0::/") for line in lines if line.startswith("0::/")), None)
    if own is None or ".." in Path(own).parts:  # a path outside this cgroup namespace
        return None
    group = _CGROUPS / own
    groups = [group, *(parent for parent in group.parents if parent.is_relative_to(_CGROUPS))]
    return min((limit for limit in map(_limit_of_cgroup, groups) if limit is not None), default=None)


def _limit_of_cgroup(group: Path) -> int | None:
    try:
        # "max", which means no limit, raises ValueError
        limit = int((group / "memory.max").read_text(encoding="ascii"))
        used = int((group / "memory.current").read_text(encoding="ascii"))
        usage = dict(line.split() for line in (group / "memory.stat").read_text(encoding="ascii").splitlines())
        file_cache = int(usage.get("inactive_file", 0)) + int(usage.get("active_file", 0))  # reclaimed on demand
    except (OSError, ValueError):
        return None
    return max(0, limit - used + file_cache)
