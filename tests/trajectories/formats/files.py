"""Small experts in the files of MTT and MCT."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch

from pydistill.trajectories import (
    convexify,
)
from tests.trajectories.samples import SHAPES, SIZES, walk

Nested = list[Any]


def nested(snapshots: torch.Tensor) -> Nested:
    """Return an expert in MTT's form: nested lists [epoch][parameter tensor]."""
    return [
        [piece.reshape(shape).clone() for piece, shape in zip(row.split(SIZES), SHAPES, strict=True)]
        for row in snapshots
    ]


def mct_nested(snapshots: torch.Tensor, waypoints: int) -> tuple[Nested, Nested]:
    """Return an expert in MCT's form: waypoints, and float32 fractions by segment (if several) and epoch."""
    path = convexify(snapshots, SIZES, waypoints=waypoints)
    points = nested(torch.stack([path.waypoints.row(i) for i in range(waypoints)]))
    lengths = [b - a + 1 for a, b in zip(path.waypoint_epochs, path.waypoint_epochs[1:], strict=False)]
    pieces = [
        [[torch.tensor(x, dtype=torch.float32) for x in row] for row in piece.tolist()]
        for piece in path.fractions.split(lengths)
    ]
    return points, pieces if waypoints > 2 else pieces[0]


def same(a: Any, b: Any) -> bool:
    """Return whether nested lists of tensors have the same bits, dtypes and shapes."""
    if isinstance(a, torch.Tensor):
        return a.dtype == b.dtype and torch.equal(a, b)
    return type(a) is type(b) and len(a) == len(b) and all(same(x, y) for x, y in zip(a, b, strict=True))


def write_mct(folder: Path, waypoints: int, tag: str = "") -> Path:
    """Write two experts in one pair of MCT's files; returns the waypoint file."""
    folder.mkdir(exist_ok=True)
    experts = [mct_nested(walk(seed=seed), waypoints) for seed in range(2)]
    file = folder / f"waypoint_buffer{tag}_0.pt"
    torch.save([points for points, _ in experts], file)
    torch.save([steps for _, steps in experts], folder / f"step_buffer{tag}_0.pt")
    return file
