"""Long series made short enough to draw: means, and the range around them, over stretches of the iterations."""

from __future__ import annotations

import math
from collections.abc import Sequence

MOST_POINTS = 240

Points = Sequence[tuple[float, float]]


def stretches(points: Points, most: int = MOST_POINTS) -> list[Points]:
    """The points, in at most `most` runs of as many each, but for the last, which may be shorter."""
    size = max(1, math.ceil(len(points) / most))
    return [points[first : first + size] for first in range(0, len(points), size)]


def means(points: Points, most: int = MOST_POINTS) -> list[tuple[float, float]]:
    """At most `most` points: mean x and mean y of each stretch."""
    return [(_mean([x for x, _ in part]), _mean([y for _, y in part])) for part in stretches(points, most)]


def ranges(points: Points, most: int = MOST_POINTS) -> list[tuple[float, float, float]]:
    """At most `most` triples: mean x, least y and greatest y of each stretch."""
    return [
        (_mean([x for x, _ in part]), min(y for _, y in part), max(y for _, y in part))
        for part in stretches(points, most)
    ]


def sample(points: Points, most: int) -> list[tuple[float, float]]:
    """At most `most` of the points, evenly spaced, the last among them."""
    every = max(1, math.ceil(len(points) / most))
    return list(points[::-1][::every][::-1])


def spaced(count: int, most: int) -> list[int]:
    """At most `most` of the numbers 0 … count − 1, evenly spaced, the first and the last among them."""
    if count <= most:
        return list(range(count))
    return [round(number * (count - 1) / (most - 1)) for number in range(most)]


def _mean(values: Sequence[float]) -> float:
    return math.fsum(values) / len(values)
