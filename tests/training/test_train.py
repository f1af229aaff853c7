"""The training loop: what it computes, what it draws, what it refuses."""

from __future__ import annotations

import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional

from pydistill.data.dsa import DsaSettings
from pydistill.errors import DivergedError, InputError, SettingError
from pydistill.nn import build, flatten, parse
from pydistill.training.train import TrainingSettings, accuracy, derive_seed, epochs_of, train
from tests.helpers.blobs import blobs


def fresh(name: str = "convnet2-w4", seed: int = 0) -> nn.Module:
    return build(parse(name), 1, 4, 8, seed=seed)


def generator(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def trained(settings: TrainingSettings, labels: Tensor | None = None, seed: int = 0, **more: Any) -> nn.Module:
    data, model = blobs(), fresh()
    train(
        model,
        data.train_images,
        data.train_labels if labels is None else labels,
        settings,
        generator=generator(seed),
        **more,
    )
    return model


@pytest.mark.parametrize("soft", [False, True], ids=["hard", "soft"])
@pytest.mark.parametrize("engine", [True, False])
@pytest.mark.parametrize("schedule", ["constant", "halfway", "cosine"])
def test_equals_sgd_written_out(schedule: Any, engine: bool, soft: bool) -> None:
    """θ ← θ − α_e v, v ← μ v + g + λ θ, over batches of 20, 20 and 8 in the order of one permutation per epoch.

    Soft labels softmax(z) are trained on by −Σ softmax(z) log p, as DATM evaluates its sets.
    """
    settings = TrainingSettings(epochs=4, batch_size=20, lr=0.1, momentum=0.9, weight_decay=0.01, schedule=schedule)
    rates = {"constant": [0.1] * 4, "halfway": [0.1, 0.1, 0.01, 0.01], "cosine": [0.1, 0.0853553, 0.05, 0.0146447]}
    data, model = blobs(), fresh()
    labels = torch.randn(48, 4, generator=generator(1)).softmax(1) if soft else data.train_labels
    rows = labels if soft else functional.one_hot(labels, 4)
    parameters = list(model.parameters())
    velocity = [torch.zeros_like(value) for value in parameters]
    draws = generator()
    for rate in rates[schedule]:
        order = torch.randperm(48, generator=draws)
        for index in (order[:20], order[20:40], order[40:]):
            loss = -(rows[index] * model(data.train_images[index]).log_softmax(1)).sum(1).mean()
            with torch.no_grad():
                for value, speed, slope in zip(
                    parameters, velocity, torch.autograd.grad(loss, parameters), strict=True
                ):
                    speed.mul_(0.9).add_(slope + 0.01 * value)
                    value.sub_(rate * speed)
    actual = flatten(trained(settings, labels, engine=engine))
    torch.testing.assert_close(actual, flatten(model), rtol=1e-4, atol=1e-5)


def test_learns() -> None:
    data = blobs()
    settings = TrainingSettings(epochs=30, batch_size=16, lr=0.1, momentum=0.9)
    seen: list[tuple[int, float, float]] = []
    model = trained(settings, on_epoch=lambda *report: seen.append(report))
    assert accuracy(model, data.test_images, data.test_labels) == 1.0
    assert [epoch for epoch, _, _ in seen] == list(range(1, 31))
    assert seen[-1][1] < 0.1 < seen[0][1]
    assert seen[-1][2] == 1.0


@pytest.mark.parametrize("engine", [True, False])
def test_the_first_report_is_the_mean_over_the_images(engine: bool) -> None:
    data, model = blobs(), fresh()
    logits = model(data.train_images).detach()
    loss = float(functional.cross_entropy(logits, data.train_labels))
    share = float((logits.argmax(1) == data.train_labels).float().mean())
    seen: list[tuple[int, float, float]] = []
    settings = TrainingSettings(epochs=1, batch_size=20, lr=1e-12)
    trained(settings, on_epoch=lambda *report: seen.append(report), engine=engine)
    assert len(seen) == 1
    assert seen[0] == pytest.approx((1, loss, share), rel=1e-5)


def test_on_epoch_sees_the_model_after_the_epoch() -> None:
    data, model = blobs(), fresh()
    rows = []
    train(
        model,
        data.train_images,
        data.train_labels,
        TrainingSettings(epochs=3, lr=0.1),
        generator=generator(),
        on_epoch=lambda *_: rows.append(flatten(model)),
    )
    assert torch.equal(rows[-1], flatten(model))
    assert torch.equal(rows[0], flatten(trained(TrainingSettings(epochs=1, lr=0.1))))


def test_the_generator_decides_orders_and_augmentations_alone() -> None:
    settings = TrainingSettings(epochs=3, batch_size=20, lr=0.1, dsa=DsaSettings())
    first = flatten(trained(settings))
    torch.manual_seed(99)
    state = torch.get_rng_state()
    assert torch.equal(flatten(trained(settings)), first)
    assert torch.equal(torch.get_rng_state(), state)
    assert not torch.equal(flatten(trained(settings, seed=1)), first)
    assert not torch.equal(flatten(trained(replace(settings, dsa=None))), first)


@pytest.mark.parametrize("dsa", [None, DsaSettings(), DsaSettings(mode="M", shared=True), DsaSettings(strategy="none")])
@pytest.mark.parametrize(("epochs", "batch_size"), [(2, 20), (20, 48), (45, 20), (21, 100)])
def test_reporting_changes_nothing(epochs: int, batch_size: int, dsa: DsaSettings | None) -> None:
    """Nor where random numbers are drawn for several epochs together."""
    settings = TrainingSettings(epochs=epochs, batch_size=batch_size, lr=0.01, dsa=dsa)
    data, points, states = blobs(), [], []
    for on_epoch in (None, lambda *_: None):
        model, draws = fresh(), generator()
        train(model, data.train_images, data.train_labels, settings, generator=draws, on_epoch=on_epoch)
        points.append(flatten(model))
        states.append(draws.get_state())
    assert torch.equal(points[0], points[1])
    assert torch.equal(states[0], states[1])


def test_one_hot_labels_train_as_hard_ones() -> None:
    data = blobs()
    settings = TrainingSettings(epochs=3, batch_size=20, lr=0.1)
    soft = trained(settings, functional.one_hot(data.train_labels, 4).float())
    torch.testing.assert_close(flatten(soft), flatten(trained(settings)))


def test_soft_labels_count_as_probabilities() -> None:
    data = blobs()
    uniform = torch.full((48, 4), 0.25)
    soft = trained(TrainingSettings(epochs=30, batch_size=48, lr=0.3), uniform)
    probabilities = soft(data.test_images).softmax(1)
    assert (probabilities - 0.25).abs().max() < 0.1
    assert accuracy(soft, data.test_images, functional.one_hot(data.test_labels, 4).float()) == accuracy(
        soft, data.test_images, data.test_labels
    )


@pytest.mark.parametrize("count", [1, 2, 7, 8, 9])
@pytest.mark.parametrize("name", ["mlp", "convnet1-w2", "vgg11-w1-bn"])
def test_batches_at_the_edges(count: int, name: str) -> None:
    data, model = blobs(), fresh(name)
    before = flatten(model)
    seen: list[float] = []
    train(
        model,
        data.train_images[:count],
        data.train_labels[:count],
        TrainingSettings(epochs=2, batch_size=8, dsa=DsaSettings()),
        generator=generator(),
        on_epoch=lambda epoch, loss, share: seen.append(share * count),
    )
    assert not torch.equal(flatten(model), before)
    assert all(abs(right - round(right)) < 1e-4 and right <= count for right in seen)


@pytest.mark.parametrize("engine", [True, False])
def test_divergence_names_the_lr(engine: bool) -> None:
    with pytest.raises(DivergedError, match=r"the loss of epoch \d+ of 40"):
        trained(TrainingSettings(epochs=40, batch_size=8, lr=1e30), engine=engine)


@pytest.mark.parametrize("engine", [True, False])
def test_a_last_step_that_diverges_is_noticed(engine: bool) -> None:
    with pytest.raises(DivergedError, match="a parameter"):
        trained(TrainingSettings(epochs=1, batch_size=48, lr=1e39), engine=engine)


def test_accuracy_leaves_the_modes_as_they_were() -> None:
    data, model = blobs(), fresh("vgg11-w1-bn")
    model.train()
    frozen = next(module for module in model.modules() if isinstance(module, nn.BatchNorm2d)).eval()
    before = {name: value.clone() for name, value in model.named_buffers()}
    accuracy(model, data.test_images, data.test_labels, batch_size=7)
    assert model.training
    assert not frozen.training
    assert all(torch.equal(before[name], value) for name, value in model.named_buffers())


def test_a_network_that_works_in_place_does_not_overwrite_the_data() -> None:
    class InPlace(nn.Linear):
        def forward(self, images: Tensor) -> Tensor:
            return super().forward(images.sub_(0.5).flatten(1))

    data, model = blobs(), InPlace(64, 4)
    before = data.train_images.clone()
    first = accuracy(model, data.train_images, data.train_labels)
    train(model, data.train_images, data.train_labels, TrainingSettings(epochs=1, dsa=None), generator=generator())
    assert torch.equal(data.train_images, before)
    assert 0 <= first <= 1


@pytest.mark.parametrize("batch_size", [1, 47, 48, 1000])
def test_accuracy_counts_every_image(batch_size: int) -> None:
    data, model = blobs(), fresh()
    expected = float((model(data.test_images).argmax(1) == data.test_labels).double().mean())
    assert accuracy(model, data.test_images, data.test_labels, batch_size) == pytest.approx(expected, abs=1e-12)


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("epochs", 0),
        ("batch_size", 0),
        ("lr", 0.0),
        ("lr", float("nan")),
        ("momentum", 1.0),
        ("weight_decay", -1.0),
        ("schedule", "step"),
    ],
)
def test_settings_outside_their_limits(name: str, value: Any) -> None:
    with pytest.raises(SettingError) as raised:
        TrainingSettings(**{name: value})
    assert raised.value.setting == name


@pytest.mark.parametrize(
    ("images", "labels", "message"),
    [
        (torch.zeros(0, 1, 8, 8), torch.zeros(0, dtype=torch.int64), "n of at least 1"),
        (torch.zeros(3, 8, 8), torch.zeros(3, dtype=torch.int64), "images"),
        (torch.zeros(3, 1, 8, 8, dtype=torch.uint8), torch.zeros(3, dtype=torch.int64), "not torch.uint8"),
        (torch.zeros(3, 1, 8, 8), torch.zeros(2, dtype=torch.int64), "labels for 3 images"),
        (torch.zeros(3, 1, 8, 8), torch.zeros(3), "must be int64, not torch.float32"),
        (torch.zeros(3, 1, 8, 8), torch.zeros(3, 4, dtype=torch.int64), "in floating point, not torch.int64"),
        (torch.zeros(3, 1, 8, 8), torch.zeros(3, 5), "over 5 classes, and the model"),
        (torch.zeros(3, 1, 8, 8), torch.tensor([0, 4, 1]), "labels"),
        (torch.zeros(3, 1, 8, 8), torch.tensor([0, -1, 1]), "labels"),
        (torch.zeros(3, 1, 8, 8), torch.zeros(3, dtype=torch.int64, device="meta"), "must be on one device"),
    ],
)
def test_data_that_do_not_fit(images: Tensor, labels: Tensor, message: str) -> None:
    with pytest.raises(InputError, match=message):
        train(fresh(), images, labels, TrainingSettings(), generator=generator())
    with pytest.raises(InputError, match=message):
        accuracy(fresh(), images, labels)


def test_accuracy_refuses_a_batch_of_none() -> None:
    with pytest.raises(InputError, match="batch_size"):
        accuracy(fresh(), torch.zeros(1, 1, 8, 8), torch.tensor([0]), batch_size=0)


def test_derived_seeds_differ_and_stay() -> None:
    seeds = {derive_seed(kind, seed, number) for kind in ("a", "b") for seed in range(20) for number in range(20)}
    assert len(seeds) == 800
    assert all(0 <= seed < 2**63 for seed in seeds)
    assert derive_seed("expert", 0, 0) == 1253662693082204551


@pytest.mark.cuda
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs an NVIDIA GPU")
def test_trains_on_the_gpu_what_it_trains_on_the_cpu() -> None:
    data, model = blobs().to("cuda"), fresh("convnet2-w4-leaky").cuda()
    settings = TrainingSettings(epochs=3, batch_size=20, lr=0.05, momentum=0.9, dsa=DsaSettings())
    train(model, data.train_images, data.train_labels, settings, generator=generator())
    reference, there = fresh("convnet2-w4-leaky"), blobs()
    train(reference, there.train_images, there.train_labels, settings, generator=generator())
    torch.testing.assert_close(flatten(model).cpu(), flatten(reference), rtol=1e-2, atol=1e-3)


LEFT_SUSPENDED = """
import torch
from pydistill.nn import build, parse
from pydistill.training.train import TrainingSettings, epochs_of

images, labels = torch.zeros(4, 1, 8, 8), torch.arange(4)
courses = []
for name in ("convnet2-w4", "mlp", "resnet18-w2"):
    model, draws = build(parse(name), 1, 4, 8, seed=0), torch.Generator().manual_seed(0)
    courses.append(epochs_of(model, images, labels, TrainingSettings(epochs=2), generator=draws))
    next(courses[-1])
"""


def test_trainings_left_suspended_do_not_abort_the_interpreter() -> None:
    """By the engine and by PyTorch."""
    done = subprocess.run(
        [sys.executable, "-c", LEFT_SUSPENDED],
        cwd=Path(__file__).parents[2],
        capture_output=True,
        text=True,
        timeout=120,
    )
    assert (done.returncode, done.stderr) == (0, "")


def test_a_training_that_is_closed_leaves_what_was_learned() -> None:
    data, complete, closed = blobs(), fresh(), fresh()
    settings = TrainingSettings(epochs=2, batch_size=20, lr=0.1)
    train(complete, data.train_images, data.train_labels, settings, generator=generator())
    course = epochs_of(closed, data.train_images, data.train_labels, settings, generator=generator())
    next(course)
    next(course)
    course.close()
    assert torch.equal(flatten(closed), flatten(complete))
