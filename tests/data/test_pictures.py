"""Pictures stored as bytes give the same batches as floats in a quarter of the memory."""

from __future__ import annotations

import sys
from typing import Any

import pytest
import torch

from pydistill.data import Dataset, DataSettings, Normalise, Pictures, from_arrays, load
from pydistill.errors import InputError
from pydistill.evaluation.evaluate import EvaluationSettings, evaluate
from pydistill.nn import build, flatten, parse
from pydistill.synthesis.set import initial_set
from pydistill.training.train import TrainingSettings, accuracy, train
from tests.data.test_dataset import raw

NORMALISE = Normalise(torch.tensor([0.5]), torch.tensor([0.25]))


def both(zca: bool = False) -> tuple[Dataset, Dataset]:
    """Make data sets of the same raw data, stored as bytes and as floats."""
    return from_arrays(**raw(train=30), zca=zca, as_bytes=True), from_arrays(**raw(train=30), zca=zca)


@pytest.mark.parametrize("zca", [False, True])
def test_batches_equal_those_of_floats(zca: bool) -> None:
    as_bytes, floats = both(zca)
    index = torch.tensor([3, 0, 29, 3])
    for batch, expected in (
        (as_bytes.train_pictures.batch(index), floats.train_images[index]),
        (as_bytes.train_pictures.rows(7, 12), floats.train_images[7:12]),
        (as_bytes.train_pictures.rows(28, 40), floats.train_images[28:]),
        (as_bytes.test_pictures.rows(0, 4), floats.test_images),
    ):
        assert batch.dtype == torch.float32
        if zca:  # the order of summation may depend on the batch
            torch.testing.assert_close(batch, expected, rtol=1e-5, atol=1e-5)
        else:
            assert torch.equal(batch, expected)
    assert torch.equal(as_bytes.train_images, floats.train_images)
    assert torch.equal(as_bytes.test_images, floats.test_images)
    assert (as_bytes.digest, as_bytes.preprocessing.fingerprint) == (floats.digest, floats.preprocessing.fingerprint)
    assert (as_bytes.in_channels, as_bytes.image_size) == (floats.in_channels, floats.image_size)


def test_bytes_use_a_quarter_of_the_memory() -> None:
    as_bytes, floats = both()
    for name in ("train_pictures", "test_pictures"):
        assert 4 * getattr(as_bytes, name).pixels.nbytes == getattr(floats, name).pixels.nbytes


def test_batches_are_copies() -> None:
    as_bytes, floats = both()
    for data in (as_bytes, floats):
        before = data.train_pictures.pixels.clone()
        data.train_pictures.batch(torch.arange(5)).zero_()
        assert torch.equal(data.train_pictures.pixels, before)


def test_samples_and_initial_sets_equal_those_of_floats() -> None:
    as_bytes, floats = both()
    sample, expected = (data.sample_per_class(2, torch.Generator().manual_seed(1)) for data in (as_bytes, floats))
    assert torch.equal(sample[0], expected[0])
    assert torch.equal(sample[1], expected[1])
    sets = [
        initial_set(
            data,
            ipc=2,
            initialisation="real",
            labels="hard",
            lr=0.1,
            teachers=(),
            generator=torch.Generator().manual_seed(1),
        )
        for data in (as_bytes, floats)
    ]
    assert torch.equal(sets[0].images, sets[1].images)
    assert sets[0].codes["images"].requires_grad


@pytest.mark.parametrize("name", ["convnet1-w4", "alexnet-w2"])
def test_training_and_evaluation_equal_those_of_floats(name: str) -> None:
    source = torch.Generator().manual_seed(0)
    arrays: dict[str, Any] = {
        "train_images": torch.randint(0, 256, (30, 3, 8, 8), dtype=torch.uint8, generator=source),
        "train_labels": torch.arange(30) % 3,
        "test_images": torch.randint(0, 256, (12, 3, 8, 8), dtype=torch.uint8, generator=source),
        "test_labels": torch.arange(12) % 3,
    }
    points, tests, evaluations = [], [], []
    for as_bytes in (True, False):
        data = from_arrays(**arrays, as_bytes=as_bytes)
        model = build(parse(name), 3, 3, 8, seed=0)
        settings = TrainingSettings(epochs=3, batch_size=7, lr=0.05)
        generator = torch.Generator().manual_seed(0)
        train(model, data.train_pictures, data.train_labels, settings, generator=generator)
        points.append(flatten(model))
        tests.append(accuracy(model, data.test_pictures, data.test_labels, batch_size=5))
        chosen = EvaluationSettings(repeats=1, training=settings)
        evaluations.append(evaluate(data.train_pictures, data.train_labels, 0.05, data, parse(name), chosen).accuracies)
    assert torch.equal(points[0], points[1])
    assert tests[0] == tests[1]
    assert evaluations[0] == evaluations[1]


def test_to_moves_the_bytes_and_their_preprocessing() -> None:
    moved = both(zca=True)[0].to("meta")
    assert moved.train_pictures.are_bytes
    assert {moved.device.type, moved.train_pictures.device.type, moved.test_pictures.device.type} == {"meta"}
    assert moved.train_pictures.preprocessing is moved.preprocessing
    assert Pictures(torch.zeros(2, 1, 3, 3, dtype=torch.uint8), NORMALISE).to("meta").device.type == "meta"


def test_floats_cannot_be_stored_as_bytes() -> None:
    arrays = {name: value / 255 if name.endswith("images") else value for name, value in raw().items()}
    with pytest.raises(InputError, match=r"data\.pixels"):
        from_arrays(**arrays, as_bytes=True)


@pytest.mark.parametrize(
    ("pixels", "preprocessing"),
    [(torch.zeros(1, 1, 2, 2, dtype=torch.uint8), None), (torch.zeros(1, 1, 2, 2), NORMALISE)],
)
def test_bytes_need_a_preprocessing_and_floats_none(pixels: torch.Tensor, preprocessing: Any) -> None:
    with pytest.raises(InputError, match="preprocessing"):
        Pictures(pixels, preprocessing)


class TestSettings:
    """The setting `data.pixels`."""

    def arrays(self, tmp_path: Any, floats: bool = False) -> str:
        import numpy as np

        arrays = {name: value.numpy() for name, value in raw(train=30).items()}
        if floats:
            arrays |= {name: value.astype("float32") / 255 for name, value in arrays.items() if name.endswith("images")}
        np.savez(tmp_path / "data.npz", **arrays)
        return str(tmp_path / "data.npz")

    def loaded(self, path: str, device: str = "cpu", **settings: Any) -> Dataset:
        return load(DataSettings("tensors", path, **settings), device)

    def any_device(self, monkeypatch: pytest.MonkeyPatch) -> None:
        """Let `load` accept devices that this machine does not have."""
        monkeypatch.setattr(sys.modules["pydistill.data.load"], "usable_device", torch.device)

    def test_bytes_and_floats(self, tmp_path: Any, monkeypatch: pytest.MonkeyPatch) -> None:
        path = self.arrays(tmp_path)
        assert self.loaded(path, pixels="bytes").train_pictures.are_bytes
        assert not self.loaded(path, pixels="floats").train_pictures.are_bytes
        assert not self.loaded(path).train_pictures.are_bytes
        self.any_device(monkeypatch)
        assert self.loaded(path, "meta", pixels="bytes").device.type == "meta"

    def test_auto_stores_bytes_on_a_gpu_unless_they_are_whitened(
        self, tmp_path: Any, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        self.any_device(monkeypatch)
        monkeypatch.setattr(Dataset, "to", lambda self, device: self)
        path, cache = self.arrays(tmp_path), str(tmp_path)
        assert self.loaded(path, "cuda").train_pictures.are_bytes
        assert not self.loaded(path, "cuda", pixels="floats").train_pictures.are_bytes
        assert not self.loaded(path, "cuda", zca=True, cache=cache).train_pictures.are_bytes
        assert self.loaded(path, "cuda", zca=True, cache=cache, pixels="bytes").train_pictures.are_bytes
        assert not self.loaded(self.arrays(tmp_path, floats=True), "cuda").train_pictures.are_bytes

    def test_invalid_settings(self, tmp_path: Any) -> None:
        with pytest.raises(InputError, match="pixels must be"):
            self.loaded(self.arrays(tmp_path), pixels="words")
        with pytest.raises(InputError, match=r"data\.pixels"):
            self.loaded(self.arrays(tmp_path, floats=True), pixels="bytes")


@pytest.mark.cuda
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs an NVIDIA GPU")
def test_batches_on_the_gpu_equal_those_of_floats() -> None:
    as_bytes, floats = both()
    index = torch.tensor([3, 0, 29], device="cuda")
    batch = as_bytes.to("cuda").train_pictures.batch(index)
    assert batch.device.type == "cuda"
    torch.testing.assert_close(batch.cpu(), floats.train_images[index.cpu()], rtol=1e-6, atol=1e-6)


def test_with_preprocessing() -> None:
    """Bytes are unchanged; floats are converted to pixels and to the other preprocessing, up to rounding."""
    three = torch.tensor([0.5, 0.4, 0.3])
    other_preprocessing = Normalise(three, three / 2)
    for data in both():
        other = data.with_preprocessing(other_preprocessing)
        for before, after in ((data.train_images, other.train_images), (data.test_images, other.test_images)):
            torch.testing.assert_close(after, other_preprocessing.apply(data.preprocessing.invert(before)))
        assert other.preprocessing.fingerprint == other_preprocessing.fingerprint
        assert (other.digest, other.train_pictures.are_bytes) == (data.digest, data.train_pictures.are_bytes)
    as_bytes, _ = both()
    assert as_bytes.with_preprocessing(other_preprocessing).train_pictures.pixels is as_bytes.train_pictures.pixels
    for data in both():
        with pytest.raises(InputError, match="images must be floating point"):
            data.with_preprocessing(Normalise(torch.zeros(2), torch.ones(2)))
