"""Evaluation on fresh networks: reproducible per network, robust to divergence, strict about what it is given."""

from __future__ import annotations

import inspect
from collections.abc import Generator, Iterator
from dataclasses import replace
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional

from pydistill.data.dsa import DsaSettings
from pydistill.errors import DivergedError, InputError
from pydistill.evaluation.evaluate import Evaluation, EvaluationSettings, evaluate, evaluate_networks, records, table
from pydistill.nn import MLP, build, parse
from pydistill.training import train as train_module
from pydistill.training.train import TrainingSettings, accuracy, derive_seed, train
from tests.helpers.blobs import blobs

DATA = blobs(per_class=20)
STUDENT = parse("convnet2-w4")
QUICK = EvaluationSettings(
    repeats=3, training=TrainingSettings(epochs=15, momentum=0.9, schedule="halfway", dsa=DsaSettings())
)


def distilled(ipc: int = 2) -> tuple[Tensor, Tensor]:
    return DATA.sample_per_class(ipc, torch.Generator().manual_seed(0))


def test_defaults_are_the_published_protocol() -> None:
    training = EvaluationSettings().training
    assert (training.epochs, training.batch_size, training.momentum) == (1000, 256, 0.9)
    assert (training.weight_decay, training.schedule, training.dsa) == (5e-4, "halfway", DsaSettings())
    assert EvaluationSettings().repeats == 5


def test_the_set_teaches_the_task() -> None:
    images, labels = distilled(10)
    settings = replace(QUICK, training=replace(QUICK.training, epochs=40, dsa=None))
    result = evaluate(images, labels, 0.05, DATA, STUDENT, settings)
    assert result.mean > 0.95
    assert result.diverged == 0
    assert result.seconds > 0
    assert result.model == "convnet2-w4"


def test_equals_the_loop_in_its_docstring() -> None:
    images, labels = distilled()
    result = evaluate(images, labels, 0.03, DATA, STUDENT, QUICK)
    expected = []
    for repeat in range(3):
        seed = derive_seed("evaluation", 0, repeat)
        network = build(STUDENT, 1, 4, 8, seed=seed)
        recipe = replace(QUICK.training, lr=0.03)
        train(network, images, labels, recipe, generator=torch.Generator().manual_seed(seed))
        expected.append(accuracy(network, DATA.test_images, DATA.test_labels))
    assert result.accuracies == tuple(expected)


def test_a_network_depends_on_seed_and_number_alone() -> None:
    images, labels = distilled()
    torch.manual_seed(1)
    together = evaluate_networks(images, labels, 0.03, DATA, [parse("mlp"), STUDENT], QUICK)
    torch.manual_seed(2)
    alone = evaluate(images, labels, 0.03, DATA, STUDENT, replace(QUICK, repeats=2))
    assert together[1].accuracies[:2] == alone.accuracies
    other = evaluate(images, labels, 0.03, DATA, STUDENT, replace(QUICK, seed=1))
    assert other.accuracies != together[1].accuracies


def test_the_learned_lr_is_used_and_not_the_settings_own() -> None:
    images, labels = distilled()
    settings = replace(QUICK, training=replace(QUICK.training, lr=123.0))
    result = evaluate(images, labels, 0.03, DATA, STUDENT, settings)
    assert result.accuracies == evaluate(images, labels, 0.03, DATA, STUDENT, QUICK).accuracies
    slower = evaluate(images, labels, 1e-9, DATA, STUDENT, settings)
    assert slower.accuracies != result.accuracies


def test_nothing_that_was_given_is_changed() -> None:
    images, labels = distilled()
    images.requires_grad_()
    before = images.detach().clone()
    state = torch.get_rng_state()
    evaluate(images, labels, 0.03, DATA, STUDENT, replace(QUICK, repeats=1))
    assert torch.equal(images.detach(), before)
    assert images.grad is None
    assert torch.equal(torch.get_rng_state(), state)


def test_soft_labels() -> None:
    images, labels = distilled()
    soft = functional.one_hot(labels, 4).double()
    hard = evaluate(images, labels, 0.03, DATA, STUDENT, replace(QUICK, repeats=1))
    result = evaluate(images.double(), soft, 0.03, DATA, STUDENT, replace(QUICK, repeats=1))
    assert result.mean == pytest.approx(hard.mean, abs=0.05)


def test_a_diverged_network_is_counted_and_gives_chance() -> None:
    images, labels = distilled()
    result = evaluate(images, labels, 1e30, DATA, STUDENT, QUICK)
    assert result.diverged == 3
    assert result.accuracies == (0.25, 0.25, 0.25)


@pytest.mark.parametrize("at_once", [1, 2])
@pytest.mark.parametrize(("lr", "epochs"), [(0.03, 3 * 15), (1e30, 3)])
def test_every_epoch_is_told(at_once: int, lr: float, epochs: int) -> None:
    """Three networks train for 15 epochs; one that diverges in the second epoch has completed one."""
    images, labels = distilled()
    text: list[str] = []
    result = evaluate(
        images,
        labels,
        lr,
        DATA,
        STUDENT,
        replace(QUICK, at_once=at_once),
        on_network=lambda repeat, accuracy: text.append("network"),
        on_epoch=lambda: text.append("epoch"),
    )
    assert (text.count("network"), text.count("epoch")) == (3, epochs)
    assert text[-1] == "network"
    assert result == replace(evaluate(images, labels, lr, DATA, STUDENT, QUICK), seconds=result.seconds)


@pytest.mark.parametrize("at_once", [1, 2])
@pytest.mark.parametrize("raised", [StopIteration("enough"), DivergedError("as if"), KeyboardInterrupt()])
def test_what_on_epoch_raises_is_no_end_of_a_training(at_once: int, raised: BaseException) -> None:
    calls: list[int] = []

    def breaks_off() -> None:
        calls.append(len(calls))
        if len(calls) == 4:
            raise raised

    settings = replace(QUICK, at_once=at_once)
    with pytest.raises(type(raised)) as caught:
        evaluate(*distilled(), 0.03, DATA, STUDENT, settings, on_epoch=breaks_off)
    assert caught.value is raised
    assert len(calls) == 4


@pytest.mark.parametrize("at_once", [1, 2])
def test_what_on_epoch_raises_closes_the_training(at_once: int, monkeypatch: pytest.MonkeyPatch) -> None:
    courses: list[Generator[None, None, None]] = []
    epochs_of = train_module.epochs_of

    def stored(*arguments: Any, **more: Any) -> Generator[None, None, None]:
        courses.append(epochs_of(*arguments, **more))
        return courses[-1]

    def breaks_off() -> None:
        raise RuntimeError("enough")

    monkeypatch.setattr(train_module, "epochs_of", stored)
    with pytest.raises(RuntimeError, match="enough"):
        evaluate(*distilled(), 0.03, DATA, STUDENT, replace(QUICK, at_once=at_once), on_epoch=breaks_off)
    assert len(courses) == at_once
    assert inspect.getgeneratorstate(courses[0]) == inspect.GEN_CLOSED


def test_several_networks() -> None:
    images, labels = distilled()
    seen: list[Evaluation] = []
    names = ("mlp", "alexnet-w4", "vgg11-w2", "resnet18-w2", "resnet18-w2-bn")
    networks = [parse(name) for name in names]
    rows = evaluate_networks(images, labels, 0.03, DATA, networks, replace(QUICK, repeats=1), on_evaluation=seen.append)
    assert [row.model for row in rows] == list(names)
    assert seen == rows


@pytest.mark.parametrize("name", ["convnet2-w4", "convnet2-w4-leaky", "resnet18-w2-bn"])
@pytest.mark.parametrize("at_once", [2, 3, 5])
def test_networks_side_by_side_are_those_one_after_the_other(at_once: int, name: str) -> None:
    images, labels = distilled()
    seen: list[tuple[int, float]] = []
    settings = replace(QUICK, repeats=4, training=replace(QUICK.training, batch_size=5, epochs=6))
    one = evaluate(images, labels, 0.03, DATA, parse(name), replace(settings, at_once=1))
    result = evaluate(
        images,
        labels,
        0.03,
        DATA,
        parse(name),
        replace(settings, at_once=at_once),
        on_network=lambda *report: seen.append(report),
    )
    assert result.accuracies == one.accuracies
    assert seen == list(enumerate(one.accuracies))


def test_networks_side_by_side_take_turns(monkeypatch: pytest.MonkeyPatch) -> None:
    """An epoch each, and no more than asked for at once."""
    turns: list[int] = []
    epochs_of = train_module.epochs_of

    def noted(network: nn.Module, *arguments: Any, generator: torch.Generator) -> Iterator[None]:
        for _ in epochs_of(network, *arguments, generator=generator):
            turns.append(generator.initial_seed())
            yield

    monkeypatch.setattr(train_module, "epochs_of", noted)
    settings = replace(QUICK, repeats=3, at_once=2, training=replace(QUICK.training, epochs=2))
    evaluate(*distilled(), 0.03, DATA, STUDENT, settings)
    a, b, c = (derive_seed("evaluation", 0, repeat) for repeat in range(3))
    assert turns == [a, b, a, b, c, c]


def test_networks_side_by_side_diverge_each_for_itself(monkeypatch: pytest.MonkeyPatch) -> None:
    images, labels = distilled()
    result = evaluate(images, labels, 1e30, DATA, STUDENT, replace(QUICK, at_once=2))
    assert result.diverged == 3
    assert result.accuracies == (0.25, 0.25, 0.25)
    epochs_of = train_module.epochs_of
    broken = derive_seed("evaluation", 0, 1)

    def one_breaks(network: nn.Module, *arguments: Any, generator: torch.Generator) -> Iterator[None]:
        for number, _ in enumerate(epochs_of(network, *arguments, generator=generator)):
            if generator.initial_seed() == broken and number == 3:
                raise DivergedError("as if")
            yield

    one = evaluate(images, labels, 0.03, DATA, STUDENT, replace(QUICK, at_once=1))
    monkeypatch.setattr(train_module, "epochs_of", one_breaks)
    result = evaluate(images, labels, 0.03, DATA, STUDENT, replace(QUICK, at_once=3))
    assert result.diverged == 1
    assert (result.accuracies[0], result.accuracies[2]) == (one.accuracies[0], one.accuracies[2])


class Dropping(nn.Module):
    """Draws random numbers while it trains."""

    def __init__(self, in_channels: int, num_classes: int, image_size: tuple[int, int]) -> None:
        super().__init__()
        self.layer = nn.Linear(in_channels * image_size[0] * image_size[1], num_classes)

    def forward(self, images: Tensor) -> Tensor:
        return self.layer(functional.dropout(images.flatten(1), 0.5, self.training))


def test_networks_that_draw_random_numbers_do_not_depend_on_how_many_train_at_once() -> None:
    images, labels = distilled()
    one, two = (evaluate(images, labels, 0.03, DATA, Dropping, replace(QUICK, at_once=count)) for count in (1, 2))
    assert one.accuracies == two.accuracies


def test_how_many_at_once() -> None:
    cpu, gpu = torch.device("cpu"), torch.device("cuda")
    settings = EvaluationSettings()
    assert (settings.networks_at_once(cpu), settings.networks_at_once(gpu)) == (1, 4)
    settings = EvaluationSettings(at_once=7)
    assert (settings.networks_at_once(cpu), settings.networks_at_once(gpu)) == (7, 7)
    with pytest.raises(InputError, match="at_once"):
        EvaluationSettings(at_once=0)


def test_a_network_of_ones_own() -> None:
    images, labels = distilled()
    result = evaluate(images, labels, 0.03, DATA, MLP, replace(QUICK, repeats=1))
    assert result.model == "pydistill.nn.mlp:MLP"


def test_a_wrong_network_is_refused_before_the_first_is_trained() -> None:
    images, labels = distilled()
    seen: list[Evaluation] = []
    with pytest.raises(InputError, match="no network 'lenet'"):
        EvaluationSettings(models=("mlp", "lenet"))
    with pytest.raises(InputError, match=r"at least 16$"):
        evaluate_networks(
            images, labels, 0.03, DATA, [parse("mlp"), parse("convnet4")], QUICK, on_evaluation=seen.append
        )
    assert not seen


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"lr": 0.0}, "the learned lr"),
        ({"lr": float("nan")}, "the learned lr"),
        ({"images": torch.zeros(8, 3, 8, 8)}, r"\[8, 3, 8, 8\]"),
        ({"images": torch.full((8, 1, 8, 8), torch.nan)}, "pixels"),
        ({"labels": torch.zeros(8, 3)}, "labels over 3 classes"),
        ({"labels": torch.full((8, 4), torch.inf)}, "labels"),
        ({"labels": torch.arange(8)}, "from 0 to 3, the classes of blobs, not from 0 to 7"),
        ({"labels": torch.zeros(7, dtype=torch.int64)}, "labels for 8 images"),
    ],
)
def test_a_set_that_does_not_fit(change: dict[str, Any], message: str) -> None:
    images, labels = distilled()
    arguments: dict[str, Any] = {"images": images, "labels": labels, "lr": 0.03, **change}
    with pytest.raises(InputError, match=message):
        evaluate(arguments["images"], arguments["labels"], arguments["lr"], DATA, STUDENT, QUICK)


def test_a_baseline_that_does_not_exist() -> None:
    with pytest.raises(InputError, match="baselines must be a list of some of random, kmeans, full, not 'herding'"):
        EvaluationSettings(baselines=("random", "herding"))


def test_repeats_below_one() -> None:
    with pytest.raises(InputError, match="repeats"):
        EvaluationSettings(repeats=0)


def test_mean_and_std_are_over_the_networks() -> None:
    row = Evaluation("mlp", (0.5, 0.7), 1.0)
    assert row.mean == pytest.approx(0.6)
    assert row.std == pytest.approx(0.1)
    assert Evaluation("mlp", (0.5,), 1.0).std == 0


def test_table() -> None:
    rows = [
        ("10 distilled images", Evaluation("convnet3", (0.5, 0.7), 12.34, 0, 0.01, 1000, "mtt")),
        ("the experts", Evaluation("resnet18-bn", (0.1,), 0.0, 1, 0.0, 50, "the experts'")),
    ]
    assert table(rows).splitlines() == [
        "trained on           network      test accuracy   networks    lr  epochs  seconds  protocol",
        "10 distilled images  convnet3      60.0 ± 10.0 %         2  0.01    1000     12.3  mtt",
        "the experts          resnet18-bn   10.0 %                1            50           the experts' (1 diverged)",
    ]
    assert len(table([]).splitlines()) == 1
    assert records(rows)[0] == {"trained_on": "10 distilled images"} | rows[0][1].as_record()


@pytest.mark.parametrize("at_once", [1, 2])
@pytest.mark.parametrize("name", ["convnet2-w4", "convnet2-w4-leaky"])
def test_the_best_accuracy_is_that_of_the_epochs_looked_at(name: str, at_once: int) -> None:
    """Equal to a loop that trains every network again for each number of epochs, at a constant rate."""
    images, labels = distilled()
    training = replace(QUICK.training, epochs=10, schedule="constant")
    settings = replace(QUICK, at_once=at_once, training=training)
    tested = [
        evaluate(images, labels, 1.0, DATA, parse(name), replace(settings, training=replace(training, epochs=epochs)))
        for epochs in (4, 8, 10)
    ]
    best = evaluate(images, labels, 1.0, DATA, parse(name), replace(settings, best_every=4))
    assert best.accuracies == tuple(map(max, *(one.accuracies for one in tested)))
    assert any(accuracy > last for accuracy, last in zip(best.accuracies, tested[-1].accuracies, strict=True))
    assert best.protocol.endswith("best_every 4")


@pytest.mark.cuda
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs an NVIDIA GPU")
def test_evaluates_on_the_data_sets_device() -> None:
    images, labels = distilled(10)
    settings = replace(QUICK, training=replace(QUICK.training, epochs=40, dsa=None))
    assert evaluate(images, labels, 0.05, DATA.to("cuda"), STUDENT, settings).mean > 0.9


@pytest.mark.cuda
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs an NVIDIA GPU")
@pytest.mark.parametrize("name", ["convnet2-w4", "convnet2-w4-leaky"])
def test_networks_side_by_side_on_streams_of_their_own(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.backends.cudnn, "deterministic", True)
    images, labels = distilled()
    settings = replace(QUICK, repeats=5, training=replace(QUICK.training, epochs=30))
    one, four = (
        evaluate(images, labels, 0.03, DATA.to("cuda"), parse(name), replace(settings, at_once=count))
        for count in (1, 4)
    )
    assert four.mean == pytest.approx(one.mean, abs=0.03)
    assert len(four.accuracies) == 5
