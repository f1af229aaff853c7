"""Trajectories: the parameters of a training run as a function of its epoch."""

from __future__ import annotations

import math
from bisect import bisect_right
from collections.abc import Sequence
from itertools import pairwise
from typing import Protocol

import torch
from torch import Tensor

from pydistill import ops
from pydistill.errors import InputError


class Trajectory(Protocol):
    """An expert's path through parameter space."""

    @property
    def end(self) -> float:
        """T, the last epoch; times are in [0, T]."""

    @property
    def continuous(self) -> bool:
        """True if times are real numbers in [0, T], False if they are integer epochs."""

    def point(self, t: float) -> Tensor:
        """Return the flat parameters [P] at time t, in epochs, as a new tensor."""


class Rows(Protocol):
    """The rows of a matrix [n, P] of flat parameters in memory or in a file, read one at a time."""

    @property
    def shape(self) -> tuple[int, int]:
        """(n, P)."""

    def row(self, index: int) -> Tensor:
        """Return row `index` as a new tensor [P]."""


class TensorRows:
    """Rows of a matrix [n, P] in memory."""

    def __init__(self, matrix: Tensor) -> None:
        """Use a floating-point matrix [n, P]; bfloat16 rows are returned as float32.

        Raises:
            InputError: not a floating-point matrix with at least one row and one column.
        """
        if matrix.dim() != 2 or 0 in matrix.shape or not matrix.dtype.is_floating_point:
            raise InputError(
                f"flat parameters must be a floating [n, P] matrix with n, P >= 1, "
                f"not {matrix.dtype} of shape {list(matrix.shape)}"
            )
        self._matrix = matrix.detach()

    @property
    def shape(self) -> tuple[int, int]:
        """(n, P)."""
        return self._matrix.shape[0], self._matrix.shape[1]

    def row(self, index: int) -> Tensor:
        """Return row `index` as a new tensor [P]."""
        row = self._matrix[index]
        return row.float() if row.dtype == torch.bfloat16 else row.clone()


def as_rows(matrix: Tensor | Rows) -> Rows:
    """Return `matrix` itself if it is a `Rows`, otherwise the rows of the tensor."""
    return TensorRows(matrix) if isinstance(matrix, Tensor) else matrix


class RecordedTrajectory:
    """θ at every epoch 0 … T of one training run, as recorded (MTT, ATT, FTD, DATM)."""

    def __init__(self, snapshots: Tensor | Rows) -> None:
        """Use the snapshots [T+1, P]: row e is θ after e epochs, row 0 the initialisation.

        Raises:
            InputError: fewer than two snapshots, or not a floating-point matrix.
        """
        self._rows = as_rows(snapshots)
        if self._rows.shape[0] < 2:
            raise InputError(f"a trajectory needs at least 2 snapshots (epochs 0 and 1), not {self._rows.shape[0]}")

    @property
    def end(self) -> float:
        """T, the last recorded epoch."""
        return float(self._rows.shape[0] - 1)

    @property
    def continuous(self) -> bool:
        """False: times are integer epochs."""
        return False

    @property
    def snapshots(self) -> Rows:
        """The recorded rows [T+1, P]."""
        return self._rows

    def point(self, t: float) -> Tensor:
        """Return θ_t [P] for an integer epoch t in 0 … T.

        Raises:
            InputError: t is outside [0, T] or not an integer.
        """
        if not 0 <= t <= self.end:
            raise InputError(f"t = {t} is outside this recorded trajectory, which has epochs 0 to {self.end:g}")
        if t != int(t):
            raise InputError(
                f"t = {t} is not an integer, and this recorded trajectory has the epochs 0 to "
                f"{self.end:g} only; convexify the experts to use real-valued times"
            )
        return self._rows.row(int(t))


class ConvexifiedTrajectory:
    """θ̂(t) for every real t in [0, T]: straight lines between waypoints, with a separate pace for every tensor.

        θ̂(t)_j = lerp(W_i, W_{i+1}, β_ij(t))_j     for t in [e_i, e_{i+1}],  β linear between integer epochs

    W_0 … W_{w−1} are the waypoints, at integer epochs 0 = e_0 < … < e_{w−1} = T; β_ij(e) is the fraction of
    segment i that parameter tensor j has covered at epoch e. An inner waypoint belongs to the later segment.

    Source: MCT (Zhong et al., CVPR 2025).
    """

    def __init__(
        self,
        waypoints: Tensor | Rows,
        waypoint_epochs: Sequence[int],
        fractions: Tensor,
        sizes: Sequence[int],
    ) -> None:
        """Use waypoints and fractions as `convexify` computes them.

        Args:
            waypoints: [w, P], w >= 2.
            waypoint_epochs: w integer epochs, rising strictly from 0 to T.
            fractions: [T + w − 1, tensors]: segment by segment, its epochs e_i … e_{i+1} with *both ends included*:
                an inner waypoint ends one segment and starts the next.
            sizes: number of elements of every parameter tensor; their sum is P.

        Raises:
            InputError: shapes disagree, epochs do not rise from 0, or a fraction is not finite.
        """
        self._rows = as_rows(waypoints)
        count, total = self._rows.shape
        self._epochs = tuple(int(epoch) for epoch in waypoint_epochs)
        self._sizes = tuple(int(size) for size in sizes)
        if count < 2 or len(self._epochs) != count:
            raise InputError(
                f"waypoint_epochs must name the epochs of w >= 2 waypoints: there are {count} waypoints and "
                f"{len(self._epochs)} epochs"
            )
        if self._epochs[0] != 0 or any(b <= a for a, b in pairwise(self._epochs)):
            raise InputError(f"waypoint_epochs must rise strictly from 0, not {list(self._epochs)}")
        if sum(self._sizes) != total or min(self._sizes, default=0) < 0:
            raise InputError(f"sizes must sum to P = {total}, the length of a waypoint, not to {sum(self._sizes)}")
        expected = (self._epochs[-1] + count - 1, len(self._sizes))
        if tuple(fractions.shape) != expected:
            raise InputError(f"fractions must be [T + w − 1, tensors] = {list(expected)}, not {list(fractions.shape)}")
        self._fractions = fractions.detach().to("cpu", torch.float64)
        if not bool(torch.isfinite(self._fractions).all()):
            raise InputError("fractions must be finite numbers")

    @property
    def end(self) -> float:
        """T, the epoch of the last waypoint."""
        return float(self._epochs[-1])

    @property
    def continuous(self) -> bool:
        """True: times are real numbers in [0, T]."""
        return True

    @property
    def waypoints(self) -> Rows:
        """The waypoints [w, P]."""
        return self._rows

    @property
    def waypoint_epochs(self) -> tuple[int, ...]:
        """The waypoints' epochs, from 0 to T."""
        return self._epochs

    @property
    def fractions(self) -> Tensor:
        """The fractions [T + w − 1, tensors] in float64, segment by segment, with both ends of every segment."""
        return self._fractions.clone()

    @property
    def sizes(self) -> tuple[int, ...]:
        """The number of elements of every parameter tensor."""
        return self._sizes

    def locate(self, t: float) -> tuple[int, list[float]]:
        """Return the segment i of time t, and β_ij(t) for every parameter tensor j.

        Raises:
            InputError: t is outside [0, T].
        """
        if not 0 <= t <= self.end:
            raise InputError(f"t = {t} is outside this convexified trajectory, which runs from 0 to {self.end:g}")
        segment = min(bisect_right(self._epochs, t) - 1, len(self._epochs) - 2)
        # The last epoch is the far end of the interval before it.
        epoch = min(math.floor(t), self._epochs[segment + 1] - 1)
        row = epoch + segment  # every earlier segment has one row more than epochs
        weights = torch.lerp(self._fractions[row], self._fractions[row + 1], t - epoch)
        return segment, weights.tolist()

    def point(self, t: float) -> Tensor:
        """Return θ̂(t) [P] for a real t in [0, T]; reads two waypoints.

        Raises:
            InputError: t is outside [0, T].
        """
        segment, weights = self.locate(t)
        start, end = self._rows.row(segment), self._rows.row(segment + 1)
        numbers = torch.tensor(weights, dtype=torch.float64, device=start.device)
        return ops.trajectory_point(start, end, numbers, self._sizes)
