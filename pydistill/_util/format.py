"""Format times, sizes, accuracies, counts and errors as short texts."""

from __future__ import annotations

_ROUNDED = 0.9995  # the smallest number that three digits round to 1


def duration(seconds: float) -> str:
    """Format seconds in readable units: 12 ms, 3.4 s, 5 min, 2 h 10 min, 3 d 4 h."""
    if seconds < _ROUNDED:
        return f"{1000 * seconds:.3g} ms"
    if seconds < 100:
        return f"{seconds:.3g} s"
    minutes = round(seconds / 60)
    if minutes < 60:
        return f"{minutes} min"
    hours, minutes = divmod(minutes, 60)
    if hours < 48:
        return f"{hours} h {minutes} min"
    return f"{hours // 24} d {hours % 24} h"


def size(count: float) -> str:
    """Format bytes in readable units: 12 kB, 3.4 MB, 5.6 GB (powers of 1000)."""
    for unit, factor in (("GB", 1e9), ("MB", 1e6)):
        if count >= _ROUNDED * factor:
            return f"{count / factor:.3g} {unit}"
    return f"{count / 1e3:.3g} kB"


def accuracy_of(mean: float, std: float, count: int) -> str:
    """Format the mean and standard deviation of accuracies in [0, 1]: 60.0 ± 10.0 %, or 60.0 % for one network."""
    return f"{100 * mean:.1f} %" if count == 1 else f"{100 * mean:.1f} ± {100 * std:.1f} %"


def networks(count: int, kind: str = "") -> str:
    """Format a number of networks: 1 network, 5 networks, 5 fresh networks."""
    return counted(count, f"{kind} network" if kind else "network")


def counted(count: int, noun: str, plural: str = "") -> str:
    """Format a number with a noun, by default with a plural s: 1 expert, 2 experts."""
    return f"{count} {noun if count == 1 else plural or f'{noun}s'}"


def first_line(error: BaseException) -> str:
    """Return the first non-blank line of an error's message, or the name of its type."""
    lines = str(error).strip().splitlines()
    return lines[0].rstrip() if lines else type(error).__name__
