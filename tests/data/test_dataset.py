from __future__ import annotations

import numpy as np
import pytest
import torch

from pydistill.data import Dataset, DataSettings, Normalise, Zca, from_arrays, load
from pydistill.errors import InputError


def raw(train: int = 12, test: int = 4, classes: int = 3) -> dict[str, torch.Tensor]:
    source = torch.Generator().manual_seed(0)
    return {
        "train_images": torch.randint(0, 256, (train, 3, 4, 5), dtype=torch.uint8, generator=source),
        "train_labels": torch.arange(train) % classes,
        "test_images": torch.randint(0, 256, (test, 3, 4, 5), dtype=torch.uint8, generator=source),
        "test_labels": torch.arange(test) % classes,
    }


def test_split_of_digits_is_fixed() -> None:
    data = load(DataSettings())
    assert data.name == "digits"
    assert (data.num_classes, data.in_channels, data.image_size) == (10, 1, (8, 8))
    assert data.class_names == tuple("0123456789")
    assert data.train_images.shape == (1437, 1, 8, 8)
    assert data.test_images.shape == (360, 1, 8, 8)
    assert data.train_images.dtype == torch.float32
    assert data.train_labels.dtype == torch.int64
    assert data.digest == load(DataSettings()).digest
    assert data.train_labels.bincount().min() >= 139
    assert data.test_labels.bincount().min() >= 35
    images = data.preprocessing.invert(data.train_images)
    torch.testing.assert_close(images * 16, (images * 16).round(), rtol=0, atol=1e-4)
    assert abs(float(data.train_images.mean())) < 1e-5
    assert abs(float(data.train_images.std()) - 1) < 1e-3


def test_from_arrays_normalises_with_the_training_statistics() -> None:
    arrays = raw()
    data = from_arrays(**arrays, class_names=["a", "b", "c"])
    assert isinstance(data.preprocessing, Normalise)
    assert data.class_names == ("a", "b", "c")
    unit = arrays["test_images"].float() / 255
    torch.testing.assert_close(data.preprocessing.invert(data.test_images), unit, rtol=0, atol=1e-6)
    torch.testing.assert_close(data.train_images.mean((0, 2, 3)), torch.zeros(3), rtol=0, atol=1e-5)


def test_bytes_floats_and_numpy_give_the_same_images() -> None:
    arrays = raw()
    reference = from_arrays(**arrays)
    floats = {
        name: value.double() / 255 if name.endswith("images") else value.to(torch.int32)
        for name, value in arrays.items()
    }
    assert torch.allclose(from_arrays(**floats).train_images, reference.train_images, atol=1e-5)
    as_numpy = {name: value.numpy() for name, value in arrays.items()}
    assert torch.equal(from_arrays(**as_numpy).train_images, reference.train_images)
    assert from_arrays(**as_numpy).digest == reference.digest
    assert from_arrays(**as_numpy).class_names == ("0", "1", "2")


def test_arguments_are_not_modified() -> None:
    arrays = raw()
    arrays = {name: value.float() / 255 if name.endswith("images") else value for name, value in arrays.items()}
    before = {name: value.clone() for name, value in arrays.items()}
    from_arrays(**arrays)
    from_arrays(**arrays, zca=True)
    assert all(torch.equal(arrays[name], before[name]) for name in arrays)


def test_zca_is_fitted_on_the_training_images() -> None:
    data = from_arrays(**raw(train=30), zca=True)
    assert isinstance(data.preprocessing, Zca)
    assert data.preprocessing.eps == 0.1
    torch.testing.assert_close(
        data.preprocessing.invert(data.train_images), raw(train=30)["train_images"].float() / 255, rtol=0, atol=1e-4
    )


@pytest.mark.parametrize("changed", ["train_images", "train_labels", "test_images", "test_labels"])
def test_the_digest_covers_every_array(changed: str) -> None:
    arrays = raw()
    before = from_arrays(**arrays).digest
    value = arrays[changed].clone()
    value[0] = (value[0] + 1) % 3
    assert from_arrays(**{**arrays, changed: value}).digest != before
    assert len(before) == 64


def test_sample_per_class_is_class_major_without_repetition() -> None:
    data = from_arrays(**raw())
    images, labels = data.sample_per_class(4, torch.Generator().manual_seed(0))
    assert labels.tolist() == [0] * 4 + [1] * 4 + [2] * 4
    for label in range(3):
        members = data.train_images[data.class_indices(label)]
        chosen = images[labels == label]
        matches = (chosen[:, None] == members[None]).flatten(2).all(2)
        assert matches.sum(1).tolist() == [1] * 4
        assert matches.sum(0).max() == 1
    again, _ = data.sample_per_class(4, torch.Generator().manual_seed(0))
    assert torch.equal(images, again)
    one, _ = data.sample_per_class(1, torch.Generator().manual_seed(1))
    assert one.shape == (3, 3, 4, 5)
    one.zero_()
    assert data.train_images.abs().min() > 0 or not torch.equal(data.train_images[0], one[0])


def test_one_image_per_class_is_enough() -> None:
    data = from_arrays(**raw(train=3, test=1))
    images, labels = data.sample_per_class(1, torch.Generator().manual_seed(0))
    assert torch.equal(images, data.train_images)
    assert labels.tolist() == [0, 1, 2]


def test_sample_per_class_out_of_range() -> None:
    data = from_arrays(**raw(), name="mine", class_names=["a", "b", "c"])
    source = torch.Generator()
    with pytest.raises(
        InputError, match=r"ipc must be at most 4, the training images of class 0 \('a'\) of mine, not 5"
    ):
        data.sample_per_class(5, source)
    with pytest.raises(InputError, match=r"ipc must be at least 1, not 0"):
        data.sample_per_class(0, source)
    with pytest.raises(InputError, match=r"label=3 is outside 0 … 2"):
        data.class_indices(3)


def test_to_moves_all_tensors() -> None:
    data = from_arrays(**raw(), zca=True).to("meta")
    assert {data.train_images.device.type, data.test_labels.device.type} == {"meta"}
    assert isinstance(data, Dataset)
    assert data.preprocessing.state()[1]["matrix"].device.type == "meta"


def arrays_with(**changes: object) -> dict[str, object]:
    return {**raw(), **changes}


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (arrays_with(train_labels=torch.full((12,), -1)), "train_labels holds the label -1"),
        (
            arrays_with(test_labels=torch.tensor([0, 1, 2, 3])),
            "test_labels holds the label 3; with 3 classes labels are 0 … 2",
        ),
        (
            arrays_with(train_labels=torch.arange(12) % 3, class_names=["a", "b"]),
            "train_labels holds the label 2; with 2",
        ),
        (arrays_with(train_labels=torch.arange(12) % 2 * 2), r"class 1 .* train_images"),
        (arrays_with(train_labels=torch.full((12,), 10**12)), "train_labels"),
        (
            arrays_with(train_labels=torch.zeros(12)),
            r"train_labels .* torch.float32",
        ),
        (arrays_with(test_labels=torch.zeros(5, dtype=torch.int64)), r"test_labels .* \[5\]"),
        (
            arrays_with(train_images=torch.full((12, 3, 4, 5), 2.0)),
            r"must lie in \[0, 1\], not in \[2, 2\]; give bytes",
        ),
        (
            arrays_with(train_images=torch.full((12, 3, 4, 5), torch.nan)),
            "train_images holds pixels that are not finite, first in image 0",
        ),
        (
            arrays_with(test_images=torch.zeros(4, 3, 4, 6, dtype=torch.uint8)),
            "must have the same type, channels, height and width",
        ),
        (arrays_with(test_images=torch.zeros(4, 3, 4, 5)), "must have the same type"),
        (
            arrays_with(train_images=torch.zeros(12, 60, dtype=torch.uint8)),
            r"train_images must be uint8 or floating point \[n, C, H, W\]",
        ),
        (arrays_with(train_images=torch.zeros(12, 3, 4, 5, dtype=torch.int32)), "not torch.int32"),
        (arrays_with(test_images=torch.zeros(0, 3, 4, 5, dtype=torch.uint8)), "with at least one image"),
        (arrays_with(train_images=[["a"]]), "train_images"),
        (arrays_with(train_images=np.array([{}], dtype=object)), "train_images"),
    ],
)
def test_invalid_arrays_are_refused(arguments: dict[str, object], message: str) -> None:
    with pytest.raises(InputError, match=message):
        from_arrays(**arguments)  # type: ignore[arg-type]


def test_first_image_that_is_not_finite_is_named() -> None:
    images = torch.rand(12, 3, 4, 5)
    images[7, 1, 2, 3] = torch.inf
    arguments = arrays_with(train_images=images, test_images=torch.rand(4, 3, 4, 5))
    with pytest.raises(InputError, match=r"first in image 7"):
        from_arrays(**arguments)  # type: ignore[arg-type]
