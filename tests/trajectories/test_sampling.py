"""Starts: their range and distribution, growing ranges, and invalid settings."""

from __future__ import annotations

import math

import pytest
import torch

from pydistill.errors import InputError, SettingError
from pydistill.trajectories import RecordedTrajectory, StartSampler, StartSettings, convexify

from .samples import SIZES, walk

RECORDED = RecordedTrajectory(walk())
CONVEX = convexify(walk(), SIZES)


def draws(settings: StartSettings, count: int = 4000, iteration: int = 0, length: float = 2) -> torch.Tensor:
    sampler, generator = StartSampler(settings), torch.Generator().manual_seed(0)
    pairs = [sampler.draw(iteration, generator, 10.0, length) for _ in range(count)]
    assert all(target == start + length for start, target in pairs)
    return torch.tensor([start for start, _ in pairs], dtype=torch.float64)


def test_integer_starts_are_uniform():
    starts = draws(StartSettings(max_start=5, min_start=1))
    values, counts = starts.unique(return_counts=True)
    assert values.tolist() == [1, 2, 3, 4]
    # chi-square with 3 degrees of freedom: 16.3 is its 99.9 % point
    assert ((counts - 1000) ** 2 / 1000).sum() < 16.3


def test_real_starts_are_uniform():
    starts = draws(StartSettings(max_start=4, min_start=1, continuous=True)).sort().values
    assert starts[0] >= 1
    assert starts[-1] < 4
    uniform = (torch.arange(len(starts), dtype=torch.float64) + 0.5) / len(starts)
    distance = ((starts - 1) / 3 - uniform).abs().max()
    assert distance < 1.95 / math.sqrt(len(starts))  # Kolmogorov-Smirnov, 99.9 %


@pytest.mark.parametrize("continuous", [False, True])
@pytest.mark.parametrize("parts", [2, 3, 4, 7])
def test_draws_from_the_parts_of_a_range(continuous: bool, parts: int):
    """Each lies in its part; those of all parts together are uniform."""
    sampler = StartSampler(StartSettings(max_start=5, min_start=1, continuous=continuous))
    generator, starts = torch.Generator().manual_seed(0), []
    for _ in range(4200 // parts):
        for number in range(parts):
            start, target = sampler.draw(0, generator, 10.0, 2, (number, parts))
            lower, upper = 1 + 4 * number / parts, 1 + 4 * (number + 1) / parts
            assert target == start + 2
            assert lower <= start <= upper if continuous else math.floor(lower) <= start < upper
            assert continuous or start == int(start) < 5
            starts.append(start)
    counts = torch.tensor(starts).floor().long().bincount()[1:]
    expected = len(starts) / 4
    assert len(counts) == 4
    assert ((counts - expected) ** 2 / expected).sum() < 16.3  # 99.9 % of independent draws


def test_the_same_generator_gives_the_same_starts():
    settings = StartSettings(max_start=4, continuous=True)
    assert torch.equal(draws(settings, 20), draws(settings, 20))


def test_growing_range_ends_at_max_start():
    sampler = StartSampler(StartSettings(8, 0, continuous=True, growing=True, grow_from=0.5, grow_iterations=100))
    assert sampler.upper(0) == 0.5
    assert sampler.upper(50) == pytest.approx(4.25)
    assert sampler.upper(100) == 8
    assert sampler.upper(10_000) == 8


def test_growing_starts_respect_the_bound_of_their_iteration():
    settings = StartSettings(8, 0, continuous=True, growing=True, grow_from=0.5, grow_iterations=100)
    early, late = draws(settings, 500, iteration=0), draws(settings, 500, iteration=100)
    assert early.max() < 0.5
    assert late.max() > 7


def test_growing_range_of_integers_is_never_empty():
    settings = StartSettings(8, 2, growing=True, grow_from=2, grow_iterations=60)
    assert draws(settings, 100, iteration=0).unique().tolist() == [2]
    assert draws(settings, 300, iteration=30).unique().tolist() == [2, 3, 4]
    assert draws(settings, 500, iteration=60).unique().tolist() == [2, 3, 4, 5, 6, 7]


def test_growing_is_off_by_default():
    fixed, growing = StartSettings(8), StartSettings(8, growing=True, grow_iterations=10)
    assert StartSampler(fixed).upper(0) == 8
    assert StartSampler(growing).upper(0) < StartSampler(growing).upper(10) == 8


def test_both_ends_of_the_trajectory_are_allowed():
    StartSampler(StartSettings(max_start=9)).check(RECORDED.end, 2, continuous=False)  # starts 0 … 8, targets up to 10
    StartSampler(StartSettings(max_start=8, continuous=True)).check(CONVEX.end, 2)
    start, target = StartSampler(StartSettings(1)).draw(0, torch.Generator(), 10.0, 10)
    assert (start, target) == (0, 10)


@pytest.mark.parametrize("length", [0.1, 0.3, 1.7, 2.9])
def test_rounding_never_moves_a_target_past_the_end(length):
    bound = 10.0 - length
    while bound + length > 10.0:
        bound = math.nextafter(bound, 0)
    sampler, generator = StartSampler(StartSettings(bound, continuous=True)), torch.Generator().manual_seed(1)
    for _ in range(500):
        start, target = sampler.draw(0, generator, 10.0, length)
        assert 0 <= start <= bound
        CONVEX.point(target)
        assert target <= 10


def test_range_beyond_the_trajectory_is_refused_without_drawing():
    sampler = StartSampler(StartSettings(max_start=10))
    words = "max_start must be at most 9 "
    with pytest.raises(InputError, match=words):
        sampler.check(RECORDED.end, 2, continuous=False)
    generator = torch.Generator().manual_seed(0)
    before = generator.get_state()
    with pytest.raises(InputError, match=words):
        sampler.draw(0, generator, 10.0, 2)
    assert torch.equal(before, generator.get_state())


def test_growing_range_is_checked_at_its_final_bound():
    settings = StartSettings(9, continuous=True, growing=True, grow_iterations=1000)
    with pytest.raises(InputError, match="max_start must be at most 8 "):
        StartSampler(settings).check(CONVEX.end, 2)


@pytest.mark.parametrize(("settings", "name"), [
    ({"max_start": 0}, "max_start"),
    ({"max_start": 3, "min_start": 3}, "max_start"),
    ({"max_start": 2.5}, "max_start"),
    ({"max_start": 4, "min_start": 0.5}, "min_start"),
    ({"max_start": 4, "min_start": -1}, "min_start"),
    ({"max_start": 4, "min_start": math.nan}, "min_start"),
    ({"max_start": math.inf, "continuous": True}, "max_start"),
    ({"max_start": 1, "min_start": 2, "continuous": True}, "max_start"),
    ({"max_start": 4, "growing": True}, "grow_iterations"),
    ({"max_start": 4, "growing": True, "grow_iterations": 5, "grow_from": 6}, "grow_from"),
])  # fmt: skip
def test_settings_outside_their_limits(settings, name):
    with pytest.raises(SettingError) as raised:
        StartSettings(**settings)
    assert raised.value.setting == name


@pytest.mark.parametrize(("settings", "trajectory", "length", "words"), [
    (StartSettings(4, continuous=True), RECORDED, 2, "continuous starts"),
    (StartSettings(4), RECORDED, 1.5, "expert_epochs must be"),
    (StartSettings(4), RECORDED, 0, "expert_epochs must be"),
    (StartSettings(4), RECORDED, math.nan, "expert_epochs must be"),
    (StartSettings(4), CONVEX, -1, "expert_epochs must be"),
    (StartSettings(4), CONVEX, math.nan, "expert_epochs must be"),
])  # fmt: skip
def test_unsuitable_trajectory_or_length(settings, trajectory, length, words):
    with pytest.raises(InputError, match=words):
        StartSampler(settings).check(trajectory.end, length, continuous=trajectory.continuous)


def test_negative_iteration():
    with pytest.raises(InputError, match="iteration must be"):
        StartSampler(StartSettings(4)).draw(-1, torch.Generator(), 10.0, 2)
