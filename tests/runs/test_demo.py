"""The demo: stopped in each of its phases and resumed, and extended by `distill --resume`."""

from __future__ import annotations

import json
import shutil
import signal
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from pydistill.cli import main
from pydistill.evaluation import baselines
from pydistill.evaluation.baselines import StoredEvaluator
from pydistill.recipes.recipe import Recipe, load_recipe, preset_path
from pydistill.runs import demo
from pydistill.runs.evaluation import PeriodicEvaluator
from pydistill.trajectories import TrajectoryStore

SMALL = {
    "model.width": 4,
    "model.depth": 1,
    "expert.count": 2,
    "expert.training.epochs": 4,
    "expert.training.batch_size": 512,
    "distill.iterations": 2,
    "distill.steps": 2,
    "distill.expert_epochs": 2,
    "distill.max_start": 2,
    "evaluation.repeats": 1,
    "evaluation.training.epochs": 2,
    "evaluation.full_epochs": 1,
    "evaluation.full_batch_size": 512,
}


@pytest.fixture(autouse=True)
def small(monkeypatch: pytest.MonkeyPatch) -> None:
    def recipe(method: str, seed: int) -> Recipe:
        return load_recipe(preset_path(f"demo/digits-{method}"), SMALL).with_seed(seed)

    monkeypatch.setattr(demo, "demo_recipe", recipe)


def stop(*_: Any, **__: Any) -> None:
    signal.raise_signal(signal.SIGINT)


@pytest.mark.parametrize("command", ["demo", "experts"])
def test_a_disk_that_cannot_hold_the_experts(
    command: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Two networks of 698 numbers, five times each."""
    monkeypatch.setattr(shutil, "disk_usage", lambda place: SimpleNamespace(total=10**9, free=10_000))
    settings = (
        ["--preset", "demo/digits-att", *(f"--{name}={value}" for name, value in SMALL.items())]
        if command == "experts"
        else []
    )
    assert main([command, *settings, "--out", str(tmp_path / "out")]) == 1
    message = capsys.readouterr().err
    assert "27.9 kB" in message
    assert "10 kB" in message
    assert not list(tmp_path.iterdir())


def test_a_demo_that_was_stopped_goes_on(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "my run"
    command = ["demo", "--seed", "3", "--out", str(out), "--quiet"]
    places = [
        (TrajectoryStore, "add"),
        (PeriodicEvaluator, "evaluate"),
        (StoredEvaluator, "kmeans_real"),
    ]
    for owner, name in places:
        with monkeypatch.context() as patched:
            patched.setattr(owner, name, stop)
            assert main([*command, "--resume"]) == 130
        again = f"pydistill demo --method att --seed 3 --out '{out}' --resume"
        assert capsys.readouterr().err.endswith(f"; to continue: {again}\n")
        assert main([*command, "--resume", "--seed", "1"]) == 2
        message = capsys.readouterr().err
        assert "method att and seed 1" in message
        assert "{" not in message
    experts = {path: path.stat().st_mtime_ns for path in (out / "experts").glob("expert*")}
    assert len(experts) == 2
    assert main(command) == 2
    assert "add --resume to continue" in capsys.readouterr().err
    assert main(["demo", "--resume"]) == 2
    assert "--resume needs --out" in capsys.readouterr().err
    assert main([*command, "--resume"]) == 0
    assert {path: path.stat().st_mtime_ns for path in experts} == experts
    for changes in (["--method", "tesla"], ["--seed", "1"]):
        assert main([*command, "--resume", *changes]) == 2

    with monkeypatch.context() as patched:
        patched.setattr(baselines, "evaluate", stop)  # a finished demo trains no baseline again
        assert main([*command, "--resume"]) == 0
    before = json.loads((out / "summary.json").read_text())
    assert before["threads"] == 1
    assert "OMP_NUM_THREADS=1 pydistill distill" in (out / "report.html").read_text(encoding="utf-8")
    longer = ["distill", "--config", str(out / "recipe.json"), "--experts", str(out / "experts"), "--out", str(out)]
    assert main([*longer, "--distill.iterations=3", "--resume", "--quiet"]) == 0
    after = json.loads((out / "summary.json").read_text())
    assert after["iterations"] == 3
    assert after["threads"] == before["threads"]


def test_a_demo_stopped_before_its_first_expert_has_nothing_to_resume(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(demo, "train_and_store", stop)
    assert main(["demo", "--out", str(tmp_path / "run"), "--quiet"]) == 130
    assert capsys.readouterr().err == "pydistill: stopped\n"
