"""`Batches`: refused arguments, and draws that visit the images equally often."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from pydistill.data import DsaSettings
from pydistill.errors import InputError
from pydistill.matching import Batches
from tests.matching.problems import make_case


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"index": torch.tensor([[0, 6]])}, "index"),
        ({"index": torch.tensor([0, 1])}, "index"),
        ({"labels": torch.tensor([0])}, "images and labels"),
        ({"index": torch.zeros(3, 0, dtype=torch.int64)}, r"at least one image for each step, not shape \[3, 0\]"),
        ({"draws": ()}, "draws"),
        ({"draws": [None] * 3}, "draws"),
        ({"images": [[0.0]]}, "images"),
        ({"labels": None}, "labels"),
        ({"index": [[0, 1]]}, "index"),
        ({"index": torch.zeros(3, 2, dtype=torch.int64, device="meta")}, "index"),
    ],
)
def test_recipe_message(arguments: dict[str, Any], message: str) -> None:
    case = make_case()
    inputs = {"images": case.images, "labels": case.labels, "index": case.index, "draws": None} | arguments
    with pytest.raises(InputError, match=message):
        Batches(**inputs)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"steps": 0}, "steps"),
        ({"batch_size": 0}, "batch_size"),
        ({"steps": "2"}, "steps"),
        ({"batch_size": 2.5}, "batch_size"),
        ({"generator": None}, "generator"),
        ({"generator": 0}, "generator"),
        ({"dsa": "color"}, "dsa"),
        ({"dsa": DsaSettings(), "images": torch.zeros(6, 4)}, "images"),
        ({"images": None}, "images"),
        ({"images": torch.zeros(())}, "images"),
        ({"labels": [0, 1, 2]}, "labels"),
    ],
)
def test_drawing_a_recipe(arguments: dict[str, Any], message: str) -> None:
    case = make_case()
    inputs = {"images": case.images, "labels": case.labels, "steps": 2, "batch_size": 3, "generator": torch.Generator()}
    with pytest.raises(InputError, match=message):
        Batches.draw(**(inputs | arguments))


def test_a_drawn_recipe_visits_every_image_equally_often() -> None:
    case = make_case()
    recipe = Batches.draw(case.images, case.labels, steps=9, batch_size=4, generator=torch.Generator())
    counts = torch.bincount(recipe.index.flatten(), minlength=6)
    assert recipe.index.shape == (9, 4)
    assert counts.tolist() == [6] * 6
