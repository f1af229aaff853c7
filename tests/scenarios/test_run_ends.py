"""A run that the guard ends: the best set is written, the summary and the exit status say so."""

from __future__ import annotations

import contextlib
import importlib.util
import json
import os
import signal
import sys
from pathlib import Path
from typing import Any

import pytest
import torch

from pydistill._util.files import WriteError
from pydistill.artefact.file import Artefact
from pydistill.distillation.distiller import IterationReport
from pydistill.distillation.guard import Guard, Refusal
from pydistill.errors import DivergedError, Interrupted
from pydistill.runs import folder as runfolder
from pydistill.runs.evaluation import NoCallback, PeriodicEvaluator
from pydistill.runs.folder import RunFolder
from pydistill.runs.loggers import LogSettings
from pydistill.runs.report.contents import read_run
from pydistill.runs.run import RunDivergedError, run_distillation
from pydistill.runs.workflow import distill_and_report
from pydistill.trajectories import TrajectoryStore
from tests.helpers.blobs import blobs
from tests.helpers.small_runs import experts, recipe

DATA = blobs()
NO_LOGS = LogSettings(tensorboard=False)
# The learning rate leaves the positive numbers within a few iterations, and again after every return.
DIVERGING: dict[str, Any] = {"method": "mtt", "lr_lr": 1e6, "max_rejections": 2, "iterations": 40, "snapshot_every": 2}


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> TrajectoryStore:
    return experts(tmp_path_factory.mktemp("experts"))


def ended(store: TrajectoryStore, out: Path, **settings: Any) -> RunDivergedError:
    with pytest.raises(RunDivergedError) as caught:
        run_distillation(recipe(**DIVERGING | settings), DATA, store, out, resume=True)
    return caught.value


def test_without_an_evaluation_the_last_good_set_is_written(store: TrajectoryStore, tmp_path: Path) -> None:
    error = ended(store, tmp_path)
    assert isinstance(error, DivergedError)
    told = str(error)
    assert "3 updates within 1000 iterations had to be rejected" in told
    assert "lower lr_lr (or take lr_form = log, or raise max_lr) and run again" in told
    assert "(the limit is max_rejections = 2)" in told
    assert "distilled.safetensors is the best set of the run, as after iteration " in told
    result = error.result
    assert result.ended_early == told
    artefact = Artefact.load(tmp_path)
    assert torch.equal(artefact.images, result.final.images)
    state, tensors = RunFolder(tmp_path).load_checkpoint()
    assert torch.equal(artefact.images, tensors["images"])
    assert torch.equal(artefact.images, tensors["good.images"])
    assert artefact.lr == float(tensors["good.lr"]) > 0
    good = state["distiller"]["good"]["iteration"]
    assert good == int(told.split()[-1]) < state["distiller"]["iteration"]
    assert artefact.provenance["iteration"] == result.final.provenance["iteration"] == result.best_iteration == good
    assert Artefact.load(tmp_path / "best.safetensors").provenance["iteration"] == good
    lines = RunFolder(tmp_path).metrics()
    assert sum(line["event"] == "guard" for line in lines) == 3
    assert lines[-1]["event"] == "evaluation"
    assert result.accuracy_final.mean == result.accuracy_best.mean == lines[-1]["mean"]


def test_the_set_of_the_best_evaluation_is_written(store: TrajectoryStore, tmp_path: Path) -> None:
    error = ended(store, tmp_path, evaluate_every=1)
    best = Artefact.load(tmp_path / "best.safetensors")
    assert (tmp_path / "distilled.safetensors").read_bytes() == (tmp_path / "best.safetensors").read_bytes()
    means = {line["iteration"]: line["mean"] for line in RunFolder(tmp_path).metrics() if line["event"] == "evaluation"}
    assert best.provenance["iteration"] == error.result.best_iteration == int(str(error).split()[-1])
    assert error.result.accuracy_best.mean == max(means.values())


def test_it_has_ended_for_good_until_more_is_allowed(store: TrajectoryStore, tmp_path: Path) -> None:
    first = ended(store, tmp_path)
    lines = RunFolder(tmp_path).metrics_path.read_bytes()
    again = ended(store, tmp_path)
    assert str(again) == str(first)
    assert RunFolder(tmp_path).metrics_path.read_bytes() == lines
    ended(store, tmp_path, max_rejections=4)
    assert sum(line["event"] == "guard" for line in RunFolder(tmp_path).metrics()) == 5


def test_ctrl_c_in_its_last_evaluation(store: TrajectoryStore, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(PeriodicEvaluator, "evaluation", lambda judge: os.kill(os.getpid(), signal.SIGINT))
    with pytest.raises(Interrupted, match="stopped in the last evaluation of a run that diverged; continue with"):
        run_distillation(recipe(**DIVERGING), DATA, store, tmp_path)
    monkeypatch.undo()
    ended(store, tmp_path)
    assert Artefact.load(tmp_path).lr > 0


def test_the_summary_says_so(store: TrajectoryStore, tmp_path: Path) -> None:
    pytest.importorskip("matplotlib")
    with pytest.raises(RunDivergedError) as caught:
        distill_and_report(DATA, recipe(**DIVERGING), store, tmp_path, resume=False, quiet=True)
    lines = RunFolder(tmp_path).metrics()
    assert sum(line["event"] == "guard" for line in lines) == 3
    summary = json.loads((tmp_path / "summary.json").read_text())
    assert summary["ended_early"] == str(caught.value)
    assert summary["rejected_updates"] == 3
    assert (tmp_path / "images.png").stat().st_size > 1000


def warnings_of(caplog: pytest.LogCaptureFixture) -> list[str]:
    return [record.getMessage() for record in caplog.records if record.name == "pydistill"]


def test_the_report_says_so_where_lines_of_the_metrics_are_lost(store: TrajectoryStore, tmp_path: Path) -> None:
    def diverges(resume: bool) -> int:
        with pytest.raises(RunDivergedError):
            distill_and_report(DATA, recipe(**DIVERGING), store, tmp_path, resume=resume, quiet=True, log=NO_LOGS)
        assert read_run(tmp_path).ended_early
        return int(json.loads((tmp_path / "summary.json").read_text())["iterations"])

    done = diverges(resume=False)
    metrics = tmp_path / "metrics.jsonl"
    metrics.write_text("".join(metrics.read_text().splitlines(keepends=True)[1:]))
    assert diverges(resume=True) == done == RunFolder(tmp_path).load_checkpoint()[0]["distiller"]["iteration"]


def test_without_matplotlib_a_run_is_whole(
    store: TrajectoryStore, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """Pictures are told before the first iteration to be missing; summary and report are there."""
    find_spec = importlib.util.find_spec
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None if name == "matplotlib" else find_spec(name))
    for name in ("matplotlib", "matplotlib.figure"):  # of which an earlier test may have imported the second
        monkeypatch.setitem(sys.modules, name, None)
    distill_and_report(DATA, recipe(iterations=2), store, tmp_path, resume=False, quiet=True, log=NO_LOGS)
    needed = "pictures need matplotlib; install it with: pip install 'pydistill[cli]'"
    assert warnings_of(caplog) == [
        f"{needed}; the run goes on without images.png and curves.png",
        f"a picture is not written ({needed}); the run is whole without",
    ]
    assert json.loads((tmp_path / "summary.json").read_text())["iterations"] == 2
    assert (tmp_path / "report.html").exists()


@pytest.mark.parametrize("diverging", [False, True])
def test_what_only_shows_a_run_does_not_fail_it(
    diverging: bool, store: TrajectoryStore, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    class Damaging(NoCallback):
        def on_iteration(self, report: IterationReport) -> None:
            (tmp_path / "report.html").mkdir(exist_ok=True)

    work = recipe(**DIVERGING) if diverging else recipe(iterations=2)
    with pytest.raises(RunDivergedError) if diverging else contextlib.nullcontext():
        distill_and_report(DATA, work, store, tmp_path, resume=False, quiet=True, log=NO_LOGS, observers=[Damaging()])
    assert any(
        each.startswith("report.html is not written") and "report.html is a folder" in each
        for each in warnings_of(caplog)
    )
    assert (json.loads((tmp_path / "summary.json").read_text())["ended_early"] is not None) == diverging


@pytest.mark.parametrize("diverging", [False, True])
@pytest.mark.parametrize(
    ("content", "told"), [("{", "summary.json is not readable JSON"), ("[]", "is damaged: it holds no JSON object")]
)
def test_a_damaged_summary_is_written_anew(
    content: str, told: str, diverging: bool, store: TrajectoryStore, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    class Damaging(NoCallback):
        def on_iteration(self, report: IterationReport) -> None:
            (tmp_path / "summary.json").write_text(content)

    work = recipe(**DIVERGING) if diverging else recipe(iterations=2)
    with pytest.raises(RunDivergedError) if diverging else contextlib.nullcontext():
        distill_and_report(DATA, work, store, tmp_path, resume=True, quiet=True, log=NO_LOGS, observers=[Damaging()])
    assert any(told in each and "it is written anew" in each for each in warnings_of(caplog))
    assert (json.loads((tmp_path / "summary.json").read_text())["ended_early"] is not None) == diverging


def test_a_run_that_is_continued_reads_its_checkpoint_once(
    store: TrajectoryStore, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """But for its header, which tells how far the bar is; the report is made afterwards."""
    reads: list[str] = []

    def noted(name: str, read: Any) -> Any:
        def reading(file: Path, *given: Any, **more: Any) -> Any:
            reads.append(name)
            return read(file, *given, **more)

        return reading

    settings = recipe(iterations=2)
    distill_and_report(DATA, settings, store, tmp_path, resume=False, quiet=True, log=NO_LOGS)
    for name in ("read_header", "read_tensors"):
        monkeypatch.setattr(runfolder, name, noted(name, getattr(runfolder, name)))
    monkeypatch.setattr("pydistill.runs.workflow.show_run", lambda folder: reads.append("report"))
    distill_and_report(DATA, settings, store, tmp_path, resume=True, quiet=True, log=NO_LOGS)
    assert reads == ["read_header", "read_tensors", "report"]


def test_a_run_that_diverges_keeps_what_a_demo_wrote(
    store: TrajectoryStore, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    distill_and_report(DATA, recipe(iterations=2), store, tmp_path, resume=False, quiet=True, log=NO_LOGS)
    file = tmp_path / "summary.json"
    file.write_text(json.dumps(json.loads(file.read_text()) | {"accuracy_random_real": {"mean": 0.25}}))
    monkeypatch.setattr(Guard, "of_losses", lambda guard, losses: Refusal("loss", "as if"))
    work = recipe(iterations=3, max_rejections=0)
    with pytest.raises(RunDivergedError):
        distill_and_report(DATA, work, store, tmp_path, resume=True, quiet=True, log=NO_LOGS)
    summary = json.loads(file.read_text())
    assert summary["accuracy_random_real"] == {"mean": 0.25}
    assert "lower lr_image or lr_init" in summary["ended_early"]


def test_a_summary_that_cannot_be_written_does_not_hide_the_divergence(
    store: TrajectoryStore, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def full(path: Path, value: Any) -> None:
        raise WriteError(f"cannot write {path}: the disk is full")

    monkeypatch.setattr("pydistill.runs.workflow.write_json", full)
    with pytest.raises(RunDivergedError):
        distill_and_report(DATA, recipe(**DIVERGING), store, tmp_path, resume=False, quiet=True, log=NO_LOGS)
    assert any(each.startswith("summary.json is not written (cannot write") for each in warnings_of(caplog))
    with pytest.raises(WriteError):
        distill_and_report(DATA, recipe(iterations=2), store, tmp_path / "whole", resume=False, quiet=True, log=NO_LOGS)


def test_the_logarithm_stays_above_zero_where_plain_does_not(store: TrajectoryStore, tmp_path: Path) -> None:
    """What the message advises: the same run, its rate translated, ends by itself."""
    work = recipe(**DIVERGING | {"iterations": 8, "lr_form": "log", "lr_lr": 0.1})
    result = run_distillation(work, DATA, store, tmp_path)
    assert result.ended_early is None
    assert 0 < result.final.lr != 0.1
