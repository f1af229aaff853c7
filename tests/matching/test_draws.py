"""Augmentation draws in a match: several kinds in one recipe; draws that do not fit are refused by every backend."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
import torch

from pydistill.data.dsa import DsaDraw, DsaSettings
from pydistill.errors import InputError
from tests.matching.problems import ALL, assert_same, make_case, needs_engine, same_bits

BOUND = 1e-9


@needs_engine
def test_draws_of_several_kinds_in_one_recipe() -> None:
    """Lists of other lengths, one of them empty, and parameters of one row beside those of one for each image."""
    case = make_case(steps=4, dsa=DsaSettings(mode="M"))
    generator = torch.Generator().manual_seed(1)
    shared = DsaSettings(mode="M", strategy="flip_color", shared=True).draw(4, 8, 8, generator)
    single = DsaSettings(strategy="crop").draw(4, 8, 8, generator)
    nothing = DsaSettings(strategy="none").draw(4, 8, 8, generator)
    case.draws = [shared, case.draws[1], nothing, single]
    assert_same(case.run("fused"), case.run("autograd"), BOUND)
    case.draws = [nothing] * 4
    assert same_bits(case.run("fused"), replace(case, draws=None).run("fused"))


@pytest.mark.parametrize("backend", ALL)
@pytest.mark.parametrize(("rows", "side"), [(3, 8), (4, 7)])
def test_a_draw_that_does_not_fit_is_refused_by_every_backend(backend: str, rows: int, side: int) -> None:
    case = make_case(steps=2)
    case.draws = [DsaDraw(("flip",), torch.ones(rows, 1), side, side)] * 2
    with pytest.raises(InputError, match=rf"{rows} images of {side}×{side}"):
        case.run(backend)


@pytest.mark.parametrize("backend", ALL)
@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"parameters": torch.zeros(1, 2)}, "a draw of color"),
        ({"operations": ("blur",)}, "a draw's operation 'blur'"),
    ],
    ids=["too few parameters", "unknown operation"],
)
def test_a_draw_that_lacks_something_is_refused_by_every_backend(
    backend: str, changes: dict[str, Any], message: str
) -> None:
    case = make_case(dsa=DsaSettings(strategy="color", shared=True))
    assert case.draws is not None
    case.draws = [replace(draw, **changes) for draw in case.draws]
    with pytest.raises(InputError, match=message):
        case.run(backend)
