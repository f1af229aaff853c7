"""Convexification agrees with a slow computation, also at its ends, its waypoints and in degenerate cases."""

from __future__ import annotations

import math
from itertools import pairwise

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from pydistill.errors import InputError
from pydistill.trajectories import ConvexifiedTrajectory, convexify, waypoint_epochs

from .samples import SIZES, TOTAL, slow_point, walk

RULES = ("path", "uniform", "decreasing", "projected")
TIMES = (0.0, 1e-9, 0.4, 1.0, 2.999999, 3.0, 3.5, 4.0, 6.7, 7.0, 9.0, 9.999, 10.0)


@pytest.mark.parametrize("rule", RULES)
@pytest.mark.parametrize("waypoints", [2, 3, 4, 11, (0, 1, 9, 10)], ids=str)
@pytest.mark.parametrize("smoothing", ["neighbours", "weighted", "none"])
def test_points_equal_the_slow_formula(rule, waypoints, smoothing):
    snapshots = walk(dtype=torch.float64)
    path = convexify(snapshots, SIZES, waypoints=waypoints, smoothing=smoothing, fractions=rule)
    epochs = list(path.waypoint_epochs)
    assert path.end == 10
    assert path.continuous
    for t in TIMES:
        expected = slow_point(snapshots, epochs, smoothing, rule, t)
        torch.testing.assert_close(path.point(t), expected, rtol=1e-12, atol=1e-13)


@pytest.mark.parametrize("rule", RULES)
@pytest.mark.parametrize("waypoints", [2, 3, 4, 11])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_points_at_waypoint_epochs_are_the_waypoints(rule, waypoints, dtype):
    path = convexify(walk(dtype=dtype), SIZES, waypoints=waypoints, fractions=rule)
    for index, epoch in enumerate(path.waypoint_epochs):
        point = path.point(epoch)
        assert point.dtype == dtype
        assert torch.equal(point, path.waypoints.row(index))


def test_last_point_with_more_than_two_waypoints():
    snapshots = walk(epochs=50)
    path = convexify(snapshots, SIZES, waypoints=4)
    assert torch.equal(path.point(50), (snapshots[49] + snapshots[50]) / 2)
    assert torch.equal(path.point(0), snapshots[0])


def test_published_waypoints_and_smoothing():
    snapshots = walk(epochs=50)
    path = convexify(snapshots, SIZES)
    assert path.waypoint_epochs == (0, 17, 34, 50)
    assert torch.equal(path.point(17), (snapshots[16] + snapshots[18]) / 2)
    assert torch.equal(path.point(34), (snapshots[33] + snapshots[35]) / 2)


def test_two_waypoints_are_not_smoothed():
    snapshots = walk()
    path = convexify(snapshots, SIZES, waypoints=2)
    assert torch.equal(path.point(10), snapshots[10])


def test_smoothing_uses_recorded_neighbours_even_when_they_are_waypoints():
    snapshots = walk(dtype=torch.float64)
    path = convexify(snapshots, SIZES, waypoints=11)
    for epoch in range(1, 10):
        torch.testing.assert_close(path.point(epoch), (snapshots[epoch - 1] + snapshots[epoch + 1]) / 2)


@pytest.mark.parametrize("rule", RULES)
def test_trajectory_is_continuous_across_waypoints(rule):
    path = convexify(walk(dtype=torch.float64), SIZES, fractions=rule)
    for epoch in path.waypoint_epochs[1:-1]:
        gap = (path.point(epoch - 1e-9) - path.point(epoch)).abs().max()
        assert gap < 1e-7


@pytest.mark.parametrize("rule", RULES)
@pytest.mark.parametrize("waypoints", [2, 4, 11])
def test_tensor_that_never_moves_gives_no_nan(rule, waypoints):
    snapshots = walk(dtype=torch.float64)
    snapshots[:, 6:8] = 0.25  # the second tensor stands still
    path = convexify(snapshots, SIZES, waypoints=waypoints, fractions=rule)
    for t in TIMES:
        point = path.point(t)
        assert torch.isfinite(point).all()
        assert torch.equal(point[6:8], torch.full((2,), 0.25, dtype=torch.float64))
        expected = slow_point(snapshots, list(path.waypoint_epochs), "neighbours", rule, t)
        torch.testing.assert_close(point, expected, rtol=1e-12, atol=1e-13)


def test_tensor_at_rest_within_a_segment_reaches_its_smoothed_waypoint():
    # It moves only after the first waypoint: smoothing moves that waypoint, although the segment's length is zero.
    snapshots = walk(dtype=torch.float64)
    snapshots[:5, 6:8] = 1.0
    path = convexify(snapshots, SIZES, waypoints=(0, 4, 10))
    waypoint = path.waypoints.row(1)[6:8]
    assert (waypoint - 1.0).abs().min() > 1e-3
    assert torch.equal(path.point(4)[6:8], waypoint)
    assert (path.point(4 - 1e-9)[6:8] - waypoint).abs().max() < 1e-8


@pytest.mark.parametrize("rule", RULES)
def test_trajectory_that_returns_to_its_start_gives_no_nan(rule):
    snapshots = walk(dtype=torch.float64)
    snapshots[10] = snapshots[0]
    path = convexify(snapshots, SIZES, waypoints=2, fractions=rule)
    assert torch.equal(path.point(5.5), snapshots[0])


def test_path_fractions_rise_from_0_to_1_in_every_segment():
    path = convexify(walk(), SIZES, waypoints=4)
    segments = path.fractions.split([5, 4, 4])
    for fractions in segments:
        assert torch.equal(fractions[0], torch.zeros(4, dtype=torch.float64))
        assert torch.equal(fractions[-1], torch.ones(4, dtype=torch.float64))
        assert (fractions.diff(dim=0) > 0).all()


@pytest.mark.parametrize(("end", "count", "expected"), [
    (50, 2, (0, 50)), (50, 3, (0, 25, 50)), (50, 4, (0, 17, 34, 50)), (50, 6, (0, 10, 20, 30, 40, 50)), (1, 2, (0, 1)),
    (5, 6, (0, 1, 2, 3, 4, 5)),
])  # fmt: skip
def test_waypoint_epochs(end, count, expected):
    assert waypoint_epochs(end, count) == expected


@given(end=st.integers(1, 200), share=st.floats(0, 1))
@settings(max_examples=60, deadline=None)
def test_number_of_waypoint_epochs(end, share):
    count = 2 + int(share * (end - 1))
    epochs = waypoint_epochs(end, count)
    assert len(epochs) == count
    assert (epochs[0], epochs[-1]) == (0, end)
    assert all(later > earlier for earlier, later in pairwise(epochs))


@pytest.mark.parametrize(("arguments", "words"), [
    ({"waypoints": 1}, r"waypoints must be 2 to 11 .* epochs 0 to 10"),
    ({"waypoints": 12}, r"waypoints must be 2 to 11"),
    ({"waypoints": (0, 5)}, "waypoints"),
    ({"waypoints": (0, 5, 5, 10)}, "rise strictly"),
    ({"waypoints": (0, 2.5, 10)}, "waypoints"),
    ({"waypoints": ()}, "waypoints"),
    ({"fractions": "quadratic"}, "fractions = 'quadratic' must be one of path, uniform, decreasing, projected"),
    ({"smoothing": True}, "smoothing = True must be one of neighbours, weighted, none"),
    ({"sizes": (6, 2)}, "sizes must sum to P = 23, the length of a snapshot, not to 8"),
    ({"snapshots": walk()[:1]}, "at least 2 snapshots"),
    ({"snapshots": walk()[0]}, r"must be a floating \[n, P\] matrix"),
    ({"snapshots": walk().long()}, "floating"),
])  # fmt: skip
def test_bad_arguments(arguments, words):
    with pytest.raises(InputError, match=words):
        convexify(**{"snapshots": walk(), "sizes": SIZES, **arguments})


def test_snapshots_that_are_not_finite():
    snapshots = walk()
    snapshots[7, 3] = math.nan
    with pytest.raises(InputError, match="epoch 7 holds NaN or infinity"):
        convexify(snapshots, SIZES)


@pytest.mark.parametrize("t", [-1e-9, 10.000001, math.nan, math.inf])
def test_time_out_of_range(t):
    path = convexify(walk(), SIZES)
    with pytest.raises(InputError, match=r"is outside this convexified trajectory, which runs from 0 to 10"):
        path.point(t)


def test_points_are_copies():
    snapshots = walk()
    path = convexify(snapshots, SIZES)
    path.point(0).zero_()
    path.fractions.zero_()
    assert torch.equal(path.point(0), snapshots[0])
    assert path.fractions.sum() > 0


def test_point_has_no_gradient():
    path = ConvexifiedTrajectory(torch.zeros(2, TOTAL, requires_grad=True), (0, 4), torch.zeros(5, 4), SIZES)
    assert not path.point(2.5).requires_grad


@pytest.mark.parametrize("change", [
    {"waypoints": torch.zeros(1, TOTAL)},
    {"waypoint_epochs": (0, 0)},
    {"waypoint_epochs": (1, 4)},
    {"sizes": (6, 2, 12)},
    {"fractions": torch.zeros(4, 4)},
    {"fractions": torch.full((5, 4), math.nan)},
])  # fmt: skip
def test_convexified_trajectory_checks_its_arguments(change):
    parts = {
        "waypoints": torch.zeros(2, TOTAL),
        "waypoint_epochs": (0, 4),
        "fractions": torch.zeros(5, 4),
        "sizes": SIZES,
    }
    with pytest.raises(InputError):
        ConvexifiedTrajectory(**{**parts, **change})
