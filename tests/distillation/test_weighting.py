"""The parameters that take part in the matching loss, by each rule."""

from __future__ import annotations

import itertools
import math
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from pydistill.distillation.distiller import Distiller
from pydistill.distillation.weighting import MatchedParameters, ParameterMask
from pydistill.errors import MismatchError, SettingError
from pydistill.matching import match_many
from pydistill.nn import build
from pydistill.trajectories import TrajectoryStore
from tests.helpers.blobs import blobs
from tests.helpers.small_runs import MODEL, experts, in_double, recipe
from tests.matching.problems import SWEEPS

DATA = blobs()
P = 30
DEPTH = MatchedParameters("depth", leave_out=0.25)
RANK = MatchedParameters("rank", leave_out=0.25)
PACED = MatchedParameters("paced", threshold=1e-5, growth=2.0, growth_every=2)


def points(seed: int) -> tuple[Tensor, Tensor, Tensor]:
    """θ_K, θ_0 and θ* of P parameters."""
    return torch.randn(3, P, generator=torch.Generator().manual_seed(seed), dtype=torch.float64).unbind()


def rule_of(settings: MatchedParameters, iteration: int = 0) -> Any:
    return ParameterMask(settings, torch.zeros(P, dtype=torch.float64)).weights(iteration)


def test_all_parameters_have_no_weights() -> None:
    assert rule_of(MatchedParameters()) is None


@pytest.mark.parametrize(("share", "out"), [(0.0, 0), (0.25, 7), (0.5, 15), (0.99, 29)])
def test_depth_leaves_out_the_first_parameters(share: float, out: int) -> None:
    assert rule_of(MatchedParameters("depth", leave_out=share)).tolist() == [0.0] * out + [1.0] * (P - out)


@pytest.mark.parametrize(("share", "out"), [(0.0, 0), (0.25, 7), (0.5, 15), (0.99, 29)])
def test_rank_leaves_out_the_parameters_with_the_least_error(share: float, out: int) -> None:
    arrival, start, target = points(0)
    arrival[20:] = target[20:]  # ten equal errors, of which the first ones go first
    errors = [(float(arrival[i] - target[i]) ** 2, i) for i in range(P)]
    left_out = {i for _, i in sorted(errors)[:out]}
    w = rule_of(MatchedParameters("rank", leave_out=share))(arrival, start, target)
    assert w.tolist() == [float(i not in left_out) for i in range(P)]


def test_rank_keeps_what_is_not_a_number() -> None:
    arrival, start, target = points(0)
    arrival[3] = math.nan
    assert rule_of(MatchedParameters("rank", leave_out=0.99))(arrival, start, target).tolist()[3] == 1


def test_paced_parameters_join_below_the_threshold_and_never_leave() -> None:
    """Two matches in each iteration: either takes those that joined before and its own."""
    settings = MatchedParameters("paced", threshold=0.05, growth=1.5, growth_every=2)
    mask = ParameterMask(settings, torch.zeros(P, dtype=torch.float64))
    joined: set[int] = set()
    sizes = []
    for iteration in range(4):
        before = set(joined)
        for number in range(2):
            arrival, start, target = points(10 * iteration + number)
            limit = 0.05 * 1.5 ** (iteration // 2)
            below = {i for i in range(P) if float(arrival[i] - target[i]) ** 2 < limit}
            w = mask.weights(iteration)(arrival, start, target)
            assert w.tolist() == [float(i in before | below) for i in range(P)]
            joined |= below
        mask.end_iteration()
        assert mask.joined.nonzero().flatten().tolist() == sorted(joined)
        sizes.append(len(joined))
    assert 0 < sizes[0] < sizes[-1] < P


def test_all_parameters_take_part_while_none_that_has_joined_moves() -> None:
    mask = ParameterMask(PACED, torch.zeros(P, dtype=torch.float64))
    arrival, start, target = points(0)
    arrival[4] = start[4] = target[4]
    assert mask.weights(0)(arrival, start, target).tolist() == [1.0] * P
    mask.end_iteration()
    assert mask.joined.nonzero().flatten().tolist() == [4]
    start[4] += 1
    assert mask.weights(1)(arrival, start, target).nonzero().flatten().tolist() == [4]


def test_a_threshold_beyond_all_numbers_takes_all_parameters() -> None:
    mask = ParameterMask(PACED, torch.zeros(P, dtype=torch.float64))
    assert mask.weights(10**6)(*points(0)).tolist() == [1.0] * P


def test_the_state_holds_the_parameters_that_have_joined() -> None:
    one, other = (ParameterMask(PACED, torch.zeros(P, dtype=torch.float64)) for _ in range(2))
    one.weights(28)(*points(0))
    one.end_iteration()
    assert 0 < one.joined.sum() < P
    other.load_state(one.state())
    assert torch.equal(other.joined, one.joined)
    other.end_iteration()
    assert torch.equal(other.joined, one.joined)
    with pytest.raises(MismatchError, match="30 parameters"):
        ParameterMask(PACED, torch.zeros(P + 1)).load_state(one.state())
    with pytest.raises(KeyError):
        other.load_state({})


@pytest.mark.parametrize(
    ("settings", "name"),
    [
        ({"rule": "magic"}, "rule"),
        ({"rule": "depth"}, "leave_out"),
        ({"rule": "rank", "leave_out": 1.0}, "leave_out"),
        ({"rule": "rank", "leave_out": -0.1}, "leave_out"),
        ({"leave_out": 0.25}, "leave_out"),
        ({"rule": "paced", "threshold": 1e-9}, "growth"),
        ({"rule": "paced", "growth": 1.5}, "threshold"),
        ({"rule": "paced", "growth": 0.5, "threshold": 1e-9}, "growth"),
        ({"rule": "paced", "growth": 1.5, "threshold": 0.0}, "threshold"),
        ({"rule": "depth", "leave_out": 0.25, "threshold": 1e-9}, "threshold"),
        ({"rule": "paced", "growth": 1.5, "threshold": 1e-9, "leave_out": 0.25}, "leave_out"),
        ({"growth_every": 0}, "growth_every"),
    ],
)
def test_bad_settings(settings: dict[str, Any], name: str) -> None:
    with pytest.raises(SettingError) as raised:
        MatchedParameters(**settings)
    assert raised.value.setting == name


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> TrajectoryStore:
    return experts(tmp_path_factory.mktemp("experts"))


def distiller(store: TrajectoryStore, **settings: Any) -> Distiller:
    return Distiller(recipe(**settings).distill, in_double(DATA), store, build(MODEL, 1, 4, 8, seed=0))


@pytest.mark.parametrize("method", ["att", "mtt"])
@pytest.mark.parametrize("settings", [DEPTH, RANK, PACED], ids=lambda settings: settings.rule)
def test_the_loss_is_that_of_the_mask(
    settings: MatchedParameters, method: str, store: TrajectoryStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The mask by the formula, from the student's parameters at the selected step."""
    running = distiller(store, method=method, match_parameters=settings, backend="torch", batch_size=3)
    total = sum(store.record.sizes)
    joined = torch.zeros(total, dtype=torch.bool)
    shares = []
    for iteration in range(5):
        captured: dict[str, Any] = {}

        def watching(model: Any, starts: Any, targets: Any, *rest: Any, seen: Any = captured, **options: Any) -> Any:
            outcomes = match_many(model, starts, targets, *rest, **options)
            seen |= {"start": starts[0], "target": targets[0], "arrival": outcomes[0].loss.grad_fn.sweep.points[-1]}
            return outcomes

        monkeypatch.setattr("pydistill.distillation.distiller.match_many", watching)
        report = running.iterate()
        arrival, start, target = (captured[name] for name in ("arrival", "start", "target"))
        error = (arrival - target) ** 2
        if settings.rule == "depth":
            w = torch.arange(total) >= int(0.25 * total)
        elif settings.rule == "rank":
            w = torch.ones(total, dtype=torch.bool)
            w[sorted(range(total), key=lambda i: (float(error[i]), i))[: int(0.25 * total)]] = False
        else:
            w = joined = joined | (error < 1e-5 * 2.0 ** (iteration // 2))
        expected = (error[w]).sum() / ((start - target)[w] ** 2).sum()
        assert report.loss == pytest.approx(float(expected), rel=1e-9)
        assert report.segments[0].matched == pytest.approx(float(w.double().mean()))
        assert report.as_record()["matched"] == report.segments[0].matched
        shares.append(report.segments[0].matched)
    assert 0 < shares[0] < 1
    if settings.rule == "paced":
        assert shares == sorted(shares)
        assert shares[-1] > shares[0]


@pytest.mark.parametrize("backend", SWEEPS)
@pytest.mark.parametrize("settings", [DEPTH, RANK, PACED], ids=lambda settings: settings.rule)
def test_backends_take_the_same_course(settings: MatchedParameters, backend: str, store: TrajectoryStore) -> None:
    """Ten outer iterations in fp64 with several experts: every loss, every share and the final pixels agree."""
    courses = []
    for name in (backend, "autograd"):
        running = distiller(
            store, method="att", backend=name, ipc=2, batch_size=5, experts_per_step=2, match_parameters=settings
        )
        reports = [running.iterate() for _ in range(10)]
        numbers = [
            (segment.loss, segment.step, segment.matched)
            for segment in itertools.chain.from_iterable(report.segments for report in reports)
        ]
        courses.append((numbers, running.images))
    for one, other in zip(courses[0][0], courses[1][0], strict=True):
        assert one == pytest.approx(other, rel=1e-9)
    torch.testing.assert_close(courses[0][1], courses[1][1], rtol=1e-9, atol=1e-9)


def test_a_run_records_the_share_of_the_parameters(store: TrajectoryStore, tmp_path: Path) -> None:
    from pydistill.runs.run import run_distillation

    folder = run_distillation(recipe(iterations=2, match_parameters=DEPTH), DATA, store, tmp_path).folder
    total = sum(store.record.sizes)
    lines = [line for line in folder.metrics() if line["event"] == "iteration"]
    assert [line["matched"] for line in lines] == [1 - int(0.25 * total) / total] * 2
