"""Times and amounts of memory in words."""

from __future__ import annotations

ROUNDED = 0.9995  # what three digits make a 1 of


def duration(seconds: float) -> str:
    """Seconds in the two units that say most: 12 ms, 3.4 s, 5 min, 2 h 10 min, 3 d 4 h."""
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
    """Bytes in the unit that fits: 12 kB, 3.4 MB, 5.6 GB (powers of 1000)."""
    for unit, factor in (("GB", 1e9), ("MB", 1e6)):
        if count >= ROUNDED * factor:
            return f"{count / factor:.3g} {unit}"
    return f"{count / 1e3:.3g} kB"
