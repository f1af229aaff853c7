"""The pictures of finished and stopped runs, and the folder they are written to."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest

from pydistill.cli import main
from pydistill.runs.folder import RunFolder
from pydistill.runs.loggers import LogSettings
from pydistill.runs.report.contents import read_run
from pydistill.runs.report.pictures import newest_images
from pydistill.runs.workflow import distill_and_report
from tests.helpers.blobs import blobs
from tests.helpers.small_runs import experts, recipe

pytest.importorskip("matplotlib")
pytestmark = pytest.mark.usefixtures("curves")


def show(*arguments: object) -> int:
    return main(["show", *map(str, arguments)])


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("show")
    store = experts(folder / "experts")
    no_logs = LogSettings(tensorboard=False)
    distill_and_report(blobs(), recipe(), store, folder / "run", resume=False, quiet=True, log=no_logs)
    return folder / "run"


@pytest.fixture
def stopped(finished: Path, tmp_path: Path) -> Path:
    """A run that was stopped after iteration 9 of 12; its last evaluation was after iteration 8."""
    run = tmp_path / "stopped"
    run.mkdir()
    for name in ("metrics.jsonl", "recipe.json", "config.json", "checkpoint.safetensors", "best.safetensors"):
        shutil.copyfile(finished / name, run / name)
    longer = json.loads((run / "recipe.json").read_text())
    longer["distill"]["iterations"] = 12
    (run / "recipe.json").write_text(json.dumps(longer))
    state, tensors = RunFolder(run).load_checkpoint()
    state["distiller"]["iteration"] = 9
    RunFolder(run).save_checkpoint(state, tensors)
    return run


def title(run: Path) -> str:
    """The title of the newest images."""
    return str(newest_images(read_run(run)).axes[-1].get_title())


def test_a_finished_run_shows_its_set(finished: Path) -> None:
    assert title(finished) == "after: distilled, 256 numbers, 1.02 kB"


def test_a_stopped_run_shows_its_checkpoint(stopped: Path) -> None:
    assert title(stopped) == "after iteration 9"
    (stopped / "best.safetensors").unlink()
    assert title(stopped) == "after iteration 9 (colours scaled to the range of all pixels)"


def test_a_stopped_run_without_a_checkpoint_shows_its_best_set(stopped: Path) -> None:
    (stopped / "checkpoint.safetensors").unlink()
    assert title(stopped) == "after: the best set"
    assert show(stopped) == 0
    (stopped / "best.safetensors").unlink()
    assert show(stopped) == 2


def test_the_command_writes_two_pictures(stopped: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert show(stopped) == 0
    assert capsys.readouterr().out.split() == [str(stopped / "images.png"), str(stopped / "curves.png")]
    for picture in ("images.png", "curves.png"):
        assert (stopped / picture).read_bytes().startswith(b"\x89PNG")


def test_pictures_go_to_another_folder(finished: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    before = (finished / "images.png").stat().st_mtime_ns
    out = tmp_path / "some" / "pictures"
    for _ in range(2):  # the second time replaces the pictures
        assert show(finished, "--out", out, "--json") == 0
        assert json.loads(capsys.readouterr().out) == {"pictures": [str(out / "images.png"), str(out / "curves.png")]}
    assert sorted(path.name for path in out.iterdir()) == ["curves.png", "images.png"]
    assert (finished / "images.png").stat().st_mtime_ns == before
    assert show(finished, "--out", out / "images.png") == 2


@pytest.mark.parametrize("name", ["images.png", "curves.png"])
def test_other_pictures_are_not_replaced(name: str, finished: Path, tmp_path: Path) -> None:
    (tmp_path / name).write_bytes(b"\x89PNG of a holiday")
    assert show(finished, "--out", tmp_path) == 2
    assert [path.read_bytes() for path in tmp_path.iterdir()] == [b"\x89PNG of a holiday"]


def test_a_picture_that_cannot_be_written(finished: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refused(path: Path, *_: object, **__: object) -> None:
        raise PermissionError(13, "Permission denied", str(path))

    monkeypatch.setattr(Path, "touch", refused)
    assert show(finished) == 1


def test_show_draws_again(finished: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (finished / "images.png").unlink()
    assert show(finished) == 0
    assert "images.png" in capsys.readouterr().out
    assert (finished / "images.png").exists()
