"""The outer loop with decoders: equal courses of the backends, falling losses, the guard, the average of codes."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
import torch

from pydistill.distillation.distiller import Distiller
from pydistill.errors import SettingError
from pydistill.nn import build
from pydistill.synthesis.decoders import DecoderSettings
from pydistill.trajectories import TrajectoryStore
from tests.helpers.blobs import blobs
from tests.helpers.small_runs import MODEL, experts, in_double, recipe
from tests.matching.problems import SWEEPS

DATA = blobs()  # 4 classes, 1×8×8
DECODERS: dict[str, dict[str, Any]] = {
    "upsample": {"decoder": DecoderSettings("upsample")},
    "mirror": {"decoder": DecoderSettings("mirror")},
    "dct": {"decoder": DecoderSettings("dct", coefficients=16)},
    "gaussians": {"decoder": DecoderSettings("gaussians", images=3, fit_steps=20), "optimiser": "adam"},
    "siren": {"decoder": DecoderSettings("siren", width=4, layers=1, fit_steps=20), "optimiser": "adam"},
}


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> TrajectoryStore:
    return experts(tmp_path_factory.mktemp("experts"))


def distiller(store: TrajectoryStore, dataset: Any = DATA, **settings: Any) -> Distiller:
    return Distiller(recipe(**settings).distill, dataset, store, build(MODEL, *dataset.sizes, seed=0))


@pytest.mark.parametrize("kind", sorted(DECODERS))
@pytest.mark.parametrize("backend", SWEEPS)
def test_backends_take_the_same_course(kind: str, backend: str, store: TrajectoryStore) -> None:
    """Ten outer iterations in fp64: every loss and the final images agree."""
    courses = []
    for name in (backend, "autograd"):
        settings = {"lr_image": 0.01 if "optimiser" in DECODERS[kind] else 1.0, "batch_size": 5} | DECODERS[kind]
        running = distiller(store, in_double(DATA), backend=name, method="mtt", **settings)
        courses.append(([running.iterate().loss for _ in range(10)], running.images))
    assert courses[0][0] == pytest.approx(courses[1][0], rel=1e-8)
    torch.testing.assert_close(courses[0][1], courses[1][1], rtol=1e-7, atol=1e-7)


@pytest.mark.parametrize("kind", sorted(DECODERS))
def test_the_gradient_of_the_codes_is_that_of_the_whole_graph(kind: str, store: TrajectoryStore) -> None:
    """The pull-back of the pixels' gradient equals autograd from the codes through the student to the loss."""
    running = distiller(store, in_double(DATA), method="mtt", backend="autograd", batch_size=5, **DECODERS[kind])
    codes, decoder = running.synthetic.codes, running.synthetic.decoder
    matched = running.synthetic.matched()
    draw = running.sampler.draw(0, matched)
    [outcome] = running._match([draw], 0)
    gradients = torch.autograd.grad(outcome.loss, list(matched.inputs.values()))
    pulled = matched.pull_back(dict(zip(matched.inputs, gradients, strict=True)))
    images = decoder.decode(codes)
    [outcome] = running._match([replace(draw, batches=replace(draw.batches, images=images))], 0)
    penalty = decoder.penalty(codes)
    total = outcome.loss if penalty is None else outcome.loss + penalty
    for name, expected in zip(codes, torch.autograd.grad(total, list(codes.values())), strict=True):
        torch.testing.assert_close(pulled[name], expected, rtol=1e-9, atol=1e-12)


@pytest.mark.parametrize("kind", sorted(DECODERS))
def test_the_loss_falls(kind: str, store: TrajectoryStore, monkeypatch: pytest.MonkeyPatch) -> None:
    """On one fixed segment and all images in each step."""
    settings = {"lr_image": 0.05 if "optimiser" in DECODERS[kind] else 20.0} | DECODERS[kind]
    running = distiller(store, method="mtt", lr_lr=0.0, **settings)
    monkeypatch.setattr(running.sampler.order, "next", lambda generator: 0)
    monkeypatch.setattr(running.sampler.starts, "draw", lambda *arguments: (1.0, 3.0))
    losses = [running.iterate().loss for _ in range(12)]
    assert losses[-1] < 0.95 * losses[0]


@pytest.mark.parametrize("kind", sorted(DECODERS))
def test_labels_and_images_agree_in_number(kind: str, store: TrajectoryStore) -> None:
    running = distiller(store, **DECODERS[kind])
    count = 4 * running.synthetic.decoder.images_per_class
    assert len(running.images) == len(running.initial_images) == len(running.synthetic.classes) == count > 4


def test_the_limit_of_pixels_is_that_of_decoded_images(store: TrajectoryStore) -> None:
    """One coefficient of 40 moves every pixel by 5, which is refused; the codes are not limited."""
    running = distiller(store, decoder=DecoderSettings("dct", coefficients=16), max_pixel=2.0, lr_image=1.0, momentum=0)
    scale = running.guard._largest_pixel / 2
    gradients = {name: torch.zeros_like(leaf) for name, leaf in running.synthetic.learned().items()}
    gradients["coefficients"][0, 0, 0] = 8 * 3 * scale  # the constant frequency, whose vector is 1/8 everywhere
    assert int(running.synthetic.decoder.buffers["frequencies"][0, 0]) == 0
    before = running.images
    refusal = running._apply(gradients)
    assert refusal is not None
    assert refusal.what == "pixels"
    assert torch.equal(running.images, before)


def test_the_average_is_of_codes(store: TrajectoryStore) -> None:
    running = distiller(store, method="att", ema=0.9, **DECODERS["siren"], lr_image=0.05)
    for _ in range(3):
        running.iterate()
    assert running.average is not None
    decoded = running.synthetic.decoder.decode(running.average.codes)
    assert torch.equal(running.images, decoded)
    assert not torch.equal(running.images, running.synthetic.images)


@pytest.mark.parametrize(
    ("settings", "name"),
    [
        ({"decoder": DecoderSettings("upsample", factor=3)}, "decoder.factor"),
        ({"decoder": DecoderSettings("upsample", factor=4)}, "ipc"),  # 16 images of a class of 12
    ],
)
def test_decoder_that_does_not_fit_the_data(settings: dict[str, Any], name: str, store: TrajectoryStore) -> None:
    with pytest.raises(SettingError) as caught:
        distiller(store, **settings)
    assert caught.value.setting == name


@pytest.mark.parametrize("kind", ["dct", "gaussians", "siren"])
def test_noise_has_nothing_to_encode(kind: str) -> None:
    with pytest.raises(SettingError, match="decoder"):
        recipe(decoder=DecoderSettings(kind), initialisation="noise")  # type: ignore[arg-type]
