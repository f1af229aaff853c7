"""Recorded trajectories have points at the recorded epochs only."""

from __future__ import annotations

import math

import pytest
import torch

from pydistill.errors import InputError
from pydistill.trajectories import RecordedTrajectory

from .samples import walk


def test_points_are_the_snapshots():
    snapshots = walk()
    path = RecordedTrajectory(snapshots)
    assert path.end == 10
    assert not path.continuous
    for epoch in range(11):
        assert torch.equal(path.point(epoch), snapshots[epoch])
    assert torch.equal(path.point(3.0), snapshots[3])


def test_points_are_copies():
    path = RecordedTrajectory(walk())
    path.point(2).zero_()
    assert torch.equal(path.point(2), walk()[2])


def test_bfloat16_snapshots_give_float32_points():
    path = RecordedTrajectory(walk().bfloat16())
    assert path.point(4).dtype == torch.float32
    assert torch.equal(path.point(4), walk()[4].bfloat16().float())


@pytest.mark.parametrize("t", [-1, 11, 10.5, math.nan, math.inf])
def test_epoch_out_of_range(t):
    with pytest.raises(InputError, match=f"t = {t}"):
        RecordedTrajectory(walk()).point(t)


def test_fractional_epoch():
    with pytest.raises(InputError, match=r"t = 2\.5"):
        RecordedTrajectory(walk()).point(2.5)


def test_one_snapshot_is_refused():
    with pytest.raises(InputError, match="snapshots"):
        RecordedTrajectory(walk()[:1])
