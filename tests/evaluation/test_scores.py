"""The scores: worked by hand, with the spread that sampled cells have."""

from __future__ import annotations

import math
import statistics

import pytest
import torch

from pydistill.evaluation.evaluate import Evaluation, Row
from pydistill.evaluation.scores import Scores, Uncertain, robust_score

SPREADS = {
    "real_hard": (0.8, 0.85, 0.9),
    "distilled_hard": (0.3, 0.36),
    "distilled": (0.7, 0.66, 0.6),
    "random": (0.28, 0.3, 0.2),
    "distilled_augmented": (0.61, 0.67),
    "random_augmented": (0.25, 0.31),
    "distilled_plain": (0.5, 0.4),
    "random_plain": (0.2, 0.24),
}


def row(*accuracies: float) -> Row:
    return "images", Evaluation("mlp", accuracies, 1.0)


def test_worked_by_hand() -> None:
    """HLR = .8 − .3 = .5; IOR = .6 − .2 = .4; α = .2 − .25 = −.05; β = (.6 − .2)/2 + (.4 − .1)/2 = .35."""
    values = {"real_hard": 0.8, "distilled_hard": 0.3, "distilled": 0.6, "random": 0.2}
    values |= {"distilled_augmented": 0.6, "random_augmented": 0.2, "distilled_plain": 0.4, "random_plain": 0.1}
    scores = Scores({name: row(value) for name, value in values.items()})
    assert scores.beta is not None
    assert scores.ars is not None
    found = [one.value for one in (scores.hlr, scores.ior, scores.alpha, scores.beta)]
    assert found == pytest.approx([0.5, 0.4, -0.05, 0.35], abs=1e-12)
    # e^−.05 = .951229425, e^.35 = 1.419067549, e^−1 = .367879441, e = 2.718281828
    assert scores.lrs.value == pytest.approx(0.583349984 / 2.350402387, abs=1e-9)
    assert scores.ars.value == pytest.approx(1.051188108 / 2.350402387, abs=1e-9)


def test_the_ends_of_the_scale() -> None:
    assert [robust_score(Uncertain(value, 0.0)).value for value in (-1.0, 1.0)] == pytest.approx([0.0, 1.0], abs=1e-15)
    assert robust_score(Uncertain(0.0, 0.0)).value == pytest.approx(0.26894142137, abs=1e-10)


def sampled(shared: bool) -> tuple[float, float]:
    """The standard deviations of LRS and ARS over Gaussian cells; with hard labels two cells are one measurement."""
    generator = torch.Generator().manual_seed(0)
    a = {
        name: statistics.fmean(runs)
        + statistics.pstdev(runs) * torch.randn(200_000, dtype=torch.float64, generator=generator)
        for name, runs in SPREADS.items()
    }
    if shared:
        a["distilled_hard"] = a["distilled_augmented"] = a["distilled"]
        a["random_augmented"] = a["random"]
    alpha = 0.5 * (a["distilled"] - a["random"]) - 0.5 * (a["real_hard"] - a["distilled_hard"])
    beta = a["distilled_augmented"] - a["random_augmented"] + a["distilled_plain"] - a["random_plain"]
    scale = math.e - math.exp(-1)
    lrs, ars = ((x.exp() - math.exp(-1)) / scale for x in (alpha, beta / 2))
    return float(lrs.std()), float(ars.std())


@pytest.mark.parametrize("shared", [False, True])
def test_the_spread_is_that_of_sampled_cells(shared: bool) -> None:
    """To first order: the exponents' spreads are below 0.04, whose square changes the standard deviation by 0.1 %."""
    cells = {name: row(*runs) for name, runs in SPREADS.items()}
    if shared:
        cells["distilled_hard"] = cells["distilled_augmented"] = cells["distilled"]
        cells["random_augmented"] = cells["random"]
    scores = Scores(cells)
    assert scores.ars is not None
    assert (scores.lrs.std, scores.ars.std) == pytest.approx(sampled(shared), rel=0.01)


def test_a_measurement_in_two_cells_is_no_independent_error() -> None:
    cells = {name: row(*SPREADS[name]) for name in ("real_hard", "distilled", "random")}
    one = Scores(cells | {"distilled_hard": cells["distilled"]})
    two = Scores(cells | {"distilled_hard": row(*SPREADS["distilled"])})
    assert one.lrs.value == two.lrs.value
    assert one.lrs.std > two.lrs.std


def test_a_table_has_no_augmentation_robust_score() -> None:
    scores = Scores({name: row(*SPREADS[name]) for name in ("real_hard", "distilled_hard", "distilled", "random")})
    assert scores.beta is None
    assert scores.ars is None
    record = scores.as_record()
    assert record["ARS"] is None
    assert record["LRS"] == {"value": scores.lrs.value, "std": scores.lrs.std}
    assert record["cells"]["random"]["runs"] == [0.28, 0.3, 0.2]
    assert "LRS" in str(scores)
    assert "ARS" not in str(scores)
