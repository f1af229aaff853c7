"""Overlapping images: the redraw against a slow loop over pairs and candidates, and its limits."""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor, nn

from pydistill.synthesis import overlap
from pydistill.synthesis.overlap import Redraw, redraws
from tests.helpers.blobs import blobs
from tests.helpers.small_runs import in_double

DATA = in_double(blobs())
CLASSES = torch.arange(4).repeat_interleave(5)


def network() -> nn.Module:
    torch.manual_seed(0)
    return nn.Sequential(nn.Flatten(), nn.Linear(64, 6), nn.ReLU(), nn.Linear(6, 4)).double()


def synthetic(seed: int, noise: float) -> Tensor:
    """Five images of each class, near to two real ones."""
    draws = torch.Generator().manual_seed(seed)
    near = torch.cat([DATA.class_indices(label)[[0, 0, 0, 1, 1]] for label in range(4)])
    images = DATA.train_images[near]
    return images + noise * torch.randn(images.shape, generator=draws, dtype=torch.float64)


def feature(model: nn.Module, image: Tensor) -> list[float]:
    with torch.no_grad():
        values: list[float] = model[2](model[1](image.flatten()[None]))[0].tolist()  # type: ignore[index]
    return values


def cosine(one: list[float], other: list[float]) -> float:
    lengths = [math.sqrt(sum(a * a for a in vector)) for vector in (one, other)]
    return sum(a * b for a, b in zip(one, other, strict=True)) / (lengths[0] * lengths[1])


def slow_redraws(images: Tensor, activity: list[float], seed: int, above: float, at_most: int) -> list[Redraw]:
    model, draws = network(), torch.Generator().manual_seed(seed)
    synthetic_features, candidates, real = {}, {}, {}
    for label in range(4):
        of_class = DATA.class_indices(label).tolist()
        candidates[label] = [of_class[place] for place in torch.randperm(12, generator=draws).tolist()]
        rows = [feature(model, DATA.train_images[index]) for index in candidates[label]]
        mean = [sum(values) / len(rows) for values in zip(*rows, strict=True)]
        real[label] = [[a - b for a, b in zip(row, mean, strict=True)] for row in rows]
        for image in range(label * 5, label * 5 + 5):
            row = feature(model, images[image])
            synthetic_features[image] = [a - b for a, b in zip(row, mean, strict=True)]
    pairs = [
        (cosine(synthetic_features[i], synthetic_features[j]), i, j)
        for i in range(20)
        for j in range(i + 1, 20)
        if i // 5 == j // 5
    ]
    leaving: dict[int, tuple[int, float]] = {}
    for value, i, j in sorted(pairs, key=lambda pair: -pair[0]):
        if value > above and len(leaving) < at_most and i not in leaving and j not in leaving:
            less, more = (i, j) if activity[i] <= activity[j] else (j, i)
            leaving[less] = (more, value)
    chosen = []
    for label in range(4):
        others = [synthetic_features[i] for i in range(label * 5, label * 5 + 5) if i not in leaving]
        for image in sorted(i for i in leaving if i // 5 == label):
            largest = [max(cosine(row, other) for other in others) for row in real[label]]
            far = [place for place, value in enumerate(largest) if value <= above]
            taken = far[0] if far else largest.index(min(largest))
            chosen.append(Redraw(image, *leaving[image], candidates[label][taken]))
            others.append(real[label][taken])
    return chosen


@pytest.mark.parametrize(("above", "at_most"), [(0.95, 20), (0.95, 2), (0.5, 20), (0.999, 20), (0.01, 20)])
@pytest.mark.parametrize("seed", range(3))
def test_the_redraws_are_those_of_the_slow_loop(seed: int, above: float, at_most: int) -> None:
    images = synthetic(seed, 0.05)
    activity = torch.rand(20, generator=torch.Generator().manual_seed(seed + 50))
    draws = torch.Generator().manual_seed(seed)
    found = redraws(DATA, images, CLASSES, activity, network(), draws, above=above, at_most=at_most)
    expected = slow_redraws(images, activity.tolist(), seed, above, at_most)
    assert [(r.image, r.like, r.real) for r in found] == [(r.image, r.like, r.real) for r in expected]
    assert [r.similarity for r in found] == pytest.approx([r.similarity for r in expected], abs=1e-12)
    assert len(found) <= at_most
    assert bool(found) or above == 0.999
    assert all(int(DATA.train_labels[r.real]) == r.image // 5 == r.like // 5 for r in found)


def test_images_that_differ_stay() -> None:
    images = torch.cat([DATA.train_images[DATA.class_indices(label)[:5]] for label in range(4)])
    draws = torch.Generator().manual_seed(0)
    assert redraws(DATA, images, CLASSES, torch.zeros(20), network(), draws, above=0.9999, at_most=20) == []


def test_one_image_per_class_has_nothing_to_overlap_with() -> None:
    draws = torch.Generator().manual_seed(0)
    images = DATA.train_images[torch.arange(0, 48, 12)]
    assert redraws(DATA, images, torch.arange(4), torch.zeros(4), network(), draws, above=0.01, at_most=4) == []


def test_of_two_equal_images_the_less_active_one_goes(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(overlap, "CANDIDATES", 6)
    images = torch.cat([DATA.train_images[DATA.class_indices(label)[:5]] for label in range(4)])
    images[7] = images[5]
    activity = torch.ones(20)
    activity[7] = 0.5
    [found] = redraws(
        DATA, images, CLASSES, activity, network(), torch.Generator().manual_seed(0), above=0.99999, at_most=20
    )
    assert (found.image, found.like) == (7, 5)
    assert found.similarity == pytest.approx(1)
