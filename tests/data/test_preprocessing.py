from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch

from pydistill.data import DataSettings, Normalise, Preprocessing, Zca, load
from pydistill.errors import FormatError, InputError


def unit_images(*shape: int, dtype: torch.dtype = torch.float32) -> torch.Tensor:
    return torch.rand(*shape, generator=torch.Generator().manual_seed(0), dtype=dtype)


def test_normalise_measures_every_channel() -> None:
    images = unit_images(50, 3, 4, 5, dtype=torch.float64) * torch.tensor([1, 0.5, 0.1])[:, None, None]
    fitted = Normalise.fit(images)
    torch.testing.assert_close(fitted.mean, images.mean((0, 2, 3)))
    torch.testing.assert_close(fitted.std, images.transpose(0, 1).flatten(1).std(1, correction=0))
    result = fitted.apply(images)
    torch.testing.assert_close(result.mean((0, 2, 3)), torch.zeros(3, dtype=torch.float64), atol=1e-12, rtol=0)
    torch.testing.assert_close(fitted.invert(result), images)


def test_normalise_of_bytes_equals_that_of_floats() -> None:
    images = torch.randint(0, 256, (30, 2, 4, 4), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))
    of_bytes, of_floats = Normalise.fit(images), Normalise.fit(images.double() / 255)
    torch.testing.assert_close(of_bytes.mean, of_floats.mean, rtol=1e-12, atol=0)
    torch.testing.assert_close(of_bytes.std, of_floats.std, rtol=1e-9, atol=0)


@pytest.mark.parametrize("value", [0.0, 0.3, 1.0])
def test_constant_channel_is_only_centred(value: float) -> None:
    images = unit_images(10, 2, 3, 3)
    images[:, 1] = value
    fitted = Normalise.fit(images)
    assert fitted.std[1] == 1
    assert fitted.apply(images)[:, 1].abs().max() < 1e-6


def test_zca_follows_the_formula() -> None:
    images = unit_images(40, 2, 2, 3, dtype=torch.float64).square()
    fitted = Zca.fit(images, eps=0.1)
    flat = images.flatten(1)
    centred = flat - flat.mean(0)
    covariance = centred.T @ centred / 39
    # W = (Σ + eps·1)^(−1/2), so that W(Σ + eps·1)W is the identity
    matrix = fitted.matrix.double()
    identity = torch.eye(12, dtype=torch.float64)
    torch.testing.assert_close(matrix @ (covariance + 0.1 * identity) @ matrix, identity, rtol=1e-5, atol=1e-5)
    torch.testing.assert_close(matrix, matrix.T, rtol=0, atol=1e-6)
    torch.testing.assert_close(matrix @ fitted.inverse.double(), identity, rtol=1e-5, atol=1e-5)
    torch.testing.assert_close(fitted.mean.double().flatten(), flat.mean(0), rtol=1e-6, atol=1e-6)
    torch.testing.assert_close(fitted.apply(images).flatten(1), centred @ matrix, rtol=1e-6, atol=1e-6)


def test_spectrum_of_the_whitened_covariance() -> None:
    images = unit_images(60, 1, 3, 3, dtype=torch.float64)
    whitened = Zca.fit(images, eps=0.05).apply(images).flatten(1)
    spectrum = torch.linalg.eigvalsh(images.flatten(1).T.cov())
    torch.testing.assert_close(
        torch.linalg.eigvalsh(whitened.T.cov()), (spectrum / (spectrum + 0.05)).sort().values, rtol=1e-5, atol=1e-5
    )


def test_zca_of_digits_decorrelates_and_inverts(tmp_path: Path) -> None:
    data = load(DataSettings(zca=True, cache=str(tmp_path)))
    plain = load(DataSettings(cache=str(tmp_path)))
    assert isinstance(data.preprocessing, Zca)
    torch.testing.assert_close(
        data.preprocessing.invert(data.test_images), plain.preprocessing.invert(plain.test_images), rtol=0, atol=1e-5
    )

    spectrum = torch.linalg.eigvalsh(plain.preprocessing.invert(plain.train_images).flatten(1).T.double().cov())
    whitened = torch.linalg.eigvalsh(data.train_images.flatten(1).T.double().cov())
    torch.testing.assert_close(whitened, spectrum / (spectrum + 0.1), rtol=1e-4, atol=1e-5)


def test_zca_of_fewer_images_than_pixels() -> None:
    images = unit_images(3, 1, 5, 5)
    fitted = Zca.fit(images)
    torch.testing.assert_close(fitted.invert(fitted.apply(images)), images, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("make", [Normalise.fit, Zca.fit])
def test_state_round_trips_through_json(make) -> None:  # type: ignore[no-untyped-def]
    fitted = make(unit_images(20, 2, 3, 3), source="abc")
    values, tensors = fitted.state()
    restored = Preprocessing.from_state(json.loads(json.dumps(values)), tensors)
    assert type(restored) is type(fitted)
    assert restored.state()[0] == values
    assert restored.fingerprint == fitted.fingerprint
    images = unit_images(4, 2, 3, 3)
    assert torch.equal(restored.apply(images), fitted.apply(images))


@pytest.mark.parametrize("values", [{}, {"kind": "pca"}, {"kind": "normalise"}, {"kind": "zca", "source": ""}])
def test_damaged_state_is_refused(values: dict[str, str]) -> None:
    with pytest.raises(FormatError):
        Preprocessing.from_state(values, {"mean": torch.zeros(1)})


def test_fingerprints_distinguish_kinds_data_and_strengths() -> None:
    images, others = unit_images(20, 1, 3, 3), unit_images(21, 1, 3, 3)
    prints = {
        Normalise.fit(images).fingerprint,
        Normalise.fit(others).fingerprint,
        Normalise.fit(images, source="a").fingerprint,
        Normalise.fit(images, source="b").fingerprint,
        Zca.fit(images, source="a").fingerprint,
        Zca.fit(images, eps=0.2, source="a").fingerprint,
        Zca.fit(images).fingerprint,
    }
    assert len(prints) == 7
    assert Normalise.fit(others, source="a").fingerprint == Normalise.fit(images, source="a").fingerprint


@pytest.mark.parametrize("make", [Normalise.fit, Zca.fit])
def test_apply_and_invert_are_differentiable_and_apply_in_place_is_equal(make) -> None:  # type: ignore[no-untyped-def]
    fitted = make(unit_images(20, 2, 3, 3))
    in_place = unit_images(2, 2, 3, 3)
    expected = fitted.apply(in_place)
    fitted.apply_(in_place)
    assert torch.equal(in_place, expected)
    images = unit_images(2, 2, 3, 3, dtype=torch.float64).requires_grad_()
    assert torch.autograd.gradcheck(fitted.apply, (images,))
    assert torch.autograd.gradcheck(fitted.invert, (images,))


@pytest.mark.parametrize("make", [Normalise.fit, Zca.fit])
def test_other_shapes_are_refused(make) -> None:  # type: ignore[no-untyped-def]
    fitted = make(unit_images(20, 2, 3, 3))
    with pytest.raises(InputError):
        fitted.apply(torch.zeros(4, 3, 3, 3))
    with pytest.raises(InputError):
        fitted.invert(torch.zeros(4, 2, 3, 3, dtype=torch.uint8))


def test_invalid_arguments() -> None:
    with pytest.raises(InputError):
        Zca.fit(unit_images(1, 1, 3, 3))
    with pytest.raises(InputError):
        Zca.fit(unit_images(3, 1, 3, 3), eps=0)
    with pytest.raises(InputError):
        Zca.fit(torch.zeros(2, 3, 128, 128, dtype=torch.uint8))
    with pytest.raises(InputError):
        Normalise(torch.zeros(2), torch.tensor([1.0, 0.0]))
    with pytest.raises(InputError):
        Normalise(torch.zeros(2), torch.ones(3))
    with pytest.raises(InputError):
        Zca(torch.zeros(1, 2, 2), torch.eye(4), torch.eye(3), 0.1)
    with pytest.raises(InputError):
        Zca(torch.zeros(1, 2, 2), torch.eye(4) / 0, torch.eye(4), 0.1)
