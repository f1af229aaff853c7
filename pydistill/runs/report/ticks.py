"""Where an axis has its numbers, and how they are written."""

from __future__ import annotations

import math
from collections.abc import Sequence


def ticks(low: float, high: float, count: int, *, log: bool = False, whole: bool = False) -> list[float]:
    """About `count` round numbers in [low, high]; with `log` of which each is a round factor above the one before.

    Args:
        low: the least number drawn, above 0 with `log`.
        high: the greatest, above `low`.
        whole: whole numbers only.
    """
    if log:
        return _log_ticks(low, high, count)
    step = _round_step((high - low) / count)
    if whole:
        step = max(1.0, step)
    first, last = math.ceil(low / step - 1e-9), math.floor(high / step + 1e-9)
    return [number * step for number in range(first, last + 1)] or [low]


def _round_step(least: float) -> float:
    """The least of 1, 2, 5 × 10^k that is not below `least`."""
    power = 10.0 ** math.floor(math.log10(least))
    return next(factor * power for factor in (1.0, 2.0, 5.0, 10.0) if factor * power >= least * (1 - 1e-9))


def _log_ticks(low: float, high: float, count: int) -> list[float]:
    decades = math.log10(high / low)
    first, last = math.floor(math.log10(low)), math.ceil(math.log10(high))
    if decades > count:
        every = math.ceil(decades / count)
        return [10.0**power for power in range(first, last + 1, every)]
    factors = (1.0,) if decades > 3 else (1.0, 2.0, 5.0)
    numbers = [factor * 10.0**power for power in range(first - 1, last + 1) for factor in factors]
    inside = [number for number in numbers if low * (1 - 1e-9) <= number <= high * (1 + 1e-9)]
    if len(inside) >= 2:
        return inside
    return [number for number in ticks(low, high, count) if number > 0]


def told(number: float, among: Sequence[float]) -> str:
    """A tick's number as text, as short as the numbers beside it allow: 1,500; 2M; 0.05; 1e-07."""
    greatest = max(abs(each) for each in among)
    if number == 0:
        return "0"
    if greatest >= 1e6 and abs(number) >= 1e5:
        return f"{number / 1e6:g}M"
    if greatest >= 1e4 and all(each % 1000 == 0 for each in among):
        return f"{number / 1e3:g}k"
    if abs(number) >= 1000:
        return f"{number:,.0f}"
    return f"{number:.4g}"
