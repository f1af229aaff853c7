"""`pydistill distill` and `convexify`: the files of a run, resumed and repeated runs, refused folders."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch

from pydistill.artefact.file import Artefact
from pydistill.trajectories import TrajectoryStore
from tests.cli.commands import SMALL, run


def test_convexify_and_mct(experts: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert run("convexify", experts, "--out", tmp_path / "convex", "--waypoints", 3, "--quiet") == 0
    assert "2 convexified experts" in capsys.readouterr().out
    assert TrajectoryStore.open(tmp_path / "convex").kind == "convexified"
    for name, source in (("from-convexified", tmp_path / "convex"), ("from-recorded", experts)):
        changes = ["--distill.method=mct", "--distill.waypoints=3"]
        assert run("distill", *SMALL, *changes, "--experts", source, "--out", tmp_path / name, "--quiet") == 0
    sets = [Artefact.load(tmp_path / name).images for name in ("from-convexified", "from-recorded")]
    assert torch.equal(*sets)


def test_a_finished_run_holds_its_files(finished: Path) -> None:
    names = {path.name for path in finished.iterdir()}
    expected = {"config.json", "metrics.jsonl", "checkpoint.safetensors", "distilled.safetensors", "best.safetensors"}
    assert expected | {"summary.json", "images.png", "curves.png"} <= names
    summary = json.loads((finished / "summary.json").read_text())
    assert len(summary["chosen_steps"]) == 4
    assert len(summary["accuracy_final"]["runs"]) == 2
    for picture in ("images.png", "curves.png"):
        assert (finished / picture).read_bytes().startswith(b"\x89PNG")


def test_resume_adds_iterations(experts: Path, tmp_path: Path) -> None:
    common = [*SMALL, "--experts", experts, "--out", tmp_path / "run", "--quiet"]
    assert run("distill", *common, "--distill.iterations=2") == 0
    assert run("distill", *common, "--distill.iterations=4", "--resume") == 0
    summary = json.loads((tmp_path / "run" / "summary.json").read_text())
    assert summary["iterations"] == 4


def test_a_stored_recipe_repeats_the_run(experts: Path, finished: Path, tmp_path: Path) -> None:
    out = tmp_path / "again"
    assert run("distill", "--config", finished / "recipe.json", "--experts", experts, "--out", out, "--quiet") == 0
    assert torch.equal(Artefact.load(out).images, Artefact.load(finished).images)


def test_a_run_that_fails_before_its_first_iteration_leaves_no_folder(experts: Path, tmp_path: Path) -> None:
    common = [*SMALL, "--experts", experts, "--out", tmp_path / "run", "--quiet"]
    assert run("distill", *common, "--distill.seed=-1") == 2
    assert run("distill", *common, "--distill.max_start=9") == 2
    assert not (tmp_path / "run").exists()
    (tmp_path / "run").mkdir()
    assert run("distill", *common, "--distill.max_start=9") == 2
    assert (tmp_path / "run").exists()  # the user made it
    assert run("distill", *common) == 0


def test_a_file_is_refused_as_run_folder(experts: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "file").write_text("mine")
    assert run("distill", *SMALL, "--experts", experts, "--out", tmp_path / "file") == 2
    assert "is a file, and a run needs a folder" in capsys.readouterr().err
    assert (tmp_path / "file").read_text() == "mine"


@pytest.mark.parametrize("kind", ["a run", "experts", "a log"])
def test_an_unusable_folder_or_logger_is_refused_before_the_data_are_read(
    kind: str,
    finished: Path,
    experts: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    def read(*_: object) -> None:
        raise AssertionError("the data are read")

    monkeypatch.setattr("pydistill.data.load", read)
    monkeypatch.setattr("pydistill.runs.loggers.settings._installed", lambda name: False)
    out = {"a run": finished, "experts": experts, "a log": tmp_path / "new"}[kind]
    log = ["--log.wandb=offline"] if kind == "a log" else []
    assert run("distill", *SMALL, *log, "--experts", experts, "--out", out) == (1 if log else 2)
    message = {
        "a run": "already holds a run",
        "experts": "holds experts; choose another folder for the run",
        "a log": "log.wandb needs the package wandb",
    }[kind]
    assert message in capsys.readouterr().err


def test_experts_of_another_network(experts: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    arguments = [*SMALL, "--model.width=5", "--experts", experts, "--out", tmp_path / "run"]
    assert run("distill", *arguments) == 2
    message = capsys.readouterr().err
    assert "width=4" in message
    assert "width=5" in message
