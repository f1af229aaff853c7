"""Baselines: equal to loops, and none is trained twice."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from pydistill.errors import FormatError
from pydistill.evaluation import baselines
from pydistill.evaluation.baselines import StoredEvaluator, read_baselines
from pydistill.evaluation.evaluate import evaluate
from pydistill.evaluation.settings import EvaluationSettings
from pydistill.nn import build, parse
from pydistill.synthesis.kmeans import features, kmeans_choice
from pydistill.training.train import TrainingSettings, derive_seed
from tests.helpers.blobs import blobs

DATA = blobs()
STUDENT = parse("convnet2-w4")
QUICK = EvaluationSettings(
    repeats=2,
    training=TrainingSettings(epochs=4, batch_size=16, momentum=0.9),
    full_epochs=2,
    full_batch_size=8,
    full_lr=0.05,
)
EVALUATOR = StoredEvaluator(DATA, STUDENT, QUICK)


@pytest.fixture
def trained(monkeypatch: pytest.MonkeyPatch) -> list[float]:
    """The learning rates of the evaluations that were computed."""
    rates: list[float] = []

    def counted(images: Any, labels: Tensor, lr: float, *arguments: Any, **options: Any) -> Any:
        rates.append(lr)
        return evaluate(images, labels, lr, *arguments, **options)

    monkeypatch.setattr(baselines, "evaluate", counted)
    return rates


def seeded(name: str, repeat: int) -> tuple[int, torch.Generator]:
    seed = derive_seed(name, 0, repeat)
    return seed, torch.Generator().manual_seed(seed)


def test_random_real_images_are_drawn_for_every_network_anew() -> None:
    means, accuracies = [], []
    for lr in (0.05, 1e-9):
        found = []
        for repeat in range(2):
            seed, generator = seeded("random real", repeat)
            images, labels = DATA.sample_per_class(3, generator)
            one = replace(QUICK, repeats=1, seed=seed)
            found += evaluate(images, labels, lr, DATA, STUDENT, one).accuracies
        accuracies.append(tuple(found))
        means.append(sum(found))
    name, row = EVALUATOR.random_real(3, [0.05, 1e-9])
    assert name == "12 random real images"
    assert means[0] != means[1]
    best = means.index(max(means))
    assert (row.accuracies, row.lr) == (accuracies[best], (0.05, 1e-9)[best])
    assert (row.epochs, row.protocol) == (4, "mtt, batch_size 16, weight_decay 0.0, schedule constant, no dsa")


def test_k_means_real_images_are_those_nearest_to_the_centroids() -> None:
    network = build(STUDENT, *DATA.sizes, seed=derive_seed("k-means features", 0, 0))
    found = []
    for repeat in range(2):
        seed, generator = seeded("k-means real", repeat)
        index = []
        for label in range(4):
            members = DATA.class_indices(label)
            index.append(members[kmeans_choice(features(network, DATA.train_images[members]), 3, generator)])
            assert len(index[-1].unique()) == 3
        chosen = torch.cat(index)
        one = replace(QUICK, repeats=1, seed=seed)
        images, labels = DATA.train_images[chosen], DATA.train_labels[chosen]
        found += evaluate(images, labels, 0.05, DATA, STUDENT, one).accuracies
    name, row = EVALUATOR.kmeans_real(3, [0.05, 0.05])
    assert (name, row.accuracies) == ("12 k-means real images", tuple(found))


def test_all_real_images_have_a_schedule_of_their_own() -> None:
    training = replace(QUICK.training, epochs=2, batch_size=8)
    settings = replace(QUICK, training=training)
    expected = evaluate(DATA.train_images, DATA.train_labels, 0.05, DATA, STUDENT, settings)
    name, row = EVALUATOR.all_real()
    assert name == "all 48 real images"
    assert row == replace(expected, seconds=row.seconds)


def test_labels_from_a_function() -> None:
    uniform = EVALUATOR.random_real(2, [0.05], lambda images, classes: torch.full((8, 4), 0.25), "uniform")
    assert uniform[0] == "8 random real images, uniform"
    assert uniform[1].accuracies != EVALUATOR.random_real(2, [0.05])[1].accuracies


def test_nothing_is_trained_twice(tmp_path: Path, trained: list[float]) -> None:
    evaluator = replace(EVALUATOR, run=tmp_path)
    first = [evaluator.random_real(2, [0.05, 0.1]), evaluator.kmeans_real(2, [0.1]), evaluator.all_real()]
    assert trained == [0.05, 0.05, 0.1, 0.1, 0.1, 0.1, 0.05]
    again = [evaluator.random_real(2, [0.1, 0.05]), evaluator.kmeans_real(2, [0.1]), evaluator.all_real()]
    assert (again, len(trained)) == (first, 7)
    assert read_baselines(tmp_path) == first
    evaluator.random_real(2, [0.05, 0.2])
    assert trained[7:] == [0.2, 0.2]  # only the new rate


@pytest.mark.parametrize(
    "change",
    [
        {"network": parse("mlp-w8")},
        {"dataset": blobs(seed=1)},
        {"settings": replace(QUICK, seed=1)},
        {"settings": replace(QUICK, repeats=1)},
        {"settings": replace(QUICK, best_every=2)},
        {"settings": replace(QUICK, training=replace(QUICK.training, batch_size=4))},
    ],
)
def test_whatever_it_depends_on_makes_another_row(change: dict[str, Any], tmp_path: Path, trained: list[float]) -> None:
    evaluator = replace(EVALUATOR, run=tmp_path)
    evaluator.random_real(2, [0.05])
    del trained[:]
    replace(evaluator, **change).random_real(2, [0.05])
    assert trained
    assert len(read_baselines(tmp_path)) == 2


def test_what_no_result_depends_on_does_not(tmp_path: Path, trained: list[float]) -> None:
    replace(EVALUATOR, run=tmp_path).random_real(2, [0.05])
    del trained[:]
    other = replace(QUICK, at_once=2, baselines=(), full_lr=7.0, training=replace(QUICK.training, lr=3.0))
    replace(EVALUATOR, run=tmp_path, settings=other).random_real(2, [0.05])
    assert not trained


@pytest.mark.parametrize("content", ["{", "[3]", '[{"model": "mlp", "mean": 0.5, "std": 0.0, "runs": [0.5]}]', "{}"])
def test_a_damaged_file_is_refused(content: str, tmp_path: Path) -> None:
    (tmp_path / "baselines.json").write_text(content)
    with pytest.raises(FormatError, match=r"baselines\.json is damaged"):
        read_baselines(tmp_path)
    with pytest.raises(FormatError, match=r"baselines\.json is damaged"):
        replace(EVALUATOR, run=tmp_path).random_real(2, [0.05])
