"""Experts on representative images: the trajectory against plain steps on the images that k-means chooses."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
import torch
import torch.nn.functional as F

from pydistill.data import Dataset, Pictures
from pydistill.errors import MismatchError, SettingError
from pydistill.nn import ModelSettings, build
from pydistill.synthesis.real_images import representative_images
from pydistill.training.experts import ExpertSettings, train_experts
from pydistill.training.representative import train_on_representatives
from pydistill.training.train import TrainingSettings, derive_seed
from tests.helpers.blobs import blobs
from tests.helpers.small_runs import in_double

MODEL = ModelSettings("convnet", width=4, depth=2)
SETTINGS = ExpertSettings(
    count=1, seed=3, training=TrainingSettings(epochs=4, batch_size=5, lr=0.1), representative=3, representative_every=2
)


def test_the_course_is_that_of_plain_steps() -> None:
    """Twelve chosen images of 48, so an epoch has four passes; chosen before epochs 1 and 3."""
    data = in_double(blobs())
    network, plain = (build(MODEL, 1, 4, 8, seed=1).double() for _ in range(2))
    epochs: list[tuple[int, float, float]] = []
    train_on_representatives(
        network, data, SETTINGS.training, count=3, every=2, seed=9, on_epoch=lambda *values: epochs.append(values)
    )
    choices = []
    for epoch in range(1, 5):
        generator, losses, right = torch.Generator().manual_seed(derive_seed("representative", 9, epoch)), [], 0
        if epoch in (1, 3):
            choices.append(representative_images(data, 3, plain, generator))
        for _ in range(4):
            order = torch.randperm(12, generator=generator)
            for batch in order.split(5):
                images, labels = data.train_images[choices[-1][batch]], data.train_labels[choices[-1][batch]]
                logits = plain(images)
                loss = F.cross_entropy(logits, labels)
                gradients = torch.autograd.grad(loss, list(plain.parameters()))
                losses.append(float(loss.detach()) * len(batch))
                right += int((logits.argmax(1) == labels).sum())
                with torch.no_grad():
                    for parameter, gradient in zip(plain.parameters(), gradients, strict=True):
                        parameter -= 0.1 * gradient
        assert epochs[epoch - 1] == (epoch, pytest.approx(sum(losses) / 48), pytest.approx(right / 48))
    for one, other in zip(network.parameters(), plain.parameters(), strict=True):
        torch.testing.assert_close(one, other, rtol=1e-9, atol=1e-9)
    assert not torch.equal(*choices)


def test_bytes_are_trained_on_as_floats_are() -> None:
    floats = blobs()
    pixels = (floats.preprocessing.invert(floats.train_images) * 255).round().clamp(0, 255).to(torch.uint8)
    as_bytes = replace(floats, train_pictures=Pictures(pixels, floats.preprocessing))
    as_floats = replace(floats, train_pictures=as_bytes.train_pictures.as_floats())

    def trained(data: Dataset) -> torch.Tensor:
        network = build(MODEL, 1, 4, 8, seed=1)
        train_on_representatives(
            network, data, SETTINGS.training, count=3, every=1, seed=9, on_epoch=lambda *values: None
        )
        return torch.cat([parameter.detach().flatten() for parameter in network.parameters()])

    assert torch.equal(trained(as_bytes), trained(as_floats))


def test_experts_record_it_and_are_the_same_again(tmp_path: Path) -> None:
    one, other = (train_experts(blobs(), MODEL, SETTINGS, tmp_path / name) for name in ("one", "other"))
    assert torch.equal(one[0].point(4), other[0].point(4))
    assert (one.record.training["representative"], one.record.training["representative_every"]) == (3, 2)
    usual = replace(SETTINGS, representative=None)
    assert "representative" not in train_experts(blobs(), MODEL, usual, tmp_path / "usual").record.training
    with pytest.raises(MismatchError, match="representative"):
        train_experts(blobs(), MODEL, usual, tmp_path / "one")


@pytest.mark.parametrize("changes", [{"momentum": 0.9}, {"schedule": "cosine"}])
def test_what_an_epoch_does_not_outlast_is_refused(changes: dict[str, object]) -> None:
    with pytest.raises(SettingError, match="momentum 0 and schedule constant") as raised:
        replace(SETTINGS, training=replace(SETTINGS.training, **changes))
    assert raised.value.setting == "representative"


def test_more_images_than_a_class_has(tmp_path: Path) -> None:
    with pytest.raises(SettingError, match="at most 12") as raised:
        train_experts(blobs(), MODEL, replace(SETTINGS, representative=13), tmp_path / "experts")
    assert raised.value.setting == "representative"
    assert not (tmp_path / "experts").exists()
