"""The published normalisations."""

from __future__ import annotations

import pytest
import torch

from pydistill.data import DataSettings, load
from pydistill.data.dataset import prepare
from pydistill.data.raw import raw_from
from pydistill.data.statistics import PUBLISHED, published_normalisation
from pydistill.errors import InputError


@pytest.mark.parametrize("as_bytes", [False, True])
def test_images_are_normalised_with_the_published_numbers(as_bytes: bool) -> None:
    pixels = torch.randint(0, 256, (6, 3, 4, 4), generator=torch.Generator().manual_seed(0)).to(torch.uint8)
    labels = torch.arange(6) % 2
    raw = raw_from("cifar10", None, pixels, labels, pixels, labels)
    data = prepare(raw, normalise=published_normalisation("cifar10"), as_bytes=as_bytes)
    mean, deviation = (torch.tensor(numbers)[:, None, None] for numbers in PUBLISHED["cifar10"])
    torch.testing.assert_close(data.train_images, (pixels / 255 - mean) / deviation)
    assert data.preprocessing.fingerprint == published_normalisation("cifar100").fingerprint
    assert data.preprocessing.fingerprint != prepare(raw).preprocessing.fingerprint


@pytest.mark.parametrize(
    ("settings", "name"),
    [
        (DataSettings(statistics="published"), "digits"),
        (DataSettings("cifar10", zca=True, statistics="published"), r"data\.statistics"),
    ],
)
def test_unavailable_statistics_are_refused(settings: DataSettings, name: str) -> None:
    with pytest.raises(InputError, match=name):
        load(settings)
