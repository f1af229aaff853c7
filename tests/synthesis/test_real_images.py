"""The real images that a set starts from, against loops that look at one image at a time."""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor, nn

from pydistill.errors import InputError, SettingError
from pydistill.synthesis.kmeans import features, kmeans_choice
from pydistill.synthesis.real_images import correct_images, el2n, images_of_difficulty, representative_images
from tests.helpers.blobs import blobs
from tests.helpers.small_runs import in_double

DATA = in_double(blobs())
IMAGES, LABELS = DATA.train_images, DATA.train_labels.tolist()


def generator(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def networks(count: int) -> list[nn.Module]:
    """Untrained networks, each of which classifies some images right."""
    made = []
    for seed in range(count):
        torch.manual_seed(seed)
        made.append(nn.Sequential(nn.Flatten(), nn.Linear(64, 8), nn.Tanh(), nn.Linear(8, 4)).double())
    return made


def output(network: nn.Module, index: int) -> list[float]:
    with torch.no_grad():
        values: list[float] = network(IMAGES[index : index + 1])[0].tolist()
    return values


def is_right(network: nn.Module, index: int) -> bool:
    values = output(network, index)
    return values.index(max(values)) == LABELS[index]


@pytest.mark.parametrize("count", [1, 3, 5])
def test_correct_images(count: int) -> None:
    experts = networks(8)
    orders, shuffles = [], generator(3)
    for label in range(4):
        of_class = [index for index, own in enumerate(LABELS) if own == label]
        orders.append([of_class[place] for place in torch.randperm(len(of_class), generator=shuffles).tolist()])
    expected = []
    for order in orders:
        chosen: list[int] = []
        for expert in experts:
            for index in order:
                if len(chosen) < count and index not in chosen and is_right(expert, index):
                    chosen.append(index)
        expected += chosen
    assert correct_images(DATA, count, experts, generator(3)).tolist() == expected
    if count == 5:  # the first expert does not suffice
        assert not all(is_right(experts[0], index) for index in expected)


def test_too_few_images_are_classified_right() -> None:
    expert = networks(1)[0]
    fewest = min(sum(is_right(expert, index) for index in range(48) if LABELS[index] == label) for label in range(4))
    with pytest.raises(SettingError, match=f"at most {fewest} with initialisation correct") as raised:
        correct_images(DATA, 12, [expert], generator())
    assert raised.value.setting == "ipc"
    with pytest.raises(InputError, match="at least one expert"):
        correct_images(DATA, 1, [], generator())


def slow_el2n(network: nn.Module, index: int) -> float:
    values = output(network, index)
    total = sum(math.exp(value) for value in values)
    errors = [math.exp(value) / total - (label == LABELS[index]) for label, value in enumerate(values)]
    return math.sqrt(sum(error**2 for error in errors))


def test_el2n() -> None:
    network = networks(1)[0]
    expected = torch.tensor([slow_el2n(network, index) for index in range(48)], dtype=torch.float64)
    torch.testing.assert_close(el2n(network, IMAGES, DATA.train_labels), expected, rtol=0, atol=1e-12)


@pytest.mark.parametrize(("count", "start", "first"), [(3, 0.0, 0), (3, 1.0, 3), (5, 0.5, 2), (4, 2.0, 8)])
def test_images_of_difficulty(count: int, start: float, first: int) -> None:
    network = networks(1)[0]
    expected = []
    for label in range(4):
        of_class = [index for index, own in enumerate(LABELS) if own == label]
        expected += sorted(of_class, key=lambda index: -slow_el2n(network, index))[first : first + count]
    assert images_of_difficulty(DATA, count, network, start).tolist() == expected


def test_a_window_beyond_the_class() -> None:
    with pytest.raises(SettingError, match=r"at most 1\.4 for ipc = 5 and the 12 images") as raised:
        images_of_difficulty(DATA, 5, networks(1)[0], 1.6)
    assert raised.value.setting == "difficulty_start"
    assert len(images_of_difficulty(DATA, 5, networks(1)[0], 1.4)) == 20


def test_representative_images_are_those_of_k_means_in_each_class() -> None:
    network, draws = networks(1)[0], generator(7)
    expected: list[Tensor] = []
    for label in range(4):
        of_class = DATA.class_indices(label)
        expected.append(of_class[kmeans_choice(features(network, IMAGES[of_class]), 3, draws)])
    assert torch.equal(representative_images(DATA, 3, network, generator(7)), torch.cat(expected))


@pytest.mark.parametrize("count", [0, 13])
def test_more_images_than_a_class_has(count: int) -> None:
    for choose in (
        lambda: representative_images(DATA, count, networks(1)[0], generator()),
        lambda: correct_images(DATA, count, networks(1), generator()),
        lambda: images_of_difficulty(DATA, count, networks(1)[0], 0.0),
    ):
        with pytest.raises(SettingError) as raised:
            choose()
        assert raised.value.setting == "ipc"
