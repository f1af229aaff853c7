"""The published loops' way, which others are measured against, does the same work."""

from __future__ import annotations

import copy

import torch
from torch import nn

from benchmarks import published
from pydistill.data.dsa import DsaSettings, augment
from pydistill.nn import build, flatten, parse
from pydistill.training.train import TrainingSettings, accuracy, train
from tests.helpers.blobs import blobs

DATA = blobs()


def fresh() -> nn.Module:
    return build(parse("convnet2-w4"), 1, 4, 8, seed=0)


def test_an_epoch_trains_as_ours_does() -> None:
    """All images in one step, so that the order does not matter."""
    model, other = fresh(), fresh()
    published.prepare("train", model, DATA.train_images, DATA.train_labels, 48, None)()
    settings = TrainingSettings(epochs=1, batch_size=48, lr=published.LR)
    train(other, DATA.train_images, DATA.train_labels, settings, generator=torch.Generator().manual_seed(0))
    torch.testing.assert_close(flatten(model), flatten(other), rtol=1e-5, atol=1e-6)


def test_every_image_is_visited_once() -> None:
    """With a step too small to change anything, mean loss and share are those of the whole set."""
    model = fresh()
    loader = torch.utils.data.DataLoader(
        torch.utils.data.TensorDataset(DATA.train_images, DATA.train_labels), batch_size=20, shuffle=True
    )
    optimiser = torch.optim.SGD(model.parameters(), lr=1e-12)
    loss, share = published.train(model, optimiser, loader, torch.device("cpu"), None)
    expected = nn.functional.cross_entropy(model(DATA.train_images), DATA.train_labels).detach()
    torch.testing.assert_close(loss, float(expected), rtol=1e-5, atol=0)
    assert share == accuracy(model, DATA.train_images, DATA.train_labels)


def test_augments_as_ours_does() -> None:
    dsa = DsaSettings(mode="M")
    actual = published.augmented(DATA.train_images, dsa, torch.Generator().manual_seed(5))
    draw = dsa.draw(48, 8, 8, torch.Generator().manual_seed(5))
    torch.testing.assert_close(actual, augment(DATA.train_images, draw), rtol=1e-5, atol=1e-5)


def test_augmentation_is_part_of_training() -> None:
    plain, augmented = fresh(), fresh()
    published.prepare("train", plain, DATA.train_images, DATA.train_labels, 48, None)()
    published.prepare("train", augmented, DATA.train_images, DATA.train_labels, 48, DsaSettings())()
    assert not torch.equal(flatten(plain), flatten(augmented))


def test_a_test_is_the_accuracy_and_changes_nothing() -> None:
    model = fresh()
    before = copy.deepcopy(model.state_dict())
    actual = published.prepare("test", model, DATA.test_images, DATA.test_labels, 7, None)()
    assert actual == accuracy(model, DATA.test_images, DATA.test_labels)
    assert all(torch.equal(before[name], value) for name, value in model.state_dict().items())
