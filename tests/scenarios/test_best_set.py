"""The best set of a continued run: what is said of it is true of its file, and no intact set is written over."""

from __future__ import annotations

import os
import re
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

from pydistill.artefact import file as artefact
from pydistill.artefact.file import Artefact
from pydistill.distillation.distiller import Distiller
from pydistill.errors import FormatError, InputError
from pydistill.evaluation.evaluate import Evaluation
from pydistill.runs.evaluation import PeriodicEvaluator
from pydistill.runs.folder import RunFolder
from pydistill.runs.run import RunDivergedError, run_distillation
from pydistill.trajectories import TrajectoryStore
from tests.helpers.blobs import blobs
from tests.helpers.nobody import as_nobody
from tests.helpers.small_runs import experts, recipe

DATA = blobs()
BEST = "best.safetensors"


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> TrajectoryStore:
    return experts(tmp_path_factory.mktemp("experts"))


def judged(means: dict[int, float], monkeypatch: pytest.MonkeyPatch) -> None:
    """Let evaluations find these accuracies, by iteration."""

    def evaluation(judge: PeriodicEvaluator) -> Evaluation:
        return Evaluation("convnet2-w4", (means[judge.distiller.iteration],), 1.0)

    monkeypatch.setattr(PeriodicEvaluator, "evaluation", evaluation)


def best_of(run: Path) -> tuple[int, float]:
    """After which iteration the best set is, and its accuracy, by its file."""
    provenance = Artefact.load(run / BEST).provenance
    return provenance["iteration"], provenance["accuracy"]["mean"]


@pytest.mark.parametrize("again", [0.4, 0.9, 0.95])
def test_the_best_set_is_the_one_in_its_file(
    again: float, store: TrajectoryStore, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Where a process was stopped between it and the checkpoint, and the next judges the same set otherwise."""
    settings = recipe(iterations=6, evaluate_every=2)
    save = RunFolder.save_checkpoint

    def broken_off(folder: RunFolder, state: dict[str, Any], tensors: dict[str, torch.Tensor]) -> None:
        if state["judge"]["last"] is not None and state["judge"]["last"][0] == 4:
            raise RuntimeError("broken off")
        save(folder, state, tensors)

    judged({2: 0.5, 4: 0.9}, monkeypatch)
    monkeypatch.setattr(RunFolder, "save_checkpoint", broken_off)
    with pytest.raises(RuntimeError, match="broken off"):
        run_distillation(settings, DATA, store, tmp_path)
    monkeypatch.setattr(RunFolder, "save_checkpoint", save)
    assert Artefact.load(tmp_path / "best.safetensors").provenance["iteration"] == 4
    assert RunFolder(tmp_path).load_checkpoint()[0]["judge"]["best"][0] == 2
    judged({4: again, 6: 0.6}, monkeypatch)
    result = run_distillation(settings, DATA, store, tmp_path, resume=True)
    assert (result.best_iteration, result.accuracy_best.mean) == (4, max(0.9, again))
    best = Artefact.load(tmp_path / "best.safetensors").provenance
    assert (best["iteration"], best["accuracy"]["mean"]) == (4, max(0.9, again))
    means = [line["mean"] for line in RunFolder(tmp_path).metrics() if line["event"] == "evaluation"]
    assert means == [0.5, again, 0.6]


def test_without_its_file_the_next_evaluation_is_the_best(
    store: TrajectoryStore, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    judged({1: 0.9, 2: 0.5, 3: 0.6, 4: 0.4}, monkeypatch)
    run_distillation(recipe(iterations=2, evaluate_every=1), DATA, store, tmp_path)
    (tmp_path / BEST).unlink()
    result = run_distillation(recipe(iterations=4, evaluate_every=1), DATA, store, tmp_path, resume=True)
    assert (result.best_iteration, result.accuracy_best.mean) == best_of(tmp_path) == (3, 0.6)
    gone = f"{tmp_path / BEST} is gone, the best set so far, after iteration 1"
    assert caplog.messages == [f"{gone}; the next evaluation's takes its place"]


def test_a_run_that_has_ended_keeps_the_accuracy_of_a_set_that_is_gone(
    store: TrajectoryStore, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    judged({1: 0.9, 2: 0.5}, monkeypatch)
    run_distillation(recipe(iterations=2, evaluate_every=1), DATA, store, tmp_path)
    (tmp_path / BEST).unlink()
    result = run_distillation(recipe(iterations=2, evaluate_every=1), DATA, store, tmp_path, resume=True)
    assert (result.best_iteration, result.accuracy_best.mean, result.accuracy_final.mean) == (1, 0.9, 0.5)
    assert not (tmp_path / BEST).exists()
    (told,) = caplog.messages
    assert told.endswith("after iteration 1; the run has ended, and its accuracy is all that is left of it")
    with pytest.raises(InputError, match=r"best\.safetensors"):
        Artefact.load(tmp_path / BEST)


def test_a_best_set_that_is_that_of_now_is_written_again(
    store: TrajectoryStore, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    judged({1: 0.5, 2: 0.9, 3: 0.6}, monkeypatch)
    run_distillation(recipe(iterations=2, evaluate_every=1), DATA, store, tmp_path)
    before = (tmp_path / BEST).read_bytes()
    (tmp_path / BEST).unlink()
    run_distillation(recipe(iterations=2, evaluate_every=1), DATA, store, tmp_path, resume=True)
    assert (tmp_path / BEST).read_bytes() == before
    (tmp_path / BEST).unlink()
    result = run_distillation(recipe(iterations=3, evaluate_every=1), DATA, store, tmp_path, resume=True)
    assert (result.best_iteration, result.accuracy_best.mean) == best_of(tmp_path) == (2, 0.9)


def test_the_set_that_the_guard_ended_a_run_with_is_not_lost(
    store: TrajectoryStore, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """It is the best one: a copy of a file that is gone since."""
    judged({1: 0.3, 2: 0.9, 3: 0.3, 4: 0.3}, monkeypatch)
    match = Distiller._match

    def broken(distiller: Distiller, draws: Any, first: int) -> Any:
        outcomes = match(distiller, draws, first)
        lost = float("nan") if distiller.iteration >= 2 else 1.0
        return [replace(each, loss=each.loss * lost) for each in outcomes]

    monkeypatch.setattr(Distiller, "_match", broken)
    work = recipe(iterations=8, evaluate_every=1, snapshot_every=1, max_rejections=1)
    with pytest.raises(RunDivergedError) as ended:
        run_distillation(work, DATA, store, tmp_path)
    before = (tmp_path / BEST).read_bytes()
    (tmp_path / BEST).unlink()
    with pytest.raises(RunDivergedError) as again:
        run_distillation(work, DATA, store, tmp_path, resume=True)
    assert str(again.value) == str(ended.value)
    assert again.value.result.best_iteration == 2
    assert (tmp_path / "distilled.safetensors").read_bytes() == (tmp_path / BEST).read_bytes() == before
    assert caplog.messages[-1] == f"{tmp_path / BEST} was gone, and is written again: its set is at hand"


@pytest.fixture
def interrupted(store: TrajectoryStore, open_folder: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A run after its second iteration, whose best set is that of the first."""
    judged({1: 0.9, 2: 0.5, 3: 0.6}, monkeypatch)
    run_distillation(recipe(iterations=2, evaluate_every=1), DATA, store, open_folder / "run")
    return open_folder / "run"


def refused(store: TrajectoryStore, run: Path, told: str) -> None:
    """Going on is refused with these words, and nothing is written."""
    before = {path.name: path.lstat().st_mtime_ns for path in run.iterdir() if path.name != ".lock"}
    with pytest.raises(FormatError) as error:
        run_distillation(recipe(iterations=3, evaluate_every=1), DATA, store, run, resume=True)
    remedy = "put the run's own back, or move it elsewhere to go on without it"
    assert re.fullmatch(f"{re.escape(str(run / BEST))} {told}; {remedy}", str(error.value))
    assert {path.name: path.lstat().st_mtime_ns for path in run.iterdir() if path.name != ".lock"} == before


def test_a_damaged_set_is_refused(store: TrajectoryStore, interrupted: Path) -> None:
    """Wherever it is damaged."""
    whole = (interrupted / BEST).read_bytes()
    for damaged in (b"something else", whole[:-1] + bytes([whole[-1] ^ 1]), b""):
        (interrupted / BEST).write_bytes(damaged)
        refused(store, interrupted, "is damaged.*")


def test_a_set_of_a_later_format_is_refused(
    store: TrajectoryStore, interrupted: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    later = Artefact.load(interrupted / BEST)
    with monkeypatch.context() as version:
        version.setattr(artefact, "FORMAT", 99)
        later.save(interrupted / BEST)
    refused(store, interrupted, "has format 99.*")


def test_a_set_that_may_not_be_read_is_refused(store: TrajectoryStore, interrupted: Path) -> None:
    for path in (interrupted, *interrupted.iterdir()):
        os.chown(path, 65534, 65534) if os.geteuid() == 0 else None
    (interrupted / BEST).chmod(0)
    with as_nobody():
        refused(store, interrupted, r"cannot be read \(Permission denied\)")


def test_what_is_no_file_is_refused(store: TrajectoryStore, interrupted: Path) -> None:
    (interrupted / BEST).unlink()
    (interrupted / BEST).symlink_to(interrupted / "nowhere")
    refused(store, interrupted, "is no file")


def test_a_set_of_a_later_iteration_is_refused(store: TrajectoryStore, interrupted: Path, tmp_path: Path) -> None:
    """As of a longer run in another folder."""
    work = recipe(iterations=3, evaluate_every=0)
    run_distillation(work, DATA, store, tmp_path)
    (tmp_path / "distilled.safetensors").replace(interrupted / BEST)
    refused(store, interrupted, "is a set after iteration 3, and the checkpoint one after 2")


def test_a_set_that_was_put_back_counts_again(
    store: TrajectoryStore, interrupted: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Also in a run whose checkpoint no longer knows of it."""
    (interrupted / BEST).replace(tmp_path / "elsewhere")
    keep = PeriodicEvaluator.keep

    def broken_off(judge: PeriodicEvaluator, evaluation: Evaluation) -> None:
        raise RuntimeError("broken off")

    monkeypatch.setattr(PeriodicEvaluator, "keep", broken_off)
    work = recipe(iterations=3, evaluate_every=1)
    with pytest.raises(RuntimeError, match="broken off"):
        run_distillation(work, DATA, store, interrupted, resume=True)
    monkeypatch.setattr(PeriodicEvaluator, "keep", keep)
    assert RunFolder(interrupted).load_checkpoint()[0]["judge"]["best"] is None
    (tmp_path / "elsewhere").replace(interrupted / BEST)
    result = run_distillation(work, DATA, store, interrupted, resume=True)
    assert (result.best_iteration, result.accuracy_best.mean) == best_of(interrupted) == (1, 0.9)


def test_an_evaluation_that_is_still_due_is_done_without_the_lost_set(
    store: TrajectoryStore, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Of a run that was stopped behind its last iteration, in its last evaluation."""
    judged({2: 0.9}, monkeypatch)
    work = recipe(iterations=4, evaluate_every=2)
    with pytest.raises(KeyError):
        run_distillation(work, DATA, store, tmp_path)
    (tmp_path / BEST).unlink()
    judged({4: 0.5}, monkeypatch)
    result = run_distillation(work, DATA, store, tmp_path, resume=True)
    assert (result.best_iteration, result.accuracy_best.mean) == best_of(tmp_path) == (4, 0.5)


@pytest.mark.parametrize("place", ["header", "tensors"])
def test_a_damaged_set_of_the_end_is_not_taken_for_the_best(
    place: str,
    store: TrajectoryStore,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    """It is told, and written anew at the run's end."""
    judged({2: 0.9, 3: 0.5, 4: 0.6}, monkeypatch)
    run_distillation(recipe(iterations=2, evaluate_every=0), DATA, store, tmp_path)
    run_distillation(recipe(iterations=3, evaluate_every=0, checkpoint_every=1), DATA, store, tmp_path, resume=True)
    last = tmp_path / "distilled.safetensors"
    content = last.read_bytes()
    last.write_bytes(b"x" + content[1:] if place == "header" else content[:-1] + bytes([content[-1] ^ 1]))
    (tmp_path / BEST).unlink()
    result = run_distillation(recipe(iterations=4, evaluate_every=0), DATA, store, tmp_path, resume=True)
    assert (result.best_iteration, result.accuracy_best.mean) == best_of(tmp_path) == (4, 0.6)
    assert f"{last} is damaged" in caplog.messages[0]
    assert "is gone, the best set so far, after iteration 2; the next" in caplog.messages[1]
    assert Artefact.load(last).provenance["iteration"] == 4
