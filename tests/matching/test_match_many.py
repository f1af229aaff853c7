"""`match_many`: the results of `match` for every problem; lists of unequal lengths are refused."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from pydistill.data.dsa import DsaSettings
from pydistill.errors import InputError
from pydistill.matching import Batches, match_many
from pydistill.nn import MLP
from tests.matching.problems import ALL, Case, make_case


def several(backend: str) -> tuple[list[Case], list[Any], dict[str, Any]]:
    """Three problems of one network: their cases, their results by `match`, and the arguments of `match_many`."""
    cases = [make_case(steps=3, labels="soft", dsa=DsaSettings(), selection="nearest") for _ in range(3)]
    for number, case in enumerate(cases):
        case.start = case.start + 0.05 * number
        case.index = case.index.roll(number, 0)
    expected = [case.run(backend, wanted=["images", "lr"]) for case in cases]
    images, lr = (value.clone().requires_grad_() for value in (cases[0].images, cases[0].lr))
    arguments = {
        "model": cases[0].model,
        "starts": [case.start for case in cases],
        "targets": [case.target for case in cases],
        "batches": [Batches(images, case.labels, case.index, case.draws) for case in cases],
        "lr": lr,
        "selection": "nearest",
        "backend": backend,
    }
    return cases, expected, arguments


@pytest.mark.parametrize("backend", ALL)
def test_match_many_is_match_of_every_problem(backend: str) -> None:
    _, expected, arguments = several(backend)
    outcomes = match_many(**arguments)
    for one, (other, _) in zip(outcomes, expected, strict=True):
        assert (one.step, one.backend) == (other.step, backend)
        assert torch.equal(one.loss, other.loss)
        assert torch.equal(one.distances, other.distances)
    torch.stack([outcome.loss for outcome in outcomes]).mean().backward()
    for leaf, name in ((arguments["batches"][0].images, "images"), (arguments["lr"], "lr")):
        mean = torch.stack([gradients[name] for _, gradients in expected]).mean(0)
        torch.testing.assert_close(leaf.grad, mean, rtol=1e-12, atol=1e-15)


def test_match_many_of_networks_that_the_engine_does_not_run() -> None:
    case = make_case(model=MLP(2, 3, 8))
    case.model.register_forward_hook(lambda *_: None)
    batches = Batches(case.images, case.labels, case.index)
    outcomes = match_many(case.model, [case.start] * 2, [case.target] * 2, [batches] * 2, 0.1)
    assert [outcome.backend for outcome in outcomes] == ["torch", "torch"]


@pytest.mark.parametrize("counts", [(0, 0, 0), (2, 1, 2), (1, 1, 2)])
def test_lists_of_unequal_lengths_are_refused(counts: tuple[int, int, int]) -> None:
    case = make_case()
    batches = Batches(case.images, case.labels, case.index)
    starts, targets, recipes = (
        [one] * count for one, count in zip((case.start, case.target, batches), counts, strict=True)
    )
    with pytest.raises(InputError, match="{}, {} and {}".format(*counts)):
        match_many(case.model, starts, targets, recipes, 0.1)


def test_targets_are_needed() -> None:
    case = make_case(steps=2)
    batches = Batches(case.images, case.labels, case.index)
    with pytest.raises(InputError, match="targets"):
        match_many(case.model, [case.start], None, [batches], 0.1)  # type: ignore[arg-type]
