"""Times, sizes, accuracies and errors as short texts."""

from __future__ import annotations

ROUNDED = 0.9995  # the least that three digits round to 1


def duration(seconds: float) -> str:
    """Seconds in readable units: 12 ms, 3.4 s, 5 min, 2 h 10 min, 3 d 4 h."""
    if seconds < ROUNDED:
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
    """Bytes in readable units: 12 kB, 3.4 MB, 5.6 GB (powers of 1000)."""
    for unit, factor in (("GB", 1e9), ("MB", 1e6)):
        if count >= ROUNDED * factor:
            return f"{count / factor:.3g} {unit}"
    return f"{count / 1e3:.3g} kB"


def accuracy_of(mean: float, std: float, count: int) -> str:
    """Mean and standard deviation of accuracies in [0, 1] in percent: 60.0 ± 10.0 %; for one network 60.0 %."""
    return f"{100 * mean:.1f} %" if count == 1 else f"{100 * mean:.1f} ± {100 * std:.1f} %"


def networks(count: int, kind: str = "") -> str:
    """A number of networks: 1 network, 5 networks, 5 fresh networks."""
    return counted(count, f"{kind} network" if kind else "network")


def counted(count: int, noun: str) -> str:
    """A number with a noun whose plural ends in s: 1 expert, 2 experts."""
    return f"{count} {noun}{'' if count == 1 else 's'}"


def first_line(error: BaseException) -> str:
    """The first line of an error's message that is not blank, or its type's name."""
    lines = str(error).strip().splitlines()
    return lines[0].rstrip() if lines else type(error).__name__
