"""Pictures kept as bytes: the same data set in a quarter of the memory, preprocessed batch by batch."""

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
    """The same raw data kept as bytes and as floats."""
    return from_arrays(**raw(train=30), zca=zca, as_bytes=True), from_arrays(**raw(train=30), zca=zca)


@pytest.mark.parametrize("zca", [False, True])
def test_batches_are_those_of_the_floats(zca: bool) -> None:
    kept, floats = both(zca)
    index = torch.tensor([3, 0, 29, 3])
    for found, expected in (
        (kept.train_pictures.batch(index), floats.train_images[index]),
        (kept.train_pictures.rows(7, 12), floats.train_images[7:12]),
        (kept.train_pictures.rows(28, 40), floats.train_images[28:]),
        (kept.test_pictures.rows(0, 4), floats.test_images),
    ):
        assert found.dtype == torch.float32
        if zca:  # a product whose order of summation may depend on the batch
            torch.testing.assert_close(found, expected, rtol=1e-5, atol=1e-5)
        else:
            assert torch.equal(found, expected)
    assert torch.equal(kept.train_images, floats.train_images)
    assert torch.equal(kept.test_images, floats.test_images)
    assert (kept.digest, kept.preprocessing.fingerprint) == (floats.digest, floats.preprocessing.fingerprint)
    assert (kept.in_channels, kept.image_size) == (floats.in_channels, floats.image_size)


def test_a_quarter_of_the_memory() -> None:
    kept, floats = both()
    for name in ("train_pictures", "test_pictures"):
        assert 4 * getattr(kept, name).pixels.nbytes == getattr(floats, name).pixels.nbytes


def test_a_batch_is_new_and_the_pixels_stay() -> None:
    kept, floats = both()
    for data in (kept, floats):
        before = data.train_pictures.pixels.clone()
        data.train_pictures.batch(torch.arange(5)).zero_()
        assert torch.equal(data.train_pictures.pixels, before)


def test_sampling_and_initial_sets_are_the_same() -> None:
    kept, floats = both()
    found, expected = (data.sample_per_class(2, torch.Generator().manual_seed(1)) for data in (kept, floats))
    assert torch.equal(found[0], expected[0])
    assert torch.equal(found[1], expected[1])
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
        for data in (kept, floats)
    ]
    assert torch.equal(sets[0].images, sets[1].images)
    assert sets[0].images.requires_grad


@pytest.mark.parametrize("name", ["convnet1-w4", "alexnet-w2"])
def test_training_testing_and_evaluation_are_the_same(name: str) -> None:
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


def test_floats_cannot_be_kept_as_bytes() -> None:
    arrays = {name: value / 255 if name.endswith("images") else value for name, value in raw().items()}
    with pytest.raises(InputError, match=r"came as floating point and cannot be kept as bytes; take data\.pixels=auto"):
        from_arrays(**arrays, as_bytes=True)


@pytest.mark.parametrize(
    ("pixels", "preprocessing"),
    [(torch.zeros(1, 1, 2, 2, dtype=torch.uint8), None), (torch.zeros(1, 1, 2, 2), NORMALISE)],
)
def test_bytes_have_a_preprocessing_and_floats_none(pixels: torch.Tensor, preprocessing: Any) -> None:
    with pytest.raises(InputError, match="pictures are uint8 with a preprocessing, or floating point without one"):
        Pictures(pixels, preprocessing)


class TestSettings:
    """`data.pixels` on the command line and in files."""

    def arrays(self, tmp_path: Any, floats: bool = False) -> str:
        import numpy as np

        given = {name: value.numpy() for name, value in raw(train=30).items()}
        if floats:
            given |= {name: value.astype("float32") / 255 for name, value in given.items() if name.endswith("images")}
        np.savez(tmp_path / "data.npz", **given)
        return str(tmp_path / "data.npz")

    def loaded(self, path: str, device: str = "cpu", **settings: Any) -> Dataset:
        return load(DataSettings("tensors", path, **settings), device)

    def any_device(self, monkeypatch: pytest.MonkeyPatch) -> None:
        """Let `load` take devices that this machine does not have."""
        monkeypatch.setattr(sys.modules["pydistill.data.load"], "usable_device", torch.device)

    def test_bytes_and_floats(self, tmp_path: Any, monkeypatch: pytest.MonkeyPatch) -> None:
        path = self.arrays(tmp_path)
        assert self.loaded(path, pixels="bytes").train_pictures.are_bytes
        assert not self.loaded(path, pixels="floats").train_pictures.are_bytes
        assert not self.loaded(path).train_pictures.are_bytes
        self.any_device(monkeypatch)
        assert self.loaded(path, "meta", pixels="bytes").device.type == "meta"

    def test_auto_keeps_bytes_on_a_gpu_unless_they_are_whitened(
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

    def test_refused(self, tmp_path: Any) -> None:
        with pytest.raises(InputError, match="pixels must be"):
            self.loaded(self.arrays(tmp_path), pixels="words")
        with pytest.raises(InputError, match="came as floating point"):
            self.loaded(self.arrays(tmp_path, floats=True), pixels="bytes")


@pytest.mark.cuda
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs an NVIDIA GPU")
def test_bytes_on_the_gpu_are_preprocessed_as_floats_are() -> None:
    kept, floats = both()
    index = torch.tensor([3, 0, 29], device="cuda")
    batch = kept.to("cuda").train_pictures.batch(index)
    assert batch.device.type == "cuda"
    torch.testing.assert_close(batch.cpu(), floats.train_images[index.cpu()], rtol=1e-6, atol=1e-6)


def test_another_preprocessing_of_the_same_pictures() -> None:
    """Bytes are kept as they are; floats go back to pixels and on, to rounding."""
    three = torch.tensor([0.5, 0.4, 0.3])
    wanted = Normalise(three, three / 2)
    for data in both():
        other = data.with_preprocessing(wanted)
        for before, after in ((data.train_images, other.train_images), (data.test_images, other.test_images)):
            torch.testing.assert_close(after, wanted.apply(data.preprocessing.invert(before)))
        assert other.preprocessing.fingerprint == wanted.fingerprint
        assert (other.digest, other.train_pictures.are_bytes) == (data.digest, data.train_pictures.are_bytes)
    kept, _ = both()
    assert kept.with_preprocessing(wanted).train_pictures.pixels is kept.train_pictures.pixels
    for data in both():
        with pytest.raises(InputError, match="images must be floating point"):
            data.with_preprocessing(Normalise(torch.zeros(2), torch.ones(2)))
