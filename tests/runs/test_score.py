"""Scores of runs: their cells are the evaluations that the formulas name, and what is known is not trained again."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

import pydistill
from pydistill._util.files import copy_file
from pydistill.data import DsaSettings
from pydistill.errors import InputError, MismatchError
from pydistill.evaluation import baselines
from pydistill.evaluation.baselines import read_baselines
from pydistill.evaluation.evaluate import evaluate
from pydistill.nn import build, unflatten
from pydistill.runs.loggers import LogSettings
from pydistill.runs.score import score
from pydistill.runs.workflow import distill_and_report
from pydistill.synthesis.decoders import DecoderSettings
from pydistill.training.experts import train_experts
from pydistill.training.train import derive_seed
from pydistill.trajectories import TrajectoryStore
from tests.helpers.blobs import blobs
from tests.helpers.small_runs import EXPERT, MODEL, experts, recipe

DATA = blobs()
WORK = recipe(iterations=2)
WORK = replace(WORK, evaluation=replace(WORK.evaluation, full_epochs=2, full_batch_size=16, full_lr=0.1))
SETTINGS = WORK.evaluation
PLAIN = SETTINGS
AUGMENTED = replace(SETTINGS, training=replace(SETTINGS.training, dsa=DsaSettings()))


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> TrajectoryStore:
    return experts(tmp_path_factory.mktemp("score") / "experts", DATA)


def distilled(store: TrajectoryStore, out: Path, **settings: Any) -> Path:
    work = replace(WORK, distill=replace(WORK.distill, **settings))
    distill_and_report(DATA, work, store, out, resume=False, quiet=True, log=LogSettings(tensorboard=False))
    return out


@pytest.fixture(scope="module")
def hard(store: TrajectoryStore) -> Path:
    return distilled(store, store.path.parent / "hard")


@pytest.fixture(scope="module")
def soft(store: TrajectoryStore) -> Path:
    return distilled(store, store.path.parent / "soft", labels="learned", lr_label=1.0)


def test_the_cells_of_a_set_with_hard_labels(hard: Path) -> None:
    """The run's evaluation is without augmentation, so that the augmented cells take the published one."""
    scores = score(hard, data=DATA, progress=False)
    artefact = pydistill.load(hard).artefact
    summary = json.loads((hard / "summary.json").read_text())
    cells = {name: row[1].accuracies for name, row in scores.cells.items()}
    assert cells["distilled"] == cells["distilled_hard"] == cells["distilled_plain"]
    assert cells["distilled"] == tuple(summary["accuracy_final"]["runs"])
    augmented = evaluate(artefact.images, artefact.labels, artefact.lr, DATA, MODEL, AUGMENTED)
    assert cells["distilled_augmented"] == augmented.accuracies
    assert cells["random"] == cells["random_plain"] == random(artefact.lr, PLAIN, None)
    assert cells["random_augmented"] == random(artefact.lr, AUGMENTED, None)
    full = replace(SETTINGS, training=replace(SETTINGS.training, epochs=2, batch_size=16))
    real = evaluate(DATA.train_images, DATA.train_labels, 0.1, DATA, MODEL, full)
    assert cells["real_hard"] == real.accuracies
    assert scores.cells["distilled"][1] is scores.cells["distilled_hard"][1]


def random(lr: float, settings: Any, store: TrajectoryStore | None) -> tuple[float, ...]:
    """The better of two rates, labelled by the mean of the experts' probabilities if there are experts."""
    tried = []
    for rate in (WORK.distill.lr_init, lr):
        accuracies: list[float] = []
        for repeat in range(settings.repeats):
            seed = derive_seed("random real", settings.seed, repeat)
            images, labels = DATA.sample_per_class(1, torch.Generator().manual_seed(seed))
            if store is not None:
                rows = []
                for trajectory in store:
                    teacher = build(MODEL, *DATA.sizes, seed=0)
                    unflatten(teacher, trajectory.point(trajectory.end))
                    with torch.no_grad():
                        rows.append(teacher(images).softmax(dim=1))
                labels = torch.stack(rows).mean(dim=0)
            one = replace(settings, repeats=1, seed=seed)
            accuracies += evaluate(images, labels, rate, DATA, MODEL, one).accuracies
        tried.append(tuple(accuracies))
    return max(tried, key=sum)


def test_the_cells_of_a_set_with_soft_labels(soft: Path, store: TrajectoryStore) -> None:
    scores = score(soft, experts=store, data=DATA, full_accuracy=0.9, progress=False)
    artefact = pydistill.load(soft).artefact
    assert artefact.labels.ndim == 2
    cells = {name: row[1].accuracies for name, row in scores.cells.items()}
    hard = evaluate(artefact.images, artefact.classes, artefact.lr, DATA, MODEL, SETTINGS)
    assert cells["distilled_hard"] == hard.accuracies
    assert cells["random"] == random(artefact.lr, PLAIN, store)
    assert cells["random_augmented"] == random(artefact.lr, AUGMENTED, store)
    assert cells["real_hard"] == (0.9,)
    assert "labelled by the experts" in str(scores)
    assert scores.lrs.value == pytest.approx(
        (torch.tensor(scores.alpha.value).exp().item() - 0.36787944) / 2.35040239, abs=1e-6
    )


def test_random_images_take_the_storage_of_codes(store: TrajectoryStore, tmp_path: Path) -> None:
    """Four small images have the storage of one, so one random image per class is the comparison."""
    coded = distilled(store, tmp_path / "coded", decoder=DecoderSettings("upsample"))
    scores = score(coded, data=DATA, full_accuracy=0.9, progress=False)
    assert len(pydistill.load(coded)) == 16
    assert scores.cells["random"][0] == "4 random real images"
    assert scores.cells["random"][1].accuracies == random(pydistill.load(coded).lr, PLAIN, None)


def test_nothing_that_is_known_is_trained_again(hard: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    first = score(hard, data=DATA, progress=False)
    rows = read_baselines(hard)
    monkeypatch.delattr(baselines, "evaluate")
    assert score(hard, data=DATA, progress=False) == first
    assert read_baselines(hard) == rows


def test_a_protocol_and_a_set_in_memory(hard: Path) -> None:
    """The published protocol is augmented, and its own name is in the rows."""
    before = (hard / "baselines.json").read_bytes()
    loaded = pydistill.load(hard)
    scores = score(loaded, data=DATA, protocol="ddranking", epochs=2, repeats=1, full_accuracy=1.0, progress=False)
    assert {row.protocol for _, row in scores.cells.values()} == {"ddranking", "ddranking, no dsa", "given"}
    assert (hard / "baselines.json").read_bytes() == before


def test_soft_labels_need_the_experts_of_the_run(soft: Path, store: TrajectoryStore, tmp_path: Path) -> None:
    with pytest.raises(InputError, match="give their folder as experts"):
        score(soft, data=DATA, progress=False)
    others = train_experts(DATA, MODEL, replace(EXPERT, count=1, seed=5), tmp_path / "others")
    with pytest.raises(MismatchError, match="not those of the run"):
        score(soft, experts=others, data=DATA, progress=False)
    with pytest.raises(MismatchError, match="not those of the run"):  # nor of the set's file in the run
        score(soft / "distilled.safetensors", experts=others, data=DATA, progress=False)
    other_data = train_experts(blobs(seed=3), MODEL, replace(EXPERT, count=1), tmp_path / "other data")
    with pytest.raises(MismatchError, match="dataset digest"):
        score(pydistill.load(soft), experts=other_data, data=DATA, progress=False)
    with pytest.raises(InputError, match="full_accuracy must be a share from 0 to 1"):
        score(soft, experts=store, data=DATA, full_accuracy=84.8)


def test_a_set_that_was_copied_out_of_its_run(soft: Path, store: TrajectoryStore, tmp_path: Path) -> None:
    copy_file(soft / "distilled.safetensors", tmp_path / "distilled.safetensors")
    quick = {"data": DATA, "experts": store, "repeats": 1, "epochs": 1, "full_accuracy": 1.0, "progress": False}
    assert score(tmp_path, **quick).cells["distilled"][1].accuracies
    assert "± 0.0" not in str(score(tmp_path, **quick))  # one network has no spread


def test_a_table_is_never_augmented(tmp_path: Path) -> None:
    rows, kinds = torch.rand(24, 3, generator=torch.Generator().manual_seed(0)), torch.arange(24) % 2
    table = pydistill.data.from_table(rows, kinds, rows, kinds)
    quick = {"epochs": 2, "batch_size": 8, "lr": 0.1}
    store = pydistill.train_experts(table, "mlp2-w4", count=1, **quick, dsa=None, out=tmp_path / "experts")
    short = {"iterations": 1, "steps": 1, "expert_epochs": 1, "evaluation": {"repeats": 1, "epochs": 1}}
    result = pydistill.distill(table, store, method="mtt", max_start=1, **short, out=tmp_path / "run")
    for protocol in (None, "ddranking"):
        scores = score(tmp_path / "run", data=table, protocol=protocol, epochs=1, full_accuracy=0.9, progress=False)
        assert {row.protocol for _, row in scores.cells.values()} == {f"{protocol or 'mtt'}, no dsa", "given"}
        assert scores.ars is None
    (row,) = result.set.evaluate(protocol="datm", epochs=1)
    assert row.protocol == "datm, no dsa"


def test_what_is_no_set_is_refused(hard: Path) -> None:
    with pytest.raises(InputError, match="run must be"):
        score(pydistill.load(hard).images)  # type: ignore[arg-type]
