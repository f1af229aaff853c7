"""Arrays are read in the layout they have; labels and classes that are wrong or few are named."""

from __future__ import annotations

import logging
from typing import Any

import numpy as np
import pytest
import torch

from pydistill.data import from_arrays, from_table
from pydistill.data.raw import split_by_class
from pydistill.errors import InputError

LABELS = np.arange(6) % 2


def made(shape: tuple[int, ...] = (1, 4, 4), **changes: Any) -> Any:
    images = np.random.default_rng(0).random((6, *shape))
    arrays = {"train_images": images, "train_labels": LABELS, "test_images": images, "test_labels": LABELS}
    return from_arrays(**(arrays | changes))


@pytest.mark.parametrize("shape", [(8, 8, 2), (9, 7, 2), (64, 64, 13)])
def test_likely_channels_last_are_refused(shape: tuple[int, int, int]) -> None:
    with pytest.raises(InputError):
        made(shape)
    height, width, channels = shape
    for layout, sizes in (("nchw", (height, (width, channels))), ("nhwc", (channels, (height, width)))):
        data = made(shape, layout=layout)
        assert (data.in_channels, data.image_size) == sizes


@pytest.mark.parametrize(
    "labels", [LABELS + 1, np.array(["cat", "dog"] * 3), ["cat", "dog"] * 3, LABELS.astype(str).astype(object)]
)
@pytest.mark.parametrize("class_names", [None, ["a", "b"]])
def test_labels_that_are_not_from_zero(labels: Any, class_names: Any) -> None:
    for make in (made, lambda **labels: from_table([[1.0]] * 6, test_rows=[[1.0]] * 6, **labels)):
        with pytest.raises(InputError) as error:
            make(train_labels=labels, test_labels=labels, class_names=class_names)
        assert "labels" in str(error.value)
        assert ("unique" if isinstance(labels[0], str) else "subtract 1") in str(error.value)


@pytest.mark.parametrize("make", [made, lambda **names: from_table([[1.0]] * 6, LABELS, [[1.0]] * 6, LABELS, **names)])
def test_class_names_are_text(make: Any) -> None:
    with pytest.raises(InputError):
        make(class_names=["a", "\udcff"])


def warnings_of(caplog: pytest.LogCaptureFixture) -> list[str]:
    return [record.getMessage() for record in caplog.records if record.levelno == logging.WARNING]


def test_contents_are_logged(caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.INFO, "pydistill"):
        made(name="mine")
    assert caplog.messages == ["mine: 2 classes, 6 train and 6 test images of 1×4×4"]


@pytest.mark.parametrize(
    ("train", "test", "named"),
    [([0, 0, 0, 1, 1, 1], [0] * 6, ["1"]), ([0] * 6, [0] * 6, ["0"]), ([0, 0, 0, 0, 0, 1], [0, 1] * 3, ["1"])],
    ids=["no test image", "one class", "one image"],
)
def test_small_classes_are_named(train: Any, test: Any, named: list[str], caplog: pytest.LogCaptureFixture) -> None:
    made(train_labels=train, test_labels=test)
    assert [text.split("'")[1] for text in warnings_of(caplog)] == named


def test_many_small_classes_are_counted(caplog: pytest.LogCaptureFixture) -> None:
    images, labels = np.zeros((50, 1, 2, 2)), np.arange(50)
    from_arrays(images, labels, images, labels)
    (text,) = warnings_of(caplog)
    assert text.count("'") == 10
    assert "45" in text


def test_split_by_class() -> None:
    labels = torch.tensor([0, 1, 0, 1, 0, 0, 0, 1])
    train, test = split_by_class(labels, ["a", "b"], 0.4, seed=0)
    assert labels[test].bincount().tolist() == [2, 1]
    assert torch.cat([train, test]).sort().values.tolist() == list(range(8))
    assert torch.equal(split_by_class(labels, ["a", "b"], 0.4, seed=0)[1], test)
    assert any(not torch.equal(split_by_class(labels, ["a", "b"], 0.4, seed)[1], test) for seed in range(1, 5))
