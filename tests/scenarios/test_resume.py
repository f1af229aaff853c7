"""Runs and experts that are killed, stopped, refused and resumed: the outcome is that of an undisturbed run."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from pydistill.distillation.distiller import Distiller, IterationReport
from pydistill.errors import InputError, Interrupted, MismatchError
from pydistill.evaluation.evaluate import Evaluation
from pydistill.runs.evaluation import PeriodicEvaluator
from pydistill.runs.folder import RunFolder
from pydistill.runs.run import RunCallback, run_distillation
from pydistill.training.experts import train_experts
from pydistill.trajectories import TrajectoryStore
from tests.helpers.blobs import blobs
from tests.helpers.folder_content import content
from tests.helpers.killed import KILLS
from tests.helpers.small_runs import EXPERT, MODEL, BreakAt, assert_same_outcome, plain_metrics, recipe

DATA = blobs()
ROOT = Path(__file__).parents[2]


def killed(kind: str, store: TrajectoryStore, out: Path) -> dict[str, Any]:
    command = [sys.executable, "-m", "tests.helpers.killed", kind, str(store.path), str(out)]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False, timeout=600)
    assert done.returncode == 0, done.stderr
    outcome: dict[str, Any] = json.loads(done.stdout)
    assert sum(outcome["killed"].values()) >= 2 * KILLS
    return outcome


def test_a_distillation_killed_at_random_moments(store: TrajectoryStore, tmp_path: Path) -> None:
    outcome = killed("distillation", store, tmp_path)
    for folder in outcome["resumed"]:
        assert_same_outcome(Path(folder), Path(outcome["undisturbed"]))
        assert not list(Path(folder).glob("*.tmp"))
    assert outcome["killed"]["half of checkpoint"] > 0
    assert outcome["killed"]["half a line"] > 0


def test_a_distillation_by_mct_killed_at_random_moments(store: TrajectoryStore, tmp_path: Path) -> None:
    """Also while it convexifies the experts: the folder holds complete ones, and no others."""
    outcome = killed("convexified", store, tmp_path)
    undisturbed = TrajectoryStore.open(Path(outcome["undisturbed"]) / "convexified")
    assert undisturbed.experts == store.experts
    for folder in outcome["resumed"]:
        assert_same_outcome(Path(folder), Path(outcome["undisturbed"]))
        resumed = TrajectoryStore.open(Path(folder) / "convexified")
        assert resumed.digest == undisturbed.digest
        assert resumed.verify() == {}
        assert not list(Path(folder).rglob("*.tmp"))
    assert sum(times for moment, times in outcome["killed"].items() if "expert_" in moment) > 0
    assert outcome["killed"]["half of checkpoint"] > 0


def test_experts_killed_at_random_moments(store: TrajectoryStore, tmp_path: Path) -> None:
    outcome = killed("experts", store, tmp_path)
    undisturbed = TrajectoryStore.open(outcome["undisturbed"])
    assert undisturbed.digest == store.digest
    for folder in outcome["resumed"]:
        resumed = TrajectoryStore.open(folder)
        assert resumed.digest == undisturbed.digest
        assert resumed.verify() == {}
        for position in range(len(undisturbed)):
            assert resumed.accuracies(position) == undisturbed.accuracies(position)
            assert resumed.details(position) == undisturbed.details(position)
        assert not list(Path(folder).glob("*.tmp"))
    assert outcome["killed"]["half of index"] > 0


def test_a_run_that_goes_back_continues_as_the_undisturbed_one(store: TrajectoryStore, tmp_path: Path) -> None:
    """The last good state and the rejected iterations are part of the checkpoint."""
    often: dict[str, Any] = {"snapshot_every": 2, "checkpoint_every": 1, "max_rejections": 100, "max_lr": None}
    work = recipe(iterations=16, method="mtt", lr_lr=30.0, **often)
    run_distillation(work, DATA, store, tmp_path / "undisturbed")
    events = [line for line in plain_metrics(tmp_path / "undisturbed") if line["event"] == "guard"]
    assert 2 <= len(events) <= 12
    assert [line["rejections"] for line in events] == list(range(1, len(events) + 1))
    for iteration in range(2, 16, 3):
        with pytest.raises(RuntimeError, match="interrupted"):
            run_distillation(work, DATA, store, tmp_path / "resumed", resume=True, callbacks=[BreakAt(iteration)])
    run_distillation(work, DATA, store, tmp_path / "resumed", resume=True)
    assert_same_outcome(tmp_path / "undisturbed", tmp_path / "resumed")


def test_fewer_iterations_than_done_are_refused_and_nothing_is_rewritten(
    store: TrajectoryStore, tmp_path: Path
) -> None:
    run_distillation(recipe(iterations=4), DATA, store, tmp_path)
    before = content(tmp_path)
    with pytest.raises(InputError, match="iterations"):
        run_distillation(recipe(iterations=3), DATA, store, tmp_path, resume=True)
    assert content(tmp_path) == before
    run_distillation(recipe(iterations=4), DATA, store, tmp_path, resume=True)
    after = content(tmp_path)
    assert after.keys() == before.keys()
    assert after["metrics.jsonl"] == before["metrics.jsonl"]


@pytest.mark.parametrize("resume", [False, True])
def test_a_run_does_not_go_into_a_folder_of_experts(resume: bool, store: TrajectoryStore) -> None:
    before = content(store.path)
    with pytest.raises(InputError, match="holds experts"):
        run_distillation(recipe(iterations=3), DATA, store, store.path, resume=resume)
    assert content(store.path) == before


def test_experts_do_not_go_into_a_run_s_folder(store: TrajectoryStore, tmp_path: Path) -> None:
    run_distillation(recipe(iterations=1), DATA, store, tmp_path)
    before = content(tmp_path)
    with pytest.raises(InputError, match="holds a run"):
        train_experts(DATA, MODEL, EXPERT, tmp_path)
    with pytest.raises(InputError, match="holds a run"):
        store.write_convexified(tmp_path)
    assert content(tmp_path) == before


def test_other_settings_are_refused_and_nothing_is_rewritten(store: TrajectoryStore, tmp_path: Path) -> None:
    run_distillation(recipe(iterations=2), DATA, store, tmp_path)
    before = content(tmp_path)
    for changes in ({"lr_form": "log"}, {"clip_gradient": 1.0}, {"snapshot_every": 3}):
        with pytest.raises(MismatchError, match=next(iter(changes))):
            run_distillation(recipe(iterations=3, **changes), DATA, store, tmp_path, resume=True)
    assert content(tmp_path) == before


def interrupt() -> None:
    os.kill(os.getpid(), signal.SIGINT)


def test_ctrl_c_during_an_evaluation_leaves_it_to_the_next_process(
    store: TrajectoryStore, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    work = recipe(iterations=6, evaluate_every=2, checkpoint_every=4)
    evaluate, finished = PeriodicEvaluator.evaluate, []

    def stopped(evaluator: PeriodicEvaluator) -> Evaluation:
        if evaluator.distiller.iteration == 2:
            interrupt()
        finished.append(evaluator.distiller.iteration)
        return evaluate(evaluator)

    monkeypatch.setattr(PeriodicEvaluator, "evaluate", stopped)
    with pytest.raises(Interrupted, match="iteration 2 of 6"):
        run_distillation(work, DATA, store, tmp_path / "resumed")
    assert finished == []
    assert RunFolder(tmp_path / "resumed").load_checkpoint()[0]["distiller"]["iteration"] == 2
    monkeypatch.undo()
    run_distillation(work, DATA, store, tmp_path / "resumed", resume=True)
    run_distillation(work, DATA, store, tmp_path / "undisturbed")
    assert_same_outcome(tmp_path / "resumed", tmp_path / "undisturbed")


class Pressing(RunCallback):
    """Presses Ctrl-C after iteration 2, once or twice."""

    def __init__(self, times: int) -> None:
        self.times = times

    def on_iteration(self, report: IterationReport) -> None:
        if report.iteration == 2:
            for _ in range(self.times):
                interrupt()


def test_ctrl_c_between_iterations_and_a_second_one(store: TrajectoryStore, tmp_path: Path) -> None:
    work = recipe(iterations=6, checkpoint_every=4)
    with pytest.raises(Interrupted, match="iteration 2 of 6"):
        run_distillation(work, DATA, store, tmp_path / "once", callbacks=[Pressing(1)])
    assert RunFolder(tmp_path / "once").load_checkpoint()[0]["distiller"]["iteration"] == 2
    with pytest.raises(KeyboardInterrupt):
        run_distillation(work, DATA, store, tmp_path / "twice", callbacks=[Pressing(2)])
    assert RunFolder(tmp_path / "twice").load_checkpoint()[0]["distiller"]["iteration"] == 0
    assert signal.getsignal(signal.SIGINT) is signal.default_int_handler
    for name in ("once", "twice", "undisturbed"):
        run_distillation(work, DATA, store, tmp_path / name, resume=True)
    for name in ("once", "twice"):
        assert_same_outcome(tmp_path / name, tmp_path / "undisturbed")


def test_ctrl_c_in_an_iteration_waits_for_its_end(
    store: TrajectoryStore, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    iterate = Distiller.iterate

    def pressed(distiller: Distiller) -> IterationReport:
        interrupt()
        return iterate(distiller)

    monkeypatch.setattr(Distiller, "iterate", pressed)
    with pytest.raises(Interrupted, match="iteration 1 of 8"):
        run_distillation(recipe(), DATA, store, tmp_path)


def test_ctrl_c_while_experts_train_keeps_the_complete_ones(tmp_path: Path) -> None:
    def on_progress(expert: int, epoch: int, *_: float) -> None:
        if (expert, epoch) == (1, 3):
            interrupt()

    with pytest.raises(Interrupted, match="expert 2 of 3"):
        train_experts(DATA, MODEL, EXPERT, tmp_path, on_progress=on_progress)
    assert TrajectoryStore.open(tmp_path).experts == (0,)
