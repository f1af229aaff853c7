"""The published normalisations."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch

from pydistill.data import DataSettings, Normalise, digits
from pydistill.data.dataset import prepare
from pydistill.data.raw import raw_from
from pydistill.data.statistics import PUBLISHED, published_normalisation
from pydistill.errors import SettingError


@pytest.mark.parametrize("as_bytes", [False, True])
def test_images_are_normalised_with_the_published_numbers(as_bytes: bool) -> None:
    pixels = torch.randint(0, 256, (6, 3, 4, 4), generator=torch.Generator().manual_seed(0)).to(torch.uint8)
    labels = torch.arange(6) % 2
    raw = raw_from("cifar10", None, pixels, labels, pixels, labels)
    data = prepare(raw, normalise=published_normalisation("cifar10"), as_bytes=as_bytes)
    mean, deviation = (torch.tensor(numbers)[:, None, None] for numbers in PUBLISHED["cifar10"])
    torch.testing.assert_close(data.train_images, (pixels / 255 - mean) / deviation)
    published = published_normalisation("cifar100")
    assert published is not None
    assert data.preprocessing.fingerprint == published.fingerprint
    assert data.preprocessing.fingerprint != prepare(raw).preprocessing.fingerprint
    assert published_normalisation("digits") is None


@pytest.mark.parametrize(("name", "zca"), [("digits", False), ("cifar10", True)])
def test_unavailable_statistics_are_refused(name: str, zca: bool) -> None:
    with pytest.raises(SettingError) as error:
        DataSettings(name, zca=zca, statistics="published")
    assert error.value.setting == "statistics"


def test_settings_follow_the_preprocessing() -> None:
    """They are those that load the same images again, and None for a preprocessing that no settings give."""
    measured = digits()
    whitened = measured.with_preprocessing(digits(zca=True).preprocessing)
    assert (measured.settings, whitened.settings) == (DataSettings(), DataSettings(zca=True))
    assert measured.with_preprocessing(measured.preprocessing).settings == DataSettings()
    assert whitened.with_preprocessing(measured.preprocessing).settings == DataSettings()
    other = Normalise(torch.tensor([0.1]), torch.tensor([0.5]))
    assert measured.with_preprocessing(other).settings is None
    grey = replace(measured, settings=DataSettings("fashion-mnist"))
    published = published_normalisation("fashion-mnist")
    assert published is not None
    settings = grey.with_preprocessing(published).settings
    assert settings == DataSettings("fashion-mnist", statistics="published")
