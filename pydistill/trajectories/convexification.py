"""Convexification (MCT): reduce the snapshots of a training run to a few waypoints and the pace between them."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise
from typing import Literal, get_args

import torch
from torch import Tensor

from pydistill.errors import InputError, SettingError
from pydistill.trajectories.trajectory import ConvexifiedTrajectory, Rows, as_rows

FractionRule = Literal["path", "uniform", "decreasing", "projected"]
Smoothing = Literal["neighbours", "weighted", "none"]
WAYPOINTS = 4  # as published


def waypoint_epochs(end: int, waypoints: int | Sequence[int]) -> tuple[int, ...]:
    """Return the epochs of the waypoints on a trajectory of epochs 0 … T.

        e_i = ⌈i · T / (w − 1)⌉,   i = 0 … w−1

    which is 0, 17, 34, 50 for w = 4 and T = 50, as published. A sequence is returned unchanged.

    Args:
        end: T >= 1.
        waypoints: their number w, 2 <= w <= T+1, or their epochs, rising strictly from 0 to T.

    Raises:
        InputError: fewer than two waypoints, more waypoints than epochs, or epochs that do not rise from 0 to T.
    """
    if isinstance(waypoints, int):
        if not 2 <= waypoints <= end + 1:
            raise SettingError("waypoints", waypoints, f"2 to {end + 1} for a trajectory of epochs 0 to {end}")
        return tuple(-(-index * end // (waypoints - 1)) for index in range(waypoints))
    epochs = tuple(waypoints)
    rising = all(isinstance(epoch, int) for epoch in epochs) and list(epochs) == sorted(set(epochs))
    if len(epochs) < 2 or not rising or epochs[0] != 0 or epochs[-1] != end:
        allowed = f"integer epochs that rise strictly from 0 to the trajectory's end, {end}"
        raise SettingError("waypoints", list(epochs), allowed)
    return epochs


def _waypoint(rows: Rows, epoch: int, smoothing: Smoothing) -> Tensor:
    """Return the waypoint at `epoch`, smoothed with recorded neighbours, never with other smoothed waypoints."""
    point, end = rows.row(epoch), rows.shape[0] - 1
    if smoothing == "none" or epoch == 0:
        return point
    if smoothing == "neighbours":
        return (rows.row(epoch - 1) + (point if epoch == end else rows.row(epoch + 1))) / 2
    others = (rows.row(epoch - 2), rows.row(epoch - 1)) if epoch == end else (rows.row(epoch - 1), rows.row(epoch + 1))
    return (point + (others[0] + others[1]) / 2) / 2


def _uniform(steps: int) -> Tensor:
    """Return k / n for k = 0 … n."""
    return torch.arange(steps + 1, dtype=torch.float64) / steps


def _decreasing(steps: int) -> Tensor:
    """Return the running sum of steps n, n−1, …, 1 divided by their total, for k = 0 … n."""
    lengths = torch.arange(steps, 0, -1, dtype=torch.float64)
    return torch.cat([lengths.new_zeros(1), lengths.cumsum(0)]) / lengths.sum()


def _path(rows: Rows, first: int, last: int, sizes: Sequence[int]) -> Tensor:
    """Return the share of every tensor's own path length; uniform for a tensor that never moves."""
    lengths = torch.zeros(last - first + 1, len(sizes), dtype=torch.float64)
    before = rows.row(first).double()
    for epoch in range(first + 1, last + 1):
        after = rows.row(epoch).double()
        pieces = torch.split(after - before, list(sizes))
        lengths[epoch - first] = torch.stack([torch.linalg.vector_norm(piece).cpu() for piece in pieces])
        before = after
    covered = lengths.cumsum(0)
    moved = covered[-1] > 0
    shares = covered / torch.where(moved, covered[-1], 1.0)
    return torch.where(moved, shares, _uniform(last - first).unsqueeze(1))


def _projected(rows: Rows, first: int, last: int) -> Tensor:
    """Return the relative projection of θ_e − θ_first on θ_last − θ_first, all tensors together."""
    origin = rows.row(first).double()
    chord = rows.row(last).double() - origin
    squared = torch.dot(chord, chord)
    if not squared > 0:
        return _uniform(last - first)
    inner = [torch.dot(rows.row(epoch).double() - origin, chord) / squared for epoch in range(first + 1, last)]
    return torch.tensor([0.0, *[float(value) for value in inner], 1.0], dtype=torch.float64)


def _segment_fractions(rows: Rows, first: int, last: int, sizes: Sequence[int], rule: FractionRule) -> Tensor:
    """Return β [n + 1, tensors] of a segment of n epochs; 0 at its start and 1 at its end under every rule."""
    if rule == "path":
        return _path(rows, first, last, sizes)
    shared = {"uniform": _uniform, "decreasing": _decreasing}.get(rule)
    fractions = shared(last - first) if shared else _projected(rows, first, last)
    return fractions.unsqueeze(1).expand(-1, len(sizes))


def convexify(
    snapshots: Tensor | Rows,
    sizes: Sequence[int],
    *,
    waypoints: int | Sequence[int] = WAYPOINTS,
    smoothing: Smoothing = "neighbours",
    fractions: FractionRule = "path",
) -> ConvexifiedTrajectory:
    """Replace a recorded trajectory by straight lines between a few waypoints.

    Waypoints W_i stand at the epochs e_i of `waypoint_epochs`. Inner ones and the last are smoothed:

        "neighbours" (published)  W_i = (θ_{e−1} + θ_{e+1})/2             last (θ_{T−1} + θ_T)/2
        "weighted"                W_i = (θ_e + (θ_{e−1} + θ_{e+1})/2)/2   last (θ_T + (θ_{T−2} + θ_{T−1})/2)/2
        "none"                    W_i = θ_e

    With two waypoints nothing is smoothed, as published. The pace within segment i, per parameter tensor j:

        "path" (published)  β_ij(e) = Σ_{k ≤ e} ‖Δ_kj‖₂ / Σ_k ‖Δ_kj‖₂,  Δ_k = θ_k − θ_{k−1}, e_i < k ≤ e_{i+1}
        "uniform"           (e − e_i) / n,   n = e_{i+1} − e_i
        "decreasing"        steps in the ratio n : n−1 : … : 1
        "projected"         ⟨θ_e − θ_{e_i}, c⟩ / ⟨c, c⟩,  c = θ_{e_{i+1}} − θ_{e_i}, all tensors as one

    Δ and c are computed in float64 from the recorded, unsmoothed trajectory. Where a length is zero
    (a tensor that never moved, a chord that returned) the pace is uniform. Projected fractions need not be
    monotone, nor in [0, 1]. Under every rule β is 0 at a segment's start and 1 at its end: θ̂ passes
    every waypoint at its epoch.

    Args:
        snapshots: [T+1, P], row e is θ after e epochs; T >= 1.
        sizes: elements of each parameter tensor; they sum to P.
        waypoints: their number w, or their epochs.

    Raises:
        InputError: an argument outside its limits, or snapshots that are not finite.

    Source: MCT (Zhong et al., CVPR 2025), which has every rule but "path" with two waypoints only.
    """
    if smoothing not in get_args(Smoothing):
        raise InputError(f"smoothing = {smoothing!r} must be one of {', '.join(get_args(Smoothing))}")
    if fractions not in get_args(FractionRule):
        raise InputError(f"fractions = {fractions!r} must be one of {', '.join(get_args(FractionRule))}")
    rows = as_rows(snapshots)
    count, total = rows.shape
    if count < 2:
        raise InputError(f"a trajectory needs at least 2 snapshots (epochs 0 and 1), not {count}")
    if sum(sizes) != total:
        raise InputError(f"sizes must sum to P = {total}, the length of a snapshot, not to {sum(sizes)}")
    epochs = waypoint_epochs(count - 1, waypoints)
    for epoch in range(count):
        if not bool(torch.isfinite(rows.row(epoch)).all()):
            raise InputError(f"snapshots must be finite, but epoch {epoch} holds NaN or infinity")
    used: Smoothing = "none" if len(epochs) == 2 else smoothing
    points = torch.stack([_waypoint(rows, epoch, used) for epoch in epochs])
    paces = [_segment_fractions(rows, a, b, sizes, fractions) for a, b in pairwise(epochs)]
    return ConvexifiedTrajectory(points, epochs, torch.cat(paces), sizes)
