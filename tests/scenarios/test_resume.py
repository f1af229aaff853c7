"""Runs and experts that are killed, stopped, refused and continued: the outcome is that of one that was not."""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch

from pydistill.artefact.file import Artefact
from pydistill.distillation.distiller import Distiller, IterationReport
from pydistill.distillation.guard import data_scale
from pydistill.errors import FormatError, InputError, Interrupted, MismatchError
from pydistill.evaluation.evaluate import Evaluation
from pydistill.runs.evaluation import PeriodicEvaluator
from pydistill.runs.folder import RunFolder
from pydistill.runs.run import NoCallback, run_distillation
from pydistill.runs.workflow import run_summary
from pydistill.training.experts import train_experts
from pydistill.trajectories import TrajectoryStore
from tests.helpers.blobs import blobs
from tests.helpers.folder_content import content
from tests.helpers.small_runs import EXPERT, MODEL, BreakAt, assert_same_outcome, experts, plain_metrics, recipe

DATA = blobs()
ROOT = Path(__file__).parents[2]


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> TrajectoryStore:
    return experts(tmp_path_factory.mktemp("experts"))


def killed(kind: str, store: TrajectoryStore, out: Path) -> dict[str, Any]:
    command = [sys.executable, "-m", "tests.helpers.killed", kind, str(store.path), str(out)]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False, timeout=600)
    assert done.returncode == 0, done.stderr
    found: dict[str, Any] = json.loads(done.stdout)
    assert sum(found["killed"].values()) >= 40
    return found


def test_a_distillation_killed_at_random_moments(store: TrajectoryStore, tmp_path: Path) -> None:
    found = killed("distillation", store, tmp_path)
    for folder in found["parts"]:
        assert_same_outcome(Path(folder), Path(found["whole"]))
        assert not list(Path(folder).glob("*.tmp"))
    assert found["killed"]["half of checkpoint"] > 0
    assert found["killed"]["half a line"] > 0


def test_a_distillation_by_mct_killed_at_random_moments(store: TrajectoryStore, tmp_path: Path) -> None:
    """Also while it convexifies the experts: those in the folder are whole, and no others."""
    found = killed("convexified", store, tmp_path)
    whole = TrajectoryStore.open(Path(found["whole"]) / "convexified")
    assert whole.experts == store.experts
    for folder in found["parts"]:
        assert_same_outcome(Path(folder), Path(found["whole"]))
        parts = TrajectoryStore.open(Path(folder) / "convexified")
        assert parts.digest == whole.digest
        assert parts.verify() == {}
        assert not list(Path(folder).rglob("*.tmp"))
    assert sum(times for moment, times in found["killed"].items() if "expert_" in moment) > 0
    assert found["killed"]["half of checkpoint"] > 0


def test_experts_killed_at_random_moments(store: TrajectoryStore, tmp_path: Path) -> None:
    found = killed("experts", store, tmp_path)
    whole = TrajectoryStore.open(found["whole"])
    assert whole.digest == store.digest
    for folder in found["parts"]:
        parts = TrajectoryStore.open(folder)
        assert parts.digest == whole.digest
        assert parts.verify() == {}
        for position in range(len(whole)):
            assert parts.accuracies(position) == whole.accuracies(position)
            assert parts.details(position) == whole.details(position)
        assert not list(Path(folder).glob("*.tmp"))
    assert found["killed"]["half of index"] > 0


def test_a_run_that_goes_back_continues_as_if_it_had_not_been_broken_off(
    store: TrajectoryStore, tmp_path: Path
) -> None:
    """The good state, what has been counted and which iterations were rejected are part of the checkpoint."""
    often: dict[str, Any] = {"snapshot_every": 2, "checkpoint_every": 1, "max_rejections": 100, "max_lr": None}
    work = recipe(iterations=16, method="mtt", lr_lr=30.0, **often)
    run_distillation(work, DATA, store, tmp_path / "whole")
    events = [line for line in plain_metrics(tmp_path / "whole") if line["event"] == "guard"]
    assert 2 <= len(events) <= 12
    assert [line["rejections"] for line in events] == list(range(1, len(events) + 1))
    for iteration in range(2, 16, 3):
        with pytest.raises(RuntimeError, match="broken off"):
            run_distillation(work, DATA, store, tmp_path / "parts", resume=True, observer=BreakAt(iteration))
    run_distillation(work, DATA, store, tmp_path / "parts", resume=True)
    assert_same_outcome(tmp_path / "whole", tmp_path / "parts")


def test_a_checkpoint_from_before_there_was_a_guard(store: TrajectoryStore, tmp_path: Path) -> None:
    run_distillation(recipe(iterations=5), DATA, store, tmp_path / "old")
    folder = RunFolder(tmp_path / "old")
    state, tensors = folder.load_checkpoint()
    for name in ("guard", "good"):
        del state["distiller"][name]
    state["distiller"]["rejections"] = 0
    state["metrics_bytes"] = None
    del state["format"]
    folder.save_checkpoint(state, {name: each for name, each in tensors.items() if not name.startswith("good.")})
    run_distillation(recipe(iterations=8), DATA, store, tmp_path / "old", resume=True)
    run_distillation(recipe(iterations=8), DATA, store, tmp_path / "whole")
    whole, old = (Artefact.load(tmp_path / name) for name in ("whole", "old"))
    assert torch.equal(whole.images, old.images)
    assert whole.lr == old.lr


def test_a_run_from_before_there_were_limits_goes_on_without(store: TrajectoryStore, tmp_path: Path) -> None:
    """Its pixels and learning rate may be where a new run's may not go: none of its updates is rejected for that."""
    far: dict[str, Any] = {"method": "mtt", "lr_image": 3e4, "lr_lr": 0.0}
    free = far | {"max_pixel": None, "max_lr": None}
    run_distillation(recipe(iterations=8, **free), DATA, store, tmp_path / "whole")
    assert float(Artefact.load(tmp_path / "whole").images.abs().max()) > 100 * data_scale(DATA)
    run_distillation(recipe(iterations=4, **free), DATA, store, tmp_path / "old")
    file = tmp_path / "old" / "config.json"
    config = json.loads(file.read_text())
    for name in ("max_pixel", "max_lr"):
        assert config["distill"].pop(name) is None  # as runs had it that knew no such limits
    file.write_text(json.dumps(config))
    for name in ("max_pixel", "max_lr"):
        asked = recipe(iterations=8, **far, **{name: 0.5})
        with pytest.raises(MismatchError, match=rf"began with distill.{name} = None, not 0.5"):
            run_distillation(asked, DATA, store, tmp_path / "old", resume=True)
    as_now = recipe(iterations=8, **far)
    run_distillation(as_now, DATA, store, tmp_path / "old", resume=True)
    assert not [line for line in plain_metrics(tmp_path / "old") if line["event"] == "guard"]
    assert torch.equal(Artefact.load(tmp_path / "old").images, Artefact.load(tmp_path / "whole").images)
    assert json.loads((tmp_path / "old" / "recipe.json").read_text())["distill"]["max_pixel"] is None
    run_distillation(as_now, DATA, store, tmp_path / "old", resume=True)  # and knows them from now on


def test_fewer_iterations_than_done_are_refused_and_nothing_is_rewritten(
    store: TrajectoryStore, tmp_path: Path
) -> None:
    run_distillation(recipe(iterations=4), DATA, store, tmp_path)
    before = content(tmp_path)
    with pytest.raises(InputError, match=r"has done 4 iterations and 3 are asked for; ask for at least 4 to continue"):
        run_distillation(recipe(iterations=3), DATA, store, tmp_path, resume=True)
    assert content(tmp_path) == before
    run_distillation(recipe(iterations=4), DATA, store, tmp_path, resume=True)
    after = content(tmp_path)
    assert after.keys() == before.keys()
    assert after["metrics.jsonl"] == before["metrics.jsonl"]


@pytest.mark.parametrize("resume", [False, True])
def test_a_run_does_not_go_into_a_folder_of_experts(resume: bool, store: TrajectoryStore) -> None:
    before = content(store.path)
    with pytest.raises(InputError, match=r"holds experts; choose another folder for the run"):
        run_distillation(recipe(iterations=3), DATA, store, store.path, resume=resume)
    assert content(store.path) == before


def test_experts_do_not_go_into_a_run_s_folder(store: TrajectoryStore, tmp_path: Path) -> None:
    run_distillation(recipe(iterations=1), DATA, store, tmp_path)
    before = content(tmp_path)
    with pytest.raises(InputError, match=r"holds a run; choose another folder for the experts"):
        train_experts(DATA, MODEL, EXPERT, tmp_path)
    with pytest.raises(InputError, match=r"holds a run; choose another folder for the experts"):
        store.write_convexified(tmp_path)
    assert content(tmp_path) == before


def test_other_settings_are_refused_and_nothing_is_rewritten(store: TrajectoryStore, tmp_path: Path) -> None:
    run_distillation(recipe(iterations=2), DATA, store, tmp_path)
    before = content(tmp_path)
    for changes in ({"lr_form": "log"}, {"clip_gradient": 1.0}, {"snapshot_every": 3}):
        with pytest.raises(ValueError, match=f"began with distill.{next(iter(changes))} = None, not"):
            run_distillation(recipe(iterations=3, **changes), DATA, store, tmp_path, resume=True)
    assert content(tmp_path) == before


def test_a_run_whose_metrics_were_cut_off_goes_on(
    store: TrajectoryStore, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    folder = run_distillation(recipe(iterations=3), DATA, store, tmp_path).folder
    lines = folder.metrics_path.read_text().splitlines(keepends=True)
    folder.metrics_path.write_text("".join(lines[:3]))  # iteration 1, its distances, iteration 2
    run_distillation(recipe(iterations=4), DATA, store, tmp_path, resume=True)
    assert "lacks lines that the checkpoint counts; the run goes on without them" in caplog.text
    assert [line["iteration"] for line in folder.metrics() if line["event"] == "iteration"] == [1, 2, 4]


def test_a_run_without_its_metrics_is_not_begun_anew(store: TrajectoryStore, tmp_path: Path) -> None:
    folder = run_distillation(recipe(iterations=3), DATA, store, tmp_path).folder
    folder.metrics_path.unlink()
    with pytest.raises(InputError, match="already holds a run"):
        run_distillation(recipe(iterations=3), DATA, store, tmp_path)


@pytest.mark.parametrize("content", [None, b"[]", b"{"])
def test_a_run_without_its_configuration_goes_on_by_the_copy_in_its_checkpoint(
    content: bytes | None, store: TrajectoryStore, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    folder = run_distillation(recipe(iterations=3), DATA, store, tmp_path).folder

    def lose() -> None:
        folder.config_path.unlink()
        if content is not None:
            folder.config_path.write_bytes(content)

    lose()
    with pytest.raises(MismatchError, match=r"began with distill\.steps = 3, not 4"):
        run_distillation(recipe(iterations=4, steps=4), DATA, store, tmp_path, resume=True)
    caplog.clear()
    run_distillation(recipe(iterations=4), DATA, store, tmp_path, resume=True)
    (told,) = caplog.messages
    assert re.search(r"config\.json (cannot be|is damaged|is not readable).*; the checkpoint's copy is taken$", told)
    assert folder.config()["distill.iterations"] == 4
    state, tensors = folder.load_checkpoint()
    del state["config"]  # as early versions wrote it
    RunFolder(tmp_path).save_checkpoint(state, tensors)
    lose()
    with pytest.raises(FormatError, match=r"config\.json .*; put it back, or choose another folder"):
        run_distillation(recipe(iterations=5), DATA, store, tmp_path, resume=True)


def test_a_line_that_was_removed_as_told_is_not_made_up_by_one_behind_the_checkpoint(
    store: TrajectoryStore, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """Also where another line ends at the very place where the checkpoint's last one did."""
    folder = run_distillation(recipe(iterations=8, checkpoint_every=4), DATA, store, tmp_path / "run").folder
    line = json.dumps({"event": "iteration", "iteration": 1, "loss": 0.5, "step": 3, "lr": 0.1})
    lines = [line.replace('"iteration": 1', f'"iteration": {number}') for number in (1, 2, 3, 4, 5, 6)]
    size = len("\n".join(lines[:4])) + 1
    folder.metrics_path.write_text("\n".join([lines[0], *lines[2:]]) + "\n")
    folder.rewind_metrics(4, size)
    assert [record["iteration"] for record in folder.metrics()] == [1, 3, 4]
    assert "lacks lines that the checkpoint counts" in caplog.text


def test_the_summary_tells_how_many_iterations_its_metrics_lack(store: TrajectoryStore, tmp_path: Path) -> None:
    work = recipe(iterations=6)
    result = run_distillation(work, DATA, store, tmp_path)
    assert run_summary(work, result)["iterations_without_metrics"] == 0
    lines = result.folder.metrics_path.read_text().splitlines(keepends=True)
    result.folder.metrics_path.write_text("".join(lines[3:]))  # without iterations 1 and 2
    summary = run_summary(work, run_distillation(work, DATA, store, tmp_path, resume=True))
    assert (summary["iterations"], summary["iterations_without_metrics"]) == (6, 2)


def interrupt() -> None:
    os.kill(os.getpid(), signal.SIGINT)


def test_ctrl_c_during_an_evaluation_leaves_it_to_the_next_process(
    store: TrajectoryStore, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    work = recipe(iterations=6, evaluate_every=2, checkpoint_every=4)
    evaluation, finished = PeriodicEvaluator.evaluation, []

    def stopped(judge: PeriodicEvaluator) -> Evaluation:
        if judge.distiller.iteration == 2:
            interrupt()
        finished.append(judge.distiller.iteration)
        return evaluation(judge)

    monkeypatch.setattr(PeriodicEvaluator, "evaluation", stopped)
    with pytest.raises(Interrupted, match="stopped after iteration 2 of 6; continue with --resume"):
        run_distillation(work, DATA, store, tmp_path / "parts")
    assert finished == []
    assert RunFolder(tmp_path / "parts").load_checkpoint()[0]["distiller"]["iteration"] == 2
    monkeypatch.undo()
    run_distillation(work, DATA, store, tmp_path / "parts", resume=True)
    run_distillation(work, DATA, store, tmp_path / "whole")
    assert_same_outcome(tmp_path / "parts", tmp_path / "whole")


class Pressing(NoCallback):
    """Presses Ctrl-C after iteration 2, once or twice."""

    def __init__(self, times: int) -> None:
        self.times = times

    def on_iteration(self, report: IterationReport) -> None:
        if report.iteration == 2:
            for _ in range(self.times):
                interrupt()


def test_ctrl_c_between_iterations_and_a_second_one(store: TrajectoryStore, tmp_path: Path) -> None:
    work = recipe(iterations=6, checkpoint_every=4)
    with pytest.raises(Interrupted, match="stopped after iteration 2 of 6"):
        run_distillation(work, DATA, store, tmp_path / "once", observer=Pressing(1))
    assert RunFolder(tmp_path / "once").load_checkpoint()[0]["distiller"]["iteration"] == 2
    with pytest.raises(KeyboardInterrupt):
        run_distillation(work, DATA, store, tmp_path / "twice", observer=Pressing(2))
    assert RunFolder(tmp_path / "twice").load_checkpoint()[0]["distiller"]["iteration"] == 1
    assert signal.getsignal(signal.SIGINT) is signal.default_int_handler
    for name in ("once", "twice", "whole"):
        run_distillation(work, DATA, store, tmp_path / name, resume=True)
    for name in ("once", "twice"):
        assert_same_outcome(tmp_path / name, tmp_path / "whole")


def test_ctrl_c_in_an_iteration_waits_for_its_end(
    store: TrajectoryStore, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    iterate = Distiller.iterate

    def pressed(distiller: Distiller) -> IterationReport:
        interrupt()
        return iterate(distiller)

    monkeypatch.setattr(Distiller, "iterate", pressed)
    with pytest.raises(Interrupted, match="stopped after iteration 1 of 8"):
        run_distillation(recipe(), DATA, store, tmp_path)


def test_ctrl_c_while_experts_train_keeps_the_whole_ones(tmp_path: Path) -> None:
    def on_progress(expert: int, epoch: int, *_: float) -> None:
        if (expert, epoch) == (1, 3):
            interrupt()

    with pytest.raises(Interrupted, match="expert 2 of 3"):
        train_experts(DATA, MODEL, EXPERT, tmp_path, on_progress=on_progress)
    assert TrajectoryStore.open(tmp_path).experts == (0,)
