"""The pictures of a run, finished or not, and where they go."""

from __future__ import annotations

import json
import logging
import shutil
from pathlib import Path

import pytest
import torch

from pydistill.artefact.file import Artefact
from pydistill.cli import main
from pydistill.runs import workflow as commands
from pydistill.runs.folder import RunFolder
from pydistill.runs.loggers import LogSettings
from tests.helpers.blobs import blobs
from tests.helpers.small_runs import experts, recipe


def run(*arguments: object) -> int:
    return main([str(each) for each in arguments])


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("show")
    store = experts(folder / "experts")
    no_logs = LogSettings(tensorboard=False)
    commands.distill_and_report(blobs(), recipe(), store, folder / "run", resume=False, quiet=True, log=no_logs)
    return folder / "run"


@pytest.fixture
def stopped(finished: Path, tmp_path: Path) -> Path:
    """A run of which the checkpoint and the best set are there, and the end is not."""
    run = tmp_path / "stopped"
    run.mkdir()
    for name in ("metrics.jsonl", "recipe.json", "config.json", "checkpoint.safetensors", "best.safetensors"):
        shutil.copyfile(finished / name, run / name)
    begun = json.loads((run / "recipe.json").read_text())
    begun["distill"]["iterations"] = 12
    (run / "recipe.json").write_text(json.dumps(begun))
    return run


@pytest.mark.parametrize("of", ["checkpoint", "checkpoint without a set", "best set", "newest set"])
def test_show_draws_a_run_that_is_not_finished(
    of: str, stopped: Path, finished: Path, capsys: pytest.CaptureFixture[str], caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO)
    if of.startswith("checkpoint"):
        state, tensors = RunFolder(stopped).load_checkpoint()
        state["distiller"]["iteration"] = 9
        RunFolder(stopped).save_checkpoint(state, tensors)
    if of == "checkpoint without a set":
        (stopped / "best.safetensors").unlink()
    if of == "newest set":
        shutil.copyfile(finished / "distilled.safetensors", stopped / "distilled.safetensors")
    assert run("show", stopped) == 0
    assert capsys.readouterr().out.split() == [str(stopped / "images.png"), str(stopped / "curves.png")]
    after = 9 if of.startswith("checkpoint") else 8
    name = of.removesuffix(" without a set")
    told = (
        f"the images are those of the {name}, after iteration {after}, of the run in {stopped}, which is not finished"
    )
    assert caplog.messages[0] == told
    assert len(caplog.messages) == (2 if of == "checkpoint without a set" else 1)
    for picture in ("images.png", "curves.png"):
        assert (stopped / picture).read_bytes().startswith(b"\x89PNG")


def test_show_draws_without_a_damaged_checkpoint(stopped: Path, caplog: pytest.LogCaptureFixture) -> None:
    (stopped / "checkpoint.safetensors").write_bytes(b"no checkpoint")
    assert run("show", stopped) == 0
    assert caplog.messages[0].endswith("checkpoint.safetensors is damaged; it is left out")
    (stopped / "best.safetensors").unlink()
    assert run("show", stopped) == 2


def test_show_draws_a_finished_run_whose_set_is_gone(
    stopped: Path, finished: Path, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO)
    shutil.copyfile(finished / "recipe.json", stopped / "recipe.json")
    assert run("show", stopped) == 0
    assert caplog.messages[0].endswith(f"of the run in {stopped}, whose distilled.safetensors is gone")


def test_show_of_a_finished_run_draws_its_set(
    finished: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO)
    drawn: list[Artefact] = []
    figure = commands.images_figure
    monkeypatch.setattr(commands, "images_figure", lambda artefact: drawn.append(artefact) or figure(artefact))
    assert run("show", finished) == 0
    assert torch.equal(drawn[0].images, Artefact.load(finished / "distilled.safetensors").images)
    assert not caplog.messages


def test_where_the_pictures_of_show_go(finished: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    content = (finished / "images.png").read_bytes()
    (finished / "images.png").write_bytes(content[:-1])  # so that it would be seen if it were written
    out = tmp_path / "some" / "pictures"
    for _ in range(2):  # its own pictures are drawn again
        assert run("show", finished, "--out", out, "--json") == 0
        assert json.loads(capsys.readouterr().out) == {"pictures": [str(out / "images.png"), str(out / "curves.png")]}
    assert sorted(path.name for path in out.iterdir()) == ["curves.png", "images.png"]
    assert (finished / "images.png").read_bytes() == content[:-1]
    (finished / "images.png").write_bytes(content)
    for name in ("images.png", "curves.png"):
        other = tmp_path / name.removesuffix(".png")
        other.mkdir()
        (other / name).write_bytes(b"\x89PNG of a holiday")
        assert run("show", finished, "--out", other) == 2
        told = capsys.readouterr().err
        assert f"{other / name} is there already and is no picture of pydistill's; choose another folder" in told
        assert [path.read_bytes() for path in other.iterdir()] == [b"\x89PNG of a holiday"]
    assert run("show", finished, "--out", tmp_path / "images" / "images.png") == 2
    assert "choose by --out another folder, as none can be made there" in capsys.readouterr().err


def test_show_names_its_flag_for_a_folder_that_cannot_be_written(
    finished: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def refused(path: Path, *_: object, **__: object) -> None:
        raise PermissionError(13, "Permission denied", str(path))

    monkeypatch.setattr(Path, "touch", refused)
    assert run("show", finished) == 1
    told = capsys.readouterr().err
    assert told.endswith(
        f"cannot write {finished}/curves.png: Permission denied; choose by --out a folder that may be written; "
        "what was there before is unchanged\n"
    )
