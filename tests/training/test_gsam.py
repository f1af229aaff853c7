"""GSAM against a literal loop of its formula, in float64."""

from __future__ import annotations

import copy
from collections.abc import Sequence
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from pydistill._util.layout import INDEX_NAME
from pydistill._util.settings import from_dict
from pydistill.data import DsaSettings
from pydistill.errors import MismatchError, SettingError
from pydistill.nn import build, flatten, parse
from pydistill.ops.extension import load_extension
from pydistill.training.experts import ExpertSettings, train_experts
from pydistill.training.gradients import EngineGradients, TorchGradients, gradients_for
from pydistill.training.gsam import GsamGradients, SharpnessSettings, sharpness_aware
from pydistill.training.train import TrainingSettings, train
from pydistill.trajectories import TrajectoryStore
from tests.helpers.blobs import blobs

HAS_ENGINE = "cpu" in load_extension().device_types
ENGINES = [False, pytest.param(True, marks=pytest.mark.skipif(not HAS_ENGINE, reason="the extension is not in use"))]
SETTINGS = TrainingSettings(epochs=3, batch_size=20, lr=0.1, momentum=0.9, weight_decay=0.01)
FLAT = SharpnessSettings(rho=0.2, alpha=0.7)


def fresh(name: str = "convnet2-w4") -> nn.Module:
    return build(parse(name), 2, 4, 8, seed=0).double()


def data() -> tuple[Tensor, Tensor]:
    """48 images of 2 channels in four classes."""
    actual = blobs(channels=2)
    return actual.train_images.double(), actual.train_labels


def trained(
    settings: TrainingSettings, *, engine: bool, name: str = "convnet2-w4", soft: bool = False
) -> tuple[list[float], Tensor]:
    """Return the losses of all epochs and the trained parameters."""
    model, losses = fresh(name), []
    images, labels = data()
    train(
        model,
        images,
        smoothed(labels) if soft else labels,
        settings,
        generator=torch.Generator().manual_seed(3),
        on_epoch=lambda epoch, loss, share: losses.append(loss),
        engine=engine,
    )
    return losses, flatten(model)


def smoothed(labels: Tensor) -> Tensor:
    return 0.7 * F.one_hot(labels, 4).double() + 0.3 / 4


def literal_training(
    settings: TrainingSettings, name: str = "convnet2-w4", *, soft: bool
) -> tuple[list[float], Tensor]:
    """Train by the formula, tensor by tensor, with the orders that `train` draws."""
    model, generator = fresh(name), torch.Generator().manual_seed(3)
    images, labels = data()
    targets = smoothed(labels) if soft else labels
    velocities = [torch.zeros_like(parameter) for parameter in model.parameters()]
    losses = []
    for _ in range(settings.epochs):
        total = 0.0
        for rows in torch.split(torch.randperm(len(images), generator=generator), settings.batch_size):
            assert settings.sharpness is not None
            loss, gradients = literal_gradients(model, images[rows], targets[rows], settings.sharpness)
            total += loss * len(rows)
            with torch.no_grad():
                for theta, velocity, gradient in zip(model.parameters(), velocities, gradients, strict=True):
                    velocity.mul_(settings.momentum).add_(gradient + settings.weight_decay * theta)
                    theta -= settings.lr * velocity
        losses.append(total / len(images))
    return losses, flatten(model)


def literal_gradients(
    model: nn.Module, images: Tensor, labels: Tensor, settings: SharpnessSettings
) -> tuple[float, list[Tensor]]:
    """Return the loss and g′ − α v."""
    loss = F.cross_entropy(model(images), labels)
    g = torch.autograd.grad(loss, list(model.parameters()))
    parameters = [parameter.detach() for parameter in model.parameters()]
    if settings.adaptive:
        length = norm([theta.abs() * part for theta, part in zip(parameters, g, strict=True)])
        e = [settings.rho * theta * theta * part / (length + 1e-12) for theta, part in zip(parameters, g, strict=True)]
    else:
        e = [settings.rho * part / (norm(g) + 1e-12) for part in g]
    moved = copy.deepcopy(model)
    with torch.no_grad():
        for theta, part in zip(moved.parameters(), e, strict=True):
            theta += part
    g_prime = torch.autograd.grad(F.cross_entropy(moved(images), labels), list(moved.parameters()))
    cosine = dot(g, g_prime) / (norm(g) * norm(g_prime) + 1e-12)
    v = [a - cosine * norm(g) * b / (norm(g_prime) + 1e-12) for a, b in zip(g, g_prime, strict=True)]
    return float(loss.detach()), [b - settings.alpha * part for b, part in zip(g_prime, v, strict=True)]


def dot(one: Sequence[Tensor], other: Sequence[Tensor]) -> float:
    return sum(float((a * b).sum()) for a, b in zip(one, other, strict=True))


def norm(tensors: Sequence[Tensor]) -> float:
    return dot(tensors, tensors) ** 0.5


@pytest.mark.parametrize("engine", ENGINES)
@pytest.mark.parametrize(
    "sharpness",
    [FLAT, SharpnessSettings(0.01, 0.3), SharpnessSettings(0.2, 0.0), SharpnessSettings(0.2, 1.0, adaptive=False)],
    ids=["gsam", "published", "asam", "not adaptive"],
)
@pytest.mark.parametrize(("momentum", "weight_decay"), [(0.9, 0.01), (0.0, 0.0)])
def test_training_is_that_of_the_formula(
    momentum: float, weight_decay: float, sharpness: SharpnessSettings, engine: bool
) -> None:
    settings = replace(SETTINGS, momentum=momentum, weight_decay=weight_decay, sharpness=sharpness)
    for soft in (False, True):
        losses, actual = trained(settings, engine=engine, soft=soft)
        expected_losses, expected = literal_training(settings, soft=soft)
        moved = (expected - flatten(fresh())).norm()
        assert (actual - expected).norm() <= 1e-9 * moved
        assert losses == pytest.approx(expected_losses, rel=1e-6)  # summed in float32
        _, plain = trained(replace(settings, sharpness=None), engine=engine, soft=soft)
        assert (plain - expected).norm() > 1e-5 * moved


@pytest.mark.parametrize("name", ["mlp-w16", "convnet1-w5-max-nonorm"])
def test_other_networks(name: str) -> None:
    settings = replace(SETTINGS, sharpness=FLAT)
    _, actual = trained(settings, engine=True, name=name)
    _, expected = literal_training(settings, name, soft=False)
    assert (actual - expected).norm() <= 1e-9 * (expected - flatten(fresh(name))).norm()


@pytest.mark.skipif(not HAS_ENGINE, reason="the extension is not in use")
@pytest.mark.parametrize("dsa", [DsaSettings(), DsaSettings(mode="M")], ids=["S", "M"])
def test_engine_and_pytorch_agree_on_augmented_batches(dsa: DsaSettings) -> None:
    settings = replace(SETTINGS, sharpness=FLAT, dsa=dsa)
    (losses, actual), (expected_losses, expected) = (trained(settings, engine=engine) for engine in (True, False))
    assert (actual - expected).norm() <= 1e-9 * (expected - flatten(fresh())).norm()
    assert losses == pytest.approx(expected_losses, rel=1e-6)


@pytest.mark.parametrize("engine", ENGINES)
def test_without_rho_it_is_sgd_bit_for_bit(engine: bool) -> None:
    expected = trained(replace(SETTINGS, dsa=DsaSettings()), engine=engine)
    settings = replace(SETTINGS, dsa=DsaSettings(), sharpness=SharpnessSettings(rho=0.0, alpha=0.7))
    actual = trained(settings, engine=engine)
    assert actual[0] == expected[0]
    assert torch.equal(actual[1], expected[1])


def gsam(model: nn.Module, settings: SharpnessSettings, *, engine: bool = False) -> GsamGradients:
    images, labels = data()
    passes = gradients_for(model, images, labels, 48, engine=engine)
    assert isinstance(passes, EngineGradients if engine else TorchGradients)
    gradients = sharpness_aware(passes, model, settings)
    assert isinstance(gradients, GsamGradients)
    return gradients


def flat_gradient(model: nn.Module, settings: SharpnessSettings, *, engine: bool) -> Tensor:
    gradients = gsam(model, settings, engine=engine)
    gradients.gradient(*data())
    return torch.cat([parameter.grad.flatten() for parameter in gradients.parameters if parameter.grad is not None])


@pytest.mark.parametrize("engine", ENGINES)
def test_the_subtracted_part_is_orthogonal_to_the_perturbed_gradient(engine: bool) -> None:
    model = fresh()
    g_prime = flat_gradient(model, replace(FLAT, alpha=0.0), engine=engine)
    v = g_prime - flat_gradient(model, replace(FLAT, alpha=1.0), engine=engine)
    assert v.norm() > 1e-3 * g_prime.norm()
    assert abs(float(v @ g_prime)) <= 1e-10 * float(v.norm() * g_prime.norm())


@pytest.mark.parametrize("engine", ENGINES)
def test_parameters_are_put_back_bit_for_bit(engine: bool) -> None:
    model = fresh()
    gradients = gsam(model, FLAT, engine=engine)
    loss, logits = gradients.gradient(*data())
    assert torch.equal(torch.cat([parameter.detach().flatten() for parameter in gradients.parameters]), flatten(model))
    expected = model(data()[0])
    torch.testing.assert_close(logits, expected.detach(), rtol=1e-10, atol=1e-10)
    torch.testing.assert_close(loss, F.cross_entropy(expected, data()[1]).detach(), rtol=1e-10, atol=0)


def test_both_passes_see_the_same_augmented_batch(monkeypatch: pytest.MonkeyPatch) -> None:
    seen: list[Tensor] = []
    gradient = TorchGradients.gradient

    def watched(self: TorchGradients, images: Tensor, labels: Tensor) -> tuple[Tensor, Tensor]:
        seen.append(images.clone())
        return gradient(self, images, labels)

    monkeypatch.setattr(TorchGradients, "gradient", watched)
    trained(replace(SETTINGS, sharpness=FLAT, dsa=DsaSettings()), engine=False)
    first, second = seen[::2], seen[1::2]
    assert len(first) == len(second) == 3 * 3
    assert all(torch.equal(*batches) for batches in zip(first, second, strict=True))
    assert not torch.equal(first[0], first[3])


def test_a_network_that_overwrites_its_input() -> None:
    points = []
    for inplace in (True, False):
        torch.manual_seed(0)
        model = nn.Sequential(nn.ReLU(inplace=inplace), nn.Flatten(), nn.Linear(128, 4)).double()
        train(model, *data(), replace(SETTINGS, sharpness=FLAT), generator=torch.Generator().manual_seed(3))
        points.append(flatten(model))
    assert torch.equal(*points)


def test_running_statistics_are_those_of_the_first_pass() -> None:
    model = fresh("convnet2-w4-bn")
    reference = copy.deepcopy(model)
    gsam(model, FLAT).gradient(*data())
    reference(data()[0])
    buffers = dict(reference.named_buffers())
    assert any(name.endswith("num_batches_tracked") for name in buffers)
    for name, buffer in model.named_buffers():
        assert torch.equal(buffer, buffers[name]), name


def test_a_parameter_without_a_gradient_does_not_move() -> None:
    torch.manual_seed(0)
    model = nn.Sequential(nn.Flatten(), nn.Linear(128, 4)).double()
    model.unused = nn.Parameter(torch.ones(3, dtype=torch.float64))
    train(model, *data(), replace(SETTINGS, sharpness=FLAT), generator=torch.Generator().manual_seed(3))
    assert torch.equal(model.unused.detach(), torch.ones(3, dtype=torch.float64))


@pytest.mark.parametrize("values", [{"rho": -0.1}, {"alpha": -0.1}, {"rho": float("inf")}, {"adaptive": "yes"}])
def test_values_outside_the_limits(values: dict[str, Any]) -> None:
    with pytest.raises(SettingError, match=f"sharpness.{next(iter(values))}"):
        from_dict(TrainingSettings, {"sharpness": values})


def test_an_empty_group_is_the_published_setting() -> None:
    assert from_dict(TrainingSettings, {"sharpness": {}}).sharpness == SharpnessSettings(0.01, 0.3, adaptive=True)
    assert from_dict(TrainingSettings, {"sharpness": None}).sharpness is None


def experts(folder: Path, sharpness: SharpnessSettings | None) -> TrajectoryStore:
    training = TrainingSettings(epochs=2, batch_size=20, lr=0.1, sharpness=sharpness)
    return train_experts(blobs(), parse("convnet2-w4"), ExpertSettings(count=1, training=training), folder)


def test_a_store_records_the_sharpness_of_its_experts(tmp_path: Path) -> None:
    store = experts(tmp_path, FLAT)
    assert store.record.training["sharpness"] == asdict(FLAT)
    with pytest.raises(MismatchError, match="sharpness"):
        experts(tmp_path, None)
    with pytest.raises(MismatchError, match=r"0\.7.*0\.3"):
        experts(tmp_path, replace(FLAT, alpha=0.3))
    assert experts(tmp_path, FLAT).digest == store.digest


def test_a_store_from_before_sharpness_is_one_without(tmp_path: Path) -> None:
    store = experts(tmp_path, None)
    index = tmp_path / INDEX_NAME
    text = index.read_text()
    assert '"sharpness": null' in text
    index.write_text("\n".join(line for line in text.splitlines() if '"sharpness"' not in line))
    assert "sharpness" not in TrajectoryStore.open(tmp_path).record.training
    assert experts(tmp_path, None).digest == store.digest
    with pytest.raises(MismatchError, match="sharpness"):
        experts(tmp_path, FLAT)
