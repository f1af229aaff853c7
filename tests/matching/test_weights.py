"""Weights of single parameters in the matching loss, against a loop written from the formula."""

from __future__ import annotations

from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.func import functional_call

from pydistill.errors import InputError
from pydistill.matching import Batches, Match, match, match_many
from pydistill.nn.flat import layout_of
from tests.matching.problems import (
    ALL,
    LEAVES,
    SWEEPS,
    Case,
    assert_same,
    make_case,
    relative_error,
    run_match,
    same_bits,
)

BOUND = 1e-9

SELECTIONS = [
    {"selection": "last"},
    {"selection": "nearest", "distance": "l1"},
    {"selection": "nearest", "distance": "l2"},
]
KINDS = ["random", "mask"]


def weights_of(case: Case, kind: str) -> Tensor:
    """Random weights, or a mask that leaves out half of the parameters."""
    numbers = torch.rand(case.start.shape, generator=torch.Generator().manual_seed(11), dtype=torch.float64)
    return numbers if kind == "random" else (numbers > 0.5).double()


def by_the_formula(case: Case) -> tuple[Match, dict[str, Tensor]]:
    """The result and the gradients of a weighted match, by a loop that keeps the graph of every step."""
    options = case.options
    w: Tensor = options["weights"]
    leaves = {name: getattr(case, name).clone() for name in LEAVES}
    leaves = {name: leaf.requires_grad_(leaf.is_floating_point()) for name, leaf in leaves.items()}
    layout = layout_of(case.model)
    frozen = torch.cat([torch.full((p.numel(),), not p.requires_grad) for p in case.model.parameters()])
    theta = leaves["start"]
    points = [theta]
    for k, rows in enumerate(case.index):
        at = theta if options.get("gradient") != "truncated" else theta.detach().requires_grad_()
        logits = functional_call(case.model, layout.split(at), (leaves["images"][rows],))
        loss = F.cross_entropy(logits, leaves["labels"][rows])
        (gradient,) = torch.autograd.grad(loss, at, create_graph=True)
        lr = leaves["lr"] if leaves["lr"].ndim == 0 else leaves["lr"][k]
        theta = theta - lr * gradient.masked_fill(frozen, 0)
        points.append(theta)
    gaps = [(point - leaves["target"]).detach() for point in points]
    if options.get("distance") == "l2":
        distances = [sum(w[i] * gap[i] ** 2 for i in range(len(w))) ** 0.5 for gap in gaps]
    else:
        distances = [sum(w[i] * abs(gap[i]) for i in range(len(w))) for gap in gaps]
    step = len(case.index)
    if options["selection"] == "nearest":
        step = min(range(1, len(distances)), key=lambda k: (float(distances[k]), -k))
    left = (w * (points[step] - leaves["target"]) ** 2).sum()
    loss = left / (w * (points[0] - leaves["target"]) ** 2).sum()
    leaves = {name: leaf for name, leaf in leaves.items() if leaf.requires_grad}
    gradients = torch.autograd.grad(loss, list(leaves.values()))
    return Match(loss, step, torch.stack(distances), "formula"), dict(zip(leaves, gradients, strict=True))


@pytest.mark.parametrize("backend", ALL)
@pytest.mark.parametrize("gradient", ["exact", "truncated"])
@pytest.mark.parametrize("options", SELECTIONS, ids=lambda options: "-".join(options.values()))
@pytest.mark.parametrize("kind", KINDS)
def test_against_the_formula(kind: str, options: dict[str, str], gradient: str, backend: str) -> None:
    """The learning rate overshoots a near target, so that `nearest` stops before the last step."""
    case = make_case(
        "mlp-w3", size=4, steps=6, lr=0.5, distance_to_target=0.01, per_step_lr=True, gradient=gradient, **options
    )
    case.options["weights"] = weights_of(case, kind)
    expected = by_the_formula(case)
    assert (expected[0].step == 6) == (options["selection"] == "last")
    assert_same(case.run(backend), expected, BOUND)


@pytest.mark.parametrize("backend", SWEEPS)
@pytest.mark.parametrize("gradient", ["exact", "truncated"])
@pytest.mark.parametrize("options", SELECTIONS, ids=lambda options: "-".join(options.values()))
@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("per_step_lr", [False, True])
def test_against_the_whole_graph(
    per_step_lr: bool, kind: str, options: dict[str, str], gradient: str, backend: str
) -> None:
    case = make_case(steps=7, labels="soft", per_step_lr=per_step_lr, gradient=gradient, **options)
    case.options["weights"] = weights_of(case, kind)
    assert_same(case.run(backend), case.run("autograd"), BOUND)


@pytest.mark.parametrize("backend", ["torch", "autograd"])
@pytest.mark.parametrize("kind", KINDS)
def test_frozen_parameters(kind: str, backend: str) -> None:
    with torch.random.fork_rng():
        torch.manual_seed(1)
        model = nn.Sequential(nn.Flatten(), nn.Linear(32, 4), nn.Tanh(), nn.Linear(4, 3))
    model[1].requires_grad_(False)
    case = make_case(model=model, size=4, steps=4, selection="nearest", distance="l1")
    case.options["weights"] = weights_of(case, kind)
    assert_same(case.run(backend), by_the_formula(case), BOUND)


@pytest.mark.parametrize("backend", SWEEPS)
def test_gradcheck_to_start_and_target(backend: str) -> None:
    case = make_case("mlp-w3", size=4, steps=3)
    weights, batches = weights_of(case, "mask"), Batches(case.images, case.labels, case.index)

    def loss(start: Tensor, target: Tensor) -> Tensor:
        return match(case.model, start, target, batches, case.lr, weights=weights, backend=backend).loss

    assert torch.autograd.gradcheck(loss, (case.start.requires_grad_(), case.target.requires_grad_()))


@pytest.mark.parametrize("backend", ALL)
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_weights_of_one_change_no_bit(dtype: torch.dtype, backend: str) -> None:
    case = make_case(steps=4, labels="soft", selection="nearest").to(dtype)
    without = case.run(backend)
    assert without[0].weights is None
    case.options["weights"] = torch.ones_like(case.start)
    assert same_bits(case.run(backend), without)


@pytest.mark.parametrize("backend", ALL)
def test_a_parameter_of_weight_zero_has_no_part_in_the_loss(backend: str) -> None:
    case = make_case(steps=3, selection="nearest")
    case.options["weights"] = weights_of(case, "mask")
    out = case.options["weights"] == 0
    outcome, gradients = case.run(backend)
    assert gradients["target"][out].count_nonzero() == 0
    assert gradients["target"][~out].count_nonzero() == (~out).sum()
    case.target = torch.where(out, case.target + 5, case.target)
    moved, _ = case.run(backend)
    assert torch.equal(moved.loss, outcome.loss)
    assert torch.equal(moved.distances, outcome.distances)


@pytest.mark.parametrize("backend", ALL)
@pytest.mark.parametrize("options", SELECTIONS, ids=lambda options: "-".join(options.values()))
def test_a_rule_sees_the_selected_step_and_is_a_constant(options: dict[str, str], backend: str) -> None:
    case = make_case(steps=6, lr=0.5, distance_to_target=0.002, **options)
    plain, _ = case.run(backend)
    seen: list[tuple[Tensor, ...]] = []

    def largest_errors(arrival: Tensor, start: Tensor, target: Tensor) -> Tensor:
        seen.append((arrival.clone(), start, target))
        error = (arrival - target).square()
        return (error > error.median()).double()

    case.options["weights"] = largest_errors
    outcome, gradients = case.run(backend)
    assert outcome.step == plain.step
    assert torch.equal(outcome.distances, plain.distances)
    ((arrival, start, target),) = seen
    assert not any(point.requires_grad for point in seen[0])
    assert torch.equal(start, case.start)
    assert torch.equal(target, case.target)
    distance = (arrival - target).abs().sum() if options.get("distance") != "l2" else (arrival - target).norm()
    assert relative_error(distance, plain.distances[plain.step]) < BOUND

    # The same weights as a vector, at the step that was selected without them.
    cut = make_case(steps=6, lr=0.5, distance_to_target=0.002)
    cut.index = cut.index[: outcome.step]
    cut.options["weights"] = outcome.weights
    expected = cut.run(backend)
    assert relative_error(outcome.loss.detach(), expected[0].loss.detach()) < BOUND
    for name, gradient in gradients.items():
        assert relative_error(gradient, expected[1][name]) < BOUND, name


@pytest.mark.parametrize("backend", ALL)
def test_match_many_has_weights_of_its_own_for_every_match_or_one_for_all(backend: str) -> None:
    cases = [make_case(steps=3, selection="nearest") for _ in range(3)]
    cases[1].start = cases[1].start + 0.05
    batches = Batches(cases[0].images, cases[0].labels, cases[0].index)
    arguments: list[Any] = [
        cases[0].model,
        [case.start for case in cases],
        [case.target for case in cases],
        [batches] * 3,
        cases[0].lr,
    ]
    random = weights_of(cases[0], "random")
    for weights in (random, [random, None, weights_of(cases[0], "mask")]):
        outcomes = match_many(*arguments, selection="nearest", backend=backend, weights=weights)
        for number, (case, outcome) in enumerate(zip(cases, outcomes, strict=True)):
            case.options["weights"] = weights if isinstance(weights, Tensor) else weights[number]
            expected, _ = case.run(backend)
            assert torch.equal(outcome.loss, expected.loss)
            assert torch.equal(outcome.distances, expected.distances)
    with pytest.raises(InputError, match="weights"):
        match_many(*arguments, weights=[random] * 2)


@pytest.mark.parametrize("backend", ALL)
@pytest.mark.parametrize(
    ("spoil", "message"),
    [
        (lambda w: w[1:], "shape"),
        (lambda w: w.float(), "dtype"),
        (lambda w: w * float("nan"), "finite"),
        (lambda w: w / 0, "finite"),
        (lambda w: w - 2, "at least 0"),
        (lambda w: w * 0, "divides"),
        (lambda w: w.requires_grad_(), "gradient"),
        (lambda w: w.tolist(), "a vector"),
    ],
    ids=["shape", "dtype", "nan", "infinite", "negative", "zero", "gradient", "list"],
)
@pytest.mark.parametrize("by_rule", [False, True])
def test_invalid_weights_are_refused(by_rule: bool, spoil: Any, message: str, backend: str) -> None:
    bad = spoil(torch.ones_like(make_case(steps=2).start))
    with pytest.raises(InputError, match=f"^weights.* {message}"):
        run_match(weights=(lambda *points: bad) if by_rule else bad, backend=backend)


@pytest.mark.parametrize("backend", ALL)
def test_weights_that_vanish_where_start_and_target_differ_are_refused(backend: str) -> None:
    case = make_case(steps=2)
    target = torch.cat([case.target[:5], case.start[5:]])
    weights = torch.ones_like(target)
    weights[:5] = 0
    with pytest.raises(InputError, match="weights must not be 0"):
        run_match(target=target, weights=weights, backend=backend)
    weights[4] = 0.5
    assert torch.isfinite(run_match(target=target, weights=weights, backend=backend).loss)


@pytest.mark.parametrize("backend", ALL)
def test_weights_changed_in_place_before_backward_raise(backend: str) -> None:
    case = make_case(steps=2)
    images, weights = case.images.clone().requires_grad_(), weights_of(case, "random")
    loss = run_match(batches=[(images, case.labels)] * 2, weights=weights, backend=backend).loss
    weights[0] = 3
    with pytest.raises(RuntimeError, match="modified by an inplace operation"):
        loss.backward()
