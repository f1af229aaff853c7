"""Small experts, and a slow convexification in Python floats, written straight from the formulas."""

from __future__ import annotations

import math
from pathlib import Path

import torch
from torch import Tensor

from pydistill.trajectories import ExpertsRecord, TrajectoryStore

NAMES = ("features.0.weight", "features.0.bias", "classifier.weight", "classifier.bias")
SHAPES = ((2, 1, 3), (2,), (3, 4), (3,))
SIZES = (6, 2, 12, 3)
TOTAL = sum(SIZES)


def record(epochs: int = 10, **changes: object) -> ExpertsRecord:
    """The record of the small experts, with some fields changed."""
    fields: dict[str, object] = {
        "architecture": "convnet(width=2, depth=1)",
        "parameters": tuple(zip(NAMES, SHAPES, strict=True)),
        "dataset": "digits",
        "dataset_digest": "d" * 64,
        "preprocessing": "normalise-1234",
        "in_channels": 1,
        "num_classes": 3,
        "image_size": (8, 8),
        "training": {"lr": 0.01, "batch_size": 256, "seed": 0},
        "epochs": epochs,
    }
    return ExpertsRecord(**{**fields, **changes})  # type: ignore[arg-type]


def walk(epochs: int = 10, seed: int = 0, dtype: torch.dtype = torch.float32) -> Tensor:
    """A random walk [epochs+1, TOTAL] with steps of shrinking, tensor-dependent length."""
    generator = torch.Generator().manual_seed(seed)
    steps = torch.randn(epochs + 1, TOTAL, generator=generator, dtype=torch.float64)
    pace = 1 / (1 + torch.arange(epochs + 1, dtype=torch.float64)).unsqueeze(1)
    return (steps * pace).cumsum(0).to(dtype)


def stored(folder: Path) -> TrajectoryStore:
    """A new store of three recorded experts, numbers 0, 1 and 2."""
    store = TrajectoryStore.create(folder, record())
    for number in range(3):
        store.add(number, walk(seed=number), {"test": [0.1 * number] * 11}, {"seed": 100 + number})
    return store


def lists(snapshots: Tensor) -> list[list[list[float]]]:
    """The snapshots as nested lists [epoch][tensor][element]."""
    return [[piece.tolist() for piece in row.split(SIZES)] for row in snapshots.double()]


def slow_waypoints(path: list[list[list[float]]], epochs: list[int], smoothing: str) -> list[list[list[float]]]:
    """The waypoints as nested lists [waypoint][tensor][element]."""
    last = len(path) - 1
    waypoints = []
    for e in epochs:
        if e == 0 or smoothing == "none" or len(epochs) == 2:
            weights = {e: 1.0}
        elif smoothing == "neighbours":
            weights = {last - 1: 0.5, last: 0.5} if e == last else {e - 1: 0.5, e + 1: 0.5}
        elif e == last:
            weights = {last - 2: 0.25, last - 1: 0.25, last: 0.5}
        else:
            weights = {e - 1: 0.25, e: 0.5, e + 1: 0.25}
        point = []
        for j in range(len(path[0])):
            elements = range(len(path[0][j]))
            point.append([sum(w * path[k][j][i] for k, w in weights.items()) for i in elements])
        waypoints.append(point)
    return waypoints


def _norm(a: list[float], b: list[float]) -> float:
    return math.sqrt(sum((x - y) ** 2 for x, y in zip(a, b, strict=True)))


def slow_fraction(path: list[list[list[float]]], first: int, last: int, e: int, j: int, rule: str) -> float:
    """β of tensor j at epoch e of the segment first … last."""
    n = last - first
    uniform = (e - first) / n
    if rule == "uniform":
        return uniform
    if rule == "decreasing":
        lengths = [n - i for i in range(n)]
        return sum(lengths[: e - first]) / sum(lengths)
    if rule == "path":
        total = sum(_norm(path[k][j], path[k - 1][j]) for k in range(first + 1, last + 1))
        covered = sum(_norm(path[k][j], path[k - 1][j]) for k in range(first + 1, e + 1))
        return covered / total if total > 0 else uniform
    chord = [x - y for p, q in zip(path[last], path[first], strict=True) for x, y in zip(p, q, strict=True)]
    here = [x - y for p, q in zip(path[e], path[first], strict=True) for x, y in zip(p, q, strict=True)]
    squared = sum(c * c for c in chord)
    return sum(h * c for h, c in zip(here, chord, strict=True)) / squared if squared > 0 else uniform


def slow_point(snapshots: Tensor, epochs: list[int], smoothing: str, rule: str, t: float) -> Tensor:
    """θ̂(t) [TOTAL] in float64."""
    path = lists(snapshots)
    waypoints = slow_waypoints(path, epochs, smoothing)
    segment = len(epochs) - 2
    while epochs[segment] > t:
        segment -= 1
    first, last = epochs[segment], epochs[segment + 1]
    low = min(math.floor(t), last - 1)
    point: list[float] = []
    for j in range(len(SIZES)):
        before = slow_fraction(path, first, last, low, j, rule)
        after = slow_fraction(path, first, last, low + 1, j, rule)
        beta = before + (after - before) * (t - low)
        ends = zip(waypoints[segment][j], waypoints[segment + 1][j], strict=True)
        point += [start + beta * (end - start) for start, end in ends]
    return torch.tensor(point, dtype=torch.float64)
