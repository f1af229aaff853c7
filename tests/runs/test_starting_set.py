"""Runs that go on from another set: what they take from it, conversion, resume, and every refusal."""

from __future__ import annotations

import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

from pydistill.artefact.file import Artefact
from pydistill.data import Dataset, Normalise, Zca
from pydistill.errors import InputError, MismatchError, SettingError
from pydistill.runs.run import run_distillation
from pydistill.runs.starting_set import starting_set
from pydistill.trajectories import TrajectoryStore
from tests.helpers.blobs import blobs
from tests.helpers.small_runs import BreakAt, assert_same_outcome, plain_metrics, recipe

DATA = blobs()


def artefact(dataset: Dataset = DATA, ipc: int = 2, soft: bool = False, **changes: Any) -> Artefact:
    images, classes = dataset.sample_per_class(ipc, torch.Generator().manual_seed(9))
    labels = torch.nn.functional.one_hot(classes).float() * 0.6 + 0.1 if soft else classes
    provenance = {"dataset": {"name": dataset.name, "classes": list(dataset.class_names)}, "recipe": {}}
    made = Artefact(images + 0.125, labels, classes, 0.07, dataset.preprocessing, provenance, None)
    return replace(made, **changes)


def saved(folder: Path, content: Artefact) -> str:
    content.save(folder / "set.safetensors")
    return str(folder / "set.safetensors")


def settings(path: str, **changes: Any) -> Any:
    return recipe(**{"ipc": 2, "initialisation": "file", "start_from": path} | changes).distill


def test_images_learning_rate_and_labels(tmp_path: Path) -> None:
    path = saved(tmp_path, artefact(soft=True))
    start = starting_set(settings(path, labels="learned"), DATA)
    assert start is not None
    assert torch.equal(start.images, artefact().images)
    assert start.probabilities is not None
    assert torch.equal(start.probabilities, artefact(soft=True).labels)
    assert start.lr == 0.07
    hard = starting_set(settings(saved(tmp_path, artefact()), labels="learned"), DATA)
    assert hard is not None
    assert hard.probabilities is None
    assert starting_set(recipe().distill, DATA) is None


def test_another_preprocessing_is_converted(tmp_path: Path) -> None:
    other = DATA.with_preprocessing(Normalise(torch.tensor([0.1]), torch.tensor([0.7])))
    whitened = DATA.with_preprocessing(Zca.fit(DATA.preprocessing.invert(DATA.train_images)))
    for source in (other, whitened):
        content = artefact(source)
        start = starting_set(settings(saved(tmp_path, content)), DATA)
        assert start is not None
        expected = DATA.preprocessing.apply(source.preprocessing.invert(content.images))
        torch.testing.assert_close(start.images, expected)
        shown = content.preprocessing.invert(content.images)  # the same pixels
        torch.testing.assert_close(DATA.preprocessing.invert(start.images), shown, rtol=1e-4, atol=1e-5)


def test_classes_named_by_their_numbers(tmp_path: Path) -> None:
    named = replace(DATA, class_names=("a", "b", "c", "d"))
    assert starting_set(settings(saved(tmp_path, artefact(DATA))), named) is not None
    assert DATA.class_names == ("0", "1", "2", "3")


@pytest.mark.parametrize(
    ("content", "changes", "error", "message"),
    [
        (artefact(), {"ipc": 3}, SettingError, "distill.ipc must be 2, the images per class of"),
        (artefact(blobs(size=12)), {}, MismatchError, r"have shape \[1, 12, 12\] and those of blobs \[1, 8, 8\]"),
        (artefact(replace(DATA, class_names=("b", "a", "c", "d"))), {}, MismatchError, "4 classes b, a, c, …"),
        (artefact(soft=True), {}, MismatchError, "soft labels and this run hard ones; set distill.labels to learned"),
    ],
    ids=["ipc", "shape", "classes", "labels"],
)
def test_what_does_not_fit(
    content: Artefact,
    changes: dict[str, Any],
    error: type[Exception],
    message: str,
    store: TrajectoryStore,
    tmp_path: Path,
) -> None:
    path = saved(tmp_path, content)
    work = replace(recipe(), distill=settings(path, **changes))
    with pytest.raises(error, match=message):
        run_distillation(work, DATA, store, tmp_path / "run")
    assert not (tmp_path / "run").exists()


def test_a_missing_set(store: TrajectoryStore, tmp_path: Path) -> None:
    work = replace(recipe(), distill=settings(str(tmp_path / "nothing")))
    with pytest.raises(InputError, match="nothing holds no distilled set"):
        run_distillation(work, DATA, store, tmp_path / "run")


def test_a_run_goes_on_from_a_run_s_folder_and_resumes(
    store: TrajectoryStore, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    first = run_distillation(recipe(iterations=2, method="mtt"), DATA, store, tmp_path / "first")
    monkeypatch.chdir(tmp_path)
    work = replace(recipe(), distill=settings("first", ipc=1, evaluate_every=4))
    run_distillation(work, DATA, store, tmp_path / "uninterrupted")
    second = Artefact.load(tmp_path / "uninterrupted")
    assert second.initial_images is not None
    assert torch.equal(second.initial_images, first.final.images)
    assert second.provenance["recipe"]["distill"]["start_from"] == str(tmp_path / "first")
    with pytest.raises(RuntimeError, match="interrupted"):
        run_distillation(work, DATA, store, tmp_path / "resumed", callbacks=[BreakAt(5)])
    shutil.rmtree(tmp_path / "first")  # the checkpoint has all that was read
    run_distillation(work, DATA, store, tmp_path / "resumed", resume=True)
    assert_same_outcome(tmp_path / "uninterrupted", tmp_path / "resumed")


def test_metrics_say_what_was_redrawn(store: TrajectoryStore, tmp_path: Path) -> None:
    work = recipe(method="progressive", ipc=3, redraw_every=2, redraw_above=0.01, max_start=None)
    run_distillation(work, DATA, store, tmp_path / "run")
    lines = [line for line in plain_metrics(tmp_path / "run") if line["event"] == "redraw"]
    assert [line["iteration"] for line in lines] == [3, 5, 7]
    assert all(len(line["image"]) == len(line["real"]) == 1 for line in lines)  # a tenth of twelve
