"""`pydistill distill` and `convexify`: the files of a run, resumed and repeated runs, refused folders."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import torch

from pydistill.artefact.file import Artefact
from pydistill.recipes.recipe import load_recipe, preset_path
from pydistill.trajectories import TrajectoryStore
from tests.cli.commands import SMALL, run
from tests.docs.doc_commands import make_pictures


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


SHORT = ["--model.width=4", "--expert.count=2", "--expert.training.epochs=8", "--distill.iterations=2"]
SHORT += ["--distill.steps=2", "--distill.evaluate_every=0", "--evaluation.repeats=1", "--evaluation.training.epochs=2"]


def table_file(folder: Path) -> Path:
    labels = np.arange(24) % 2
    rows = (0.2 * np.random.default_rng(0).random((24, 3, 1, 1)) + 0.5 * labels[:, None, None, None]).astype("float32")
    arrays = {"train_images": rows[:16], "train_labels": labels[:16], "test_images": rows[16:]}
    np.savez(folder / "rows of mine.npz", **arrays, test_labels=labels[16:])
    return folder / "rows of mine.npz"


def test_one_command_distils_a_folder_of_pictures(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    make_pictures(tmp_path / "my photos", classes=2)
    monkeypatch.chdir(tmp_path)
    assert run("distill", "my photos", "--ipc", 2, *SHORT, "--model.depth=3", "--quiet") == 0
    assert "final accuracy" in capsys.readouterr().out
    out = tmp_path / "my-photos-att-ipc2"
    stored = json.loads((out / "recipe.json").read_text())
    quick = load_recipe(preset_path("quick/images"))
    assert stored["data"] | {"path": None} == quick.as_dict()["data"]
    assert stored["distill"]["ipc"] == 2
    assert stored["distill"]["lr_image"] == quick.distill.lr_image
    assert len(TrajectoryStore.open(out / "experts")) == 2
    assert {"report.html", "summary.json", "baselines.json"} <= {path.name for path in out.iterdir()}
    before = (out / "distilled.safetensors").read_bytes()
    assert run("distill", "my photos", "--ipc", 2, *SHORT, "--model.depth=3", "--quiet") == 2
    assert "already holds a run; add --resume" in capsys.readouterr().err
    assert run("distill", "my photos", "--ipc", 2, *SHORT, "--model.depth=3", "--quiet", "--resume") == 0
    assert (out / "distilled.safetensors").read_bytes() == before


def test_one_command_distils_a_table(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    assert run("distill", table_file(tmp_path), *SHORT, "--out", "run", "--quiet") == 0
    stored = json.loads((tmp_path / "run" / "recipe.json").read_text())
    assert stored["model"]["name"] == "mlp"
    assert stored["data"]["name"] == "tensors"
    assert [stored["expert"]["training"]["dsa"], stored["distill"]["dsa"]] == [None, None]


def test_a_preset_or_file_replaces_the_quick_settings(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert run("distill", "photos", "--preset", "demo/digits-att", "--print_config") == 0
    shown = capsys.readouterr().out
    assert "path: photos" in shown
    assert "name: digits" in shown
    assert run("distill", "x.npz", "--print_config", "--distill.ipc=3", "--ipc=2") == 0
    shown = capsys.readouterr().out
    assert "name: tensors" in shown
    assert "image_size: null" in shown
    assert "ipc: 3" in shown


def test_settings_that_do_not_fit_are_refused_before_experts_are_trained(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    make_pictures(tmp_path / "photos", classes=2)
    assert run("distill", tmp_path / "photos", "--out", tmp_path / "run", "--distill.max_start=19", "--quiet") == 2
    assert "--distill.max_start" in capsys.readouterr().err
    assert not (tmp_path / "run").exists()
