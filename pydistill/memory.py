"""The most memory that a piece of work needed: resident memory of this process, and a GPU's."""

from __future__ import annotations

import resource
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import torch

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
