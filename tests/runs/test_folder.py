"""A run folder: what is refused, what a checkpoint and the metrics must hold, and names that are links."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from pydistill._util.files import WriteError
from pydistill._util.layout import (
    CHECKPOINT_NAME,
    CONVEXIFIED_NAME,
    LOCK,
    METRICS_NAME,
    OUTCOMES,
    RESULTS,
    RESULTS_LOCK,
    TENSORBOARD_NAME,
    WANDB_NAME,
)
from pydistill._util.locking import results_writer
from pydistill._util.tensor_file import write_tensors
from pydistill.errors import FormatError, InputError
from pydistill.evaluation.evaluations_file import add_evaluations
from pydistill.runs.folder import CHECKPOINT_FORMAT, CHECKPOINT_KEY, RunFolder
from pydistill.runs.report import write_report
from pydistill.runs.run import run_distillation
from pydistill.trajectories import TrajectoryStore
from tests.helpers.blobs import blobs
from tests.helpers.folder_content import content
from tests.helpers.small_runs import BreakAt, assert_same_outcome, recipe

DATA = blobs()
HEADER: dict[str, Any] = {"config": {}, "distiller": {"iteration": 3}, "evaluations": {}, "seconds": 1.0}


def finished(store: TrajectoryStore, path: Path) -> RunFolder:
    return run_distillation(recipe(iterations=3), DATA, store, path).folder


def refused(store: TrajectoryStore, folder: RunFolder, error: type[Exception], name: str) -> None:
    """Resuming the run is refused by an error that names the file, and nothing is written."""
    before = content(folder.path)
    with pytest.raises(error, match=name):
        run_distillation(recipe(iterations=4), DATA, store, folder.path, resume=True)
    assert content(folder.path) == before


def test_a_folder_with_a_run_is_refused_without_resume(store: TrajectoryStore, tmp_path: Path) -> None:
    folder = finished(store, tmp_path)
    before = content(tmp_path)
    with pytest.raises(InputError):
        run_distillation(recipe(iterations=3), DATA, store, tmp_path)
    folder.metrics_path.unlink()
    with pytest.raises(InputError):
        run_distillation(recipe(iterations=3), DATA, store, tmp_path)
    assert content(tmp_path) == {name: data for name, data in before.items() if name != METRICS_NAME}


@pytest.mark.parametrize("resume", [False, True])
@pytest.mark.parametrize("name", [METRICS_NAME, *OUTCOMES])
def test_results_without_a_checkpoint_are_refused(
    name: str, resume: bool, store: TrajectoryStore, tmp_path: Path
) -> None:
    (tmp_path / name).write_text("a result")
    before = content(tmp_path)
    with pytest.raises(InputError, match=name):
        run_distillation(recipe(iterations=1), DATA, store, tmp_path, resume=resume)
    assert content(tmp_path) == before


@pytest.mark.parametrize("resume", [False, True])
def test_a_run_that_failed_in_its_first_iteration_starts_over(
    resume: bool, store: TrajectoryStore, tmp_path: Path
) -> None:
    """Nothing is lost, so other settings may be tried in the same folder."""
    with pytest.raises(RuntimeError, match="interrupted"):
        run_distillation(recipe(iterations=3, steps=4), DATA, store, tmp_path / "run", callbacks=[BreakAt(1)])
    assert RunFolder(tmp_path / "run").metrics()
    run_distillation(recipe(iterations=3), DATA, store, tmp_path / "run", resume=resume)
    run_distillation(recipe(iterations=3), DATA, store, tmp_path / "undisturbed")
    assert_same_outcome(tmp_path / "run", tmp_path / "undisturbed")


def test_a_lost_or_damaged_checkpoint_is_refused(store: TrajectoryStore, tmp_path: Path) -> None:
    folder = finished(store, tmp_path)
    complete = folder.checkpoint_path.read_bytes()
    for damaged in (b"", b"not a checkpoint", complete[:-100], complete[:-1] + bytes([complete[-1] ^ 1])):
        folder.checkpoint_path.write_bytes(damaged)
        refused(store, folder, FormatError, CHECKPOINT_NAME)
    folder.checkpoint_path.unlink()
    refused(store, folder, InputError, CHECKPOINT_NAME)


@pytest.mark.parametrize("version", [CHECKPOINT_FORMAT - 1, CHECKPOINT_FORMAT + 1])
def test_a_checkpoint_of_another_version_is_refused(version: int, store: TrajectoryStore, tmp_path: Path) -> None:
    folder = finished(store, tmp_path)
    state, tensors = folder.load_checkpoint()
    write_tensors(folder.checkpoint_path, CHECKPOINT_KEY, state | {"format": version}, tensors)
    refused(store, folder, FormatError, f"format {version}")


@pytest.mark.parametrize(
    "change",
    [
        {"distiller": []},
        {"distiller": {"iteration": "3"}},
        {"distiller": {"iteration": 3}},
        {"seconds": None},
        {"config": None},
        {"evaluations": {"best": 1, "last": None}},
        {"evaluations": {}},
    ],
)
def test_a_checkpoint_with_a_wrong_part_is_refused(
    change: dict[str, Any], store: TrajectoryStore, tmp_path: Path
) -> None:
    folder = finished(store, tmp_path)
    state, tensors = folder.load_checkpoint()
    folder.save_checkpoint(state | change, tensors)
    refused(store, folder, FormatError, CHECKPOINT_NAME)


def test_a_checkpoint_without_a_tensor_is_refused(store: TrajectoryStore, tmp_path: Path) -> None:
    folder = finished(store, tmp_path)
    state, tensors = folder.load_checkpoint()
    del tensors["average.images"]
    folder.save_checkpoint(state, tensors)
    refused(store, folder, FormatError, "average")


def lose(file: Path) -> None:
    file.unlink()


def shorten(file: Path) -> None:
    file.write_bytes(b"".join(file.read_bytes().splitlines(keepends=True)[:-1]))


def damage_a_line(file: Path) -> None:
    lines = file.read_bytes().splitlines(keepends=True)
    file.write_bytes(b"".join([lines[0], b'{"event": "iterat\n', *lines[2:], lines[0], lines[0]]))


def shift_the_lines(file: Path) -> None:
    """So that a line ends elsewhere than the checkpoint counts."""
    file.write_bytes(b'{"event": "x", "iteration": 1}\n' + file.read_bytes())


@pytest.mark.parametrize("damage", [lose, shorten, damage_a_line, shift_the_lines])
def test_lost_or_damaged_metrics_are_refused(
    damage: Callable[[Path], None], store: TrajectoryStore, tmp_path: Path
) -> None:
    folder = finished(store, tmp_path)
    damage(folder.metrics_path)
    refused(store, folder, FormatError, METRICS_NAME)


def test_metrics_are_cut_back_to_the_checkpoint(store: TrajectoryStore, tmp_path: Path) -> None:
    folder = finished(store, tmp_path / "run")
    with folder.metrics_path.open("a") as metrics:
        metrics.write('{"event": "guard", "iteration": 4}\n{"event": "gua')
    run_distillation(recipe(iterations=3), DATA, store, folder.path, resume=True)
    finished(store, tmp_path / "undisturbed")
    assert_same_outcome(tmp_path / "run", tmp_path / "undisturbed")


@pytest.mark.parametrize("line", ['{"event": "iterat', "", "\x00\x00", '{"iteration": 1}'])
def test_only_the_last_line_may_lack_its_end(line: str, tmp_path: Path) -> None:
    """It is the one that a killed process was writing."""
    folder = RunFolder(tmp_path)
    lines = [json.dumps({"event": "guard", "iteration": number}) for number in (1, 2, 3)]
    folder.metrics_path.write_text("\n".join([*lines, '{"event": "gua']))
    assert [record["iteration"] for record in folder.metrics()] == [1, 2, 3]
    folder.metrics_path.write_text("\n".join([lines[0], line, *lines[1:]]) + "\n")
    with pytest.raises(FormatError, match="line 2"):
        folder.metrics()


def test_lost_or_damaged_results_do_not_keep_a_run_from_resuming(store: TrajectoryStore, tmp_path: Path) -> None:
    folder = finished(store, tmp_path / "run")
    finished(store, tmp_path / "undisturbed")
    for name in ("best.safetensors", "distilled.safetensors", "config.json", "recipe.json"):
        for change in (lose, lambda file: file.write_text("{")):
            change(folder.path / name)
            run_distillation(recipe(iterations=3), DATA, store, folder.path, resume=True)
            assert content(folder.path)[name] == content(tmp_path / "undisturbed")[name]


def test_a_link_in_place_of_the_metrics_is_not_followed(store: TrajectoryStore, tmp_path: Path) -> None:
    """A run folder from somebody else may hold links to the user's own files."""
    folder = finished(store, tmp_path / "run")
    victim = tmp_path / "victim"
    text = folder.metrics_path.read_text() + "precious\n"
    victim.write_text(text)
    folder.metrics_path.unlink()
    folder.metrics_path.symlink_to(victim)
    with pytest.raises(FormatError):
        run_distillation(recipe(iterations=4), DATA, store, folder.path, resume=True)
    with pytest.raises(WriteError):
        folder.append_metrics({"event": "guard", "iteration": 1})
    with pytest.raises(WriteError):
        folder.save_checkpoint(HEADER, {"images": torch.ones(1)})
    assert victim.read_text() == text


def test_temporary_files_of_killed_writers_are_removed(tmp_path: Path) -> None:
    results = {f".{name}.1234-0123abcd.tmp" for name in RESULTS}
    of_others = {".tmpnEdXCZ.txt", ".notes.txt.1234-0123abcd.tmp", ".config.json.mine.tmp"}
    for name in (".checkpoint.safetensors.1234-0123abcd.tmp", ".wandb.json.1-0123abcd.tmp", ".tmpnEdXCZ"):
        (tmp_path / name).write_text("half")
    for name in results | of_others:
        (tmp_path / name).write_text("half or another's")
    (tmp_path / ".tmpfolder").mkdir()
    (tmp_path / ".tmplinked").symlink_to(tmp_path / ".tmpnEdXCZ.txt")
    stays = {".tmpfolder", ".tmplinked", *of_others}
    with RunFolder(tmp_path).opened():
        # Results have a lock of their own, under which another process may be writing them.
        assert {path.name for path in tmp_path.iterdir()} == {LOCK, *results, *stays}
    with results_writer(tmp_path):
        assert {path.name for path in tmp_path.iterdir()} == {LOCK, RESULTS_LOCK, *stays}


@pytest.mark.parametrize("name", [CONVEXIFIED_NAME, TENSORBOARD_NAME, WANDB_NAME])
def test_a_link_in_place_of_a_folder_of_the_run_is_refused(name: str, tmp_path: Path) -> None:
    (tmp_path / name).symlink_to(tmp_path)
    with pytest.raises(WriteError), RunFolder(tmp_path).opened():
        pass
    assert [path.name for path in tmp_path.iterdir()] == [name]


def test_results_are_written_under_their_lock(store: TrajectoryStore, tmp_path: Path) -> None:
    folder = finished(store, tmp_path / "run")
    leftover = folder.path / ".report.html.1234-0123abcd.tmp"
    for write in (lambda: write_report(folder.path), lambda: add_evaluations(folder.path, [])):
        leftover.write_text("half")
        write()
        assert not leftover.exists()
    leftover.write_text("half")
    write_report(folder.path, tmp_path / "report.html")
    assert leftover.exists()
