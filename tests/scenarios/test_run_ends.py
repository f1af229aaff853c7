"""A run that the guard ends: its best set is written, and the summary says so. What only shows a run cannot fail it."""

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
from pydistill.errors import DivergedError, Interrupted
from pydistill.runs.callbacks import RunCallback
from pydistill.runs.evaluation import PeriodicEvaluator
from pydistill.runs.folder import RunFolder
from pydistill.runs.loggers import LogSettings
from pydistill.runs.run import RunDivergedError, run_distillation
from pydistill.runs.workflow import distill_and_report
from pydistill.trajectories import TrajectoryStore
from tests.helpers.blobs import blobs
from tests.helpers.small_runs import recipe

DATA = blobs()
NO_LOGS = LogSettings(tensorboard=False)
# The learning rate leaves the positive numbers within a few iterations, and again after every return.
DIVERGING: dict[str, Any] = {"method": "mtt", "lr_lr": 1e6, "max_rejections": 2, "iterations": 40, "snapshot_every": 2}


def ended(store: TrajectoryStore, out: Path, **settings: Any) -> RunDivergedError:
    with pytest.raises(RunDivergedError) as caught:
        run_distillation(recipe(**DIVERGING | settings), DATA, store, out, resume=True)
    return caught.value


def test_without_an_evaluation_the_last_good_set_is_written(store: TrajectoryStore, tmp_path: Path) -> None:
    error = ended(store, tmp_path)
    assert isinstance(error, DivergedError)
    message = str(error)
    assert "lower lr_lr" in message
    assert "max_rejections = 2" in message
    result = error.result
    assert result.ended_early == message
    artefact = Artefact.load(tmp_path)
    assert torch.equal(artefact.images, result.final.images)
    state, tensors = RunFolder(tmp_path).load_checkpoint()
    assert torch.equal(artefact.images, tensors["images"])
    assert torch.equal(artefact.images, tensors["good.images"])
    assert artefact.lr == float(tensors["good.lr"]) > 0
    good = state["distiller"]["good"]["iteration"]
    assert good == int(message.split()[-1]) < state["distiller"]["iteration"]
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
    monkeypatch.setattr(PeriodicEvaluator, "evaluate", lambda evaluator: os.kill(os.getpid(), signal.SIGINT))
    with pytest.raises(Interrupted, match="last evaluation"):
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


@pytest.mark.parametrize("diverging", [False, True])
def test_pictures_and_report_cannot_fail_a_run(
    diverging: bool,
    store: TrajectoryStore,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    """Here matplotlib is missing, and a folder is in the report's place."""

    class Obstruct(RunCallback):
        def on_iteration(self, report: IterationReport) -> None:
            (tmp_path / "report.html").mkdir(exist_ok=True)

    find_spec = importlib.util.find_spec
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None if name == "matplotlib" else find_spec(name))
    for name in ("matplotlib", "matplotlib.figure"):
        monkeypatch.setitem(sys.modules, name, None)
    work = recipe(**DIVERGING) if diverging else recipe(iterations=2)
    with pytest.raises(RunDivergedError) if diverging else contextlib.nullcontext():
        distill_and_report(DATA, work, store, tmp_path, resume=False, quiet=True, log=NO_LOGS, callbacks=[Obstruct()])
    warnings = [record.getMessage() for record in caplog.records if record.name == "pydistill"]
    assert "report.html" in warnings[-2]
    assert "images.png" in warnings[-1]
    assert (json.loads((tmp_path / "summary.json").read_text())["ended_early"] is not None) == diverging


def test_a_summary_that_cannot_be_written_is_an_error(
    store: TrajectoryStore, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Of a run that diverged too, whose divergence is the error's context; resuming the run reports it again."""

    def full(path: Path, value: Any) -> None:
        raise WriteError(f"cannot write {path}: the disk is full")

    monkeypatch.setattr("pydistill.runs.workflow.write_json", full)
    with pytest.raises(WriteError):
        distill_and_report(DATA, recipe(iterations=2), store, tmp_path / "one", resume=False, quiet=True, log=NO_LOGS)
    with pytest.raises(WriteError) as caught:
        distill_and_report(DATA, recipe(**DIVERGING), store, tmp_path / "two", resume=False, quiet=True, log=NO_LOGS)
    assert isinstance(caught.value.__context__, RunDivergedError)
    monkeypatch.undo()
    with pytest.raises(RunDivergedError):
        distill_and_report(DATA, recipe(**DIVERGING), store, tmp_path / "two", resume=True, quiet=True, log=NO_LOGS)


def test_the_logarithm_stays_above_zero_where_plain_does_not(store: TrajectoryStore, tmp_path: Path) -> None:
    """As the message advises: the same run, its rate converted, reaches its last iteration."""
    work = recipe(**DIVERGING | {"iterations": 8, "lr_form": "log", "lr_lr": 0.1})
    result = run_distillation(work, DATA, store, tmp_path)
    assert result.ended_early is None
    assert 0 < result.final.lr != 0.1
