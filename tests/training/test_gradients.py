"""Training and testing by the engine: the numbers of PyTorch, for the networks that it runs, and nobody notices."""

from __future__ import annotations

import copy
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from pydistill.data.dsa import DsaSettings
from pydistill.errors import DivergedError
from pydistill.nn import ConvNet, build, flatten, parse
from pydistill.ops.extension import load_extension
from pydistill.training.gradients import EngineGradients, TorchGradients, gradients_for, logits_of
from pydistill.training.train import TrainingSettings, accuracy, train
from tests.helpers.blobs import blobs

engine_only = pytest.mark.skipif(
    "cpu" not in load_extension().device_types, reason="the extension is not in use, so PyTorch trains everything"
)
NETWORKS = ("convnet2-w4", "convnet1-w5-max-nonorm", "convnet2-w3-nopool", "convnet2-w4-p3-max", "mlp-w16", "mlp1")
SETTINGS = TrainingSettings(epochs=4, batch_size=20, lr=0.1, momentum=0.9, weight_decay=0.01)


def fresh(name: str = "convnet2-w4", size: int = 8) -> nn.Module:
    return build(parse(name), 2, 4, size, seed=0).double()


def data(size: int = 8) -> tuple[Tensor, Tensor]:
    """48 images of 2 channels in four classes."""
    actual = blobs(channels=2, size=size)
    return actual.train_images.double(), actual.train_labels


def soft(labels: Tensor) -> Tensor:
    """Probabilities with the class's own the largest."""
    noise = torch.rand(len(labels), 4, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    return (2 * nn.functional.one_hot(labels, 4) + noise).softmax(1)


def run(model: nn.Module, images: Tensor, labels: Tensor, settings: TrainingSettings, **more: Any) -> list[Any]:
    """Train it; what was reported, and the parameters at each report."""
    seen: list[Any] = []
    train(
        model,
        images,
        labels,
        settings,
        generator=torch.Generator().manual_seed(3),
        on_epoch=lambda epoch, loss, share: seen.append((loss, share, flatten(model))),
        **more,
    )
    return seen


def assert_same_training(model: nn.Module, images: Tensor, labels: Tensor, settings: TrainingSettings) -> None:
    """By the engine and in PyTorch: losses, shares and parameters after every epoch."""
    other, start = copy.deepcopy(model), flatten(model)
    assert isinstance(gradients_for(model, images, labels, settings.batch_size, engine=True), EngineGradients)
    actual, expected = run(model, images, labels, settings), run(other, images, labels, settings, engine=False)
    assert len(actual) == len(expected) == settings.epochs
    for (loss, share, point), (loss_expected, share_expected, point_expected) in zip(actual, expected, strict=True):
        assert loss == pytest.approx(loss_expected, rel=1e-6)  # summed in fp32
        assert share == share_expected
        assert (point - point_expected).norm() <= 1e-9 * (point_expected - start).norm()
    assert torch.equal(flatten(model), actual[-1][2])


@engine_only
@pytest.mark.parametrize("labelled", ["hard", "soft"])
@pytest.mark.parametrize("name", NETWORKS)
def test_engine_and_pytorch_train_alike(name: str, labelled: str) -> None:
    images, labels = data()
    assert_same_training(fresh(name), images, soft(labels) if labelled == "soft" else labels, SETTINGS)


@engine_only
@pytest.mark.parametrize(
    "change",
    [
        {"momentum": 0.0},
        {"weight_decay": 0.0},
        {"schedule": "halfway"},
        {"schedule": "cosine"},
        {"dsa": DsaSettings()},
        {"batch_size": 48},
        {"batch_size": 47},
        {"batch_size": 1, "epochs": 2},
        {"batch_size": 1000},
    ],
    ids=str,
)
def test_recipes(change: dict[str, Any]) -> None:
    assert_same_training(fresh(), *data(), replace(SETTINGS, **change))


@engine_only
def test_images_that_are_not_square() -> None:
    images, labels = data()
    model = build(parse("convnet2-w4"), 2, 4, (7, 10), seed=0).double()
    assert_same_training(model, torch.cat([images, images], 3)[:, :, :7, :10], labels, SETTINGS)


@engine_only
@pytest.mark.parametrize("batch_size", [1, 7, 48, 1000])
@pytest.mark.parametrize("name", NETWORKS)
def test_logits(name: str, batch_size: int) -> None:
    model, (images, labels) = fresh(name), data()
    run(model, images, labels, SETTINGS)
    logits = logits_of(model, images, batch_size, engine=True)
    assert logits is not model
    actual = torch.cat([logits(batch) for batch in torch.split(images, batch_size)])
    torch.testing.assert_close(actual, model(images).detach(), rtol=1e-10, atol=1e-10)
    assert accuracy(model, images, labels, batch_size) == accuracy(model, images, labels, batch_size, engine=False)


@engine_only
def test_accuracy_sees_the_parameters_of_the_moment() -> None:
    model, (images, labels) = fresh(), data()
    run(model, images, labels, replace(SETTINGS, epochs=20))
    assert accuracy(model, images, labels) == 1.0
    with torch.no_grad():
        model.classifier.bias[2] += 100  # type: ignore[index, union-attr]
    assert accuracy(model, images, labels) == 0.25


def as_subclass(model: nn.Module) -> nn.Module:
    class Own(ConvNet):
        pass

    model.__class__ = Own
    return model


def with_sigmoid(model: ConvNet) -> nn.Module:
    model.features[2] = nn.Sigmoid()
    return model


def frozen(model: ConvNet) -> nn.Module:
    model.features[0].weight.requires_grad_(False)
    return model


def listened_to(model: ConvNet) -> nn.Module:
    model.classifier.weight.register_hook(lambda gradient: 2 * gradient)
    return model


def hooked(model: ConvNet) -> nn.Module:
    model.classifier.register_forward_hook(lambda module, arguments, logits: 2 * logits)
    return model


def hooked_backwards(model: ConvNet) -> nn.Module:
    model.features[1].register_full_backward_hook(lambda module, to_input, of_output: (2 * to_input[0],))
    return model


def with_dropout(model: ConvNet) -> nn.Module:
    return nn.Sequential(model, nn.Dropout(0.2))


@pytest.mark.parametrize("name", ["convnet2-w4-leaky", "convnet2-w4-gn", "convnet2-w4-bn", "alexnet-w4", "mlp-sigmoid"])
def test_networks_of_pytorch(name: str) -> None:
    assert_pytorchs(lambda: fresh(name))


@pytest.mark.parametrize(
    "changed", [as_subclass, with_sigmoid, frozen, listened_to, hooked, hooked_backwards, with_dropout]
)
def test_changed_networks_are_pytorchs(changed: Callable[[Any], nn.Module]) -> None:
    assert_pytorchs(lambda: changed(fresh()))


def assert_pytorchs(make: Callable[[], nn.Module]) -> None:
    """PyTorch trains it: the same bits, engine or not."""
    model, other, (images, labels) = make(), make(), data()
    assert isinstance(gradients_for(model, images, labels, 20, engine=True), TorchGradients)
    actual, expected = run(model, images, labels, SETTINGS), run(other, images, labels, SETTINGS, engine=False)
    assert torch.equal(actual[-1][2], expected[-1][2])


def test_what_else_is_pytorchs() -> None:
    model, (images, labels) = fresh(), data()

    def in_pytorch(*arguments: Any, engine: bool = True) -> bool:
        return isinstance(gradients_for(*arguments, 20, engine=engine), TorchGradients)

    assert in_pytorch(model, images, labels, engine=False)
    assert in_pytorch(model, images.half(), labels)
    assert in_pytorch(model, images.float(), labels)  # PyTorch says what is wrong
    assert in_pytorch(model, images, soft(labels).float())
    assert in_pytorch(model, images[:, :1], labels)
    assert in_pytorch(model, torch.ones(48, 2, 9, 9, dtype=torch.float64), labels)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        assert in_pytorch(fresh().float(), images.float(), labels)


@pytest.mark.parametrize("engine", [True, False])
def test_nothing_but_the_values_of_the_parameters_changes(engine: bool) -> None:
    model, (images, labels) = fresh(), data()
    before = {name: (id(value), value.data_ptr(), value.stride()) for name, value in model.named_parameters()}
    state, optimiser = model.state_dict(), torch.optim.SGD(model.parameters(), lr=1.0)
    start = flatten(model)
    copies = []

    def on_epoch(*_: Any) -> None:
        assert all(torch.equal(state[name], value) for name, value in model.named_parameters())
        copies.append(flatten(copy.deepcopy(model)))

    generator = torch.Generator().manual_seed(3)
    train(model, images, labels, SETTINGS, generator=generator, on_epoch=on_epoch, engine=engine)
    after = {name: (id(value), value.data_ptr(), value.stride()) for name, value in model.named_parameters()}
    assert after == before
    assert all(torch.equal(state[name], value) and value.requires_grad for name, value in model.named_parameters())
    assert torch.equal(copies[-1], flatten(model))
    assert len({start[0].item(), *(row[0].item() for row in copies)}) == 5
    assert model.training
    there = flatten(model)
    optimiser.zero_grad()
    model(images).sum().backward()
    optimiser.step()
    slopes = [value.grad.reshape(-1) for value in model.parameters() if value.grad is not None]
    torch.testing.assert_close(flatten(model), there - torch.cat(slopes))


@engine_only
def test_a_change_by_the_callback_counts() -> None:
    """As it does in PyTorch: here every epoch ends with half the weights."""
    images, labels = data()

    def halved(engine: bool) -> Tensor:
        model = fresh()

        def on_epoch(*_: Any) -> None:
            with torch.no_grad():
                for parameter in model.parameters():
                    parameter *= 0.5

        generator = torch.Generator().manual_seed(3)
        train(model, images, labels, SETTINGS, generator=generator, on_epoch=on_epoch, engine=engine)
        return flatten(model)

    torch.testing.assert_close(halved(True), halved(False), rtol=1e-9, atol=1e-9)


@engine_only
def test_bits_do_not_depend_on_what_was_trained_before() -> None:
    """The engine's memory is used again, also after a network that diverged in it."""
    images, labels = data()
    first = run(fresh(), images, labels, SETTINGS)[-1][2]
    diverged = fresh()
    with pytest.raises(DivergedError):
        run(diverged, images, labels, replace(SETTINGS, lr=1e200))
    assert not bool(torch.isfinite(flatten(diverged)).all())
    accuracy(diverged, images, labels)
    run(fresh(), images[:9], labels[:9], SETTINGS)
    assert torch.equal(run(fresh(), images, labels, SETTINGS)[-1][2], first)


@engine_only
def test_a_callback_that_raises_leaves_the_model_where_it_was() -> None:
    model, (images, labels) = fresh(), data()
    expected = run(fresh(), images, labels, SETTINGS)[1][2]

    def on_epoch(epoch: int, *_: Any) -> None:
        if epoch == 2:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        train(model, images, labels, SETTINGS, generator=torch.Generator().manual_seed(3), on_epoch=on_epoch)
    assert torch.equal(flatten(model), expected)


@pytest.mark.cuda
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs an NVIDIA GPU")
@pytest.mark.skipif("cuda" not in load_extension().device_types, reason="built without CUDA kernels")
def test_the_engine_trains_on_the_gpu_what_pytorch_trains_on_the_cpu() -> None:
    images, labels = data()
    model, other, start = fresh().cuda(), fresh(), flatten(fresh())
    settings = replace(SETTINGS, dsa=DsaSettings())
    run(model, images.cuda(), labels.cuda(), settings)
    run(other, images, labels, settings, engine=False)
    assert (flatten(model).cpu() - flatten(other)).norm() <= 1e-7 * (flatten(other) - start).norm()
    assert accuracy(model, images.cuda(), labels.cuda()) == accuracy(other, images, labels, engine=False)
