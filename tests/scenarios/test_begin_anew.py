"""A run that begins where an earlier one was: whatever that one left is refused, or moved aside whole."""

from __future__ import annotations

import errno
import os
import threading
from pathlib import Path
from typing import Any

import pytest

from pydistill._util.files import WriteError, write_json
from pydistill._util.layout import CHECKPOINT_NAME, EVALUATIONS_LOCK, LOCK, LOGS, METRICS_NAME, OUTCOMES, SETTINGS
from pydistill._util.locking import only_writer
from pydistill.errors import InputError, MismatchError
from pydistill.evaluation.evaluations_file import add_evaluations
from pydistill.runs.folder import MOVING, RunFolder
from pydistill.runs.run import NoCallback, run_distillation
from pydistill.runs.workflow import run_summary, show_run
from pydistill.trajectories import TrajectoryStore
from tests.helpers.blobs import blobs
from tests.helpers.folder_content import content
from tests.helpers.small_runs import BreakAt, assert_same_outcome, experts, recipe

DATA = blobs()
SIX = recipe(iterations=6, evaluate_every=3)
LOCKS = {LOCK, EVALUATIONS_LOCK}


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> TrajectoryStore:
    return experts(tmp_path_factory.mktemp("experts"))


@pytest.fixture
def finished(store: TrajectoryStore, tmp_path: Path) -> Path:
    """A run with all that a run can leave, but its checkpoint."""
    run = tmp_path / "finished"
    result = run_distillation(SIX, DATA, store, run)
    write_json(run / "summary.json", run_summary(SIX, result))
    add_evaluations(run, [result.accuracy_final], set="final", iteration=6)
    show_run(result.folder)
    for name in ("tensorboard", "wandb"):
        (run / name).mkdir()
        (run / name / "events").write_text("as a log writes them")
    (run / "wandb.json").write_text('{"id": "abc"}')
    (run / CHECKPOINT_NAME).unlink()
    return run


def files(folder: Path, *, aside: bool) -> dict[str, bytes]:
    """What a run left, by name: what lies in before-1, 2, … or all but that."""
    found = {}
    for path in folder.rglob("*"):
        parts = path.relative_to(folder).parts
        if path.is_file() and parts[0].startswith("before-") == aside and path.name not in LOCKS:
            found["/".join(parts[1:] if aside else parts)] = path.read_bytes()
    return found


@pytest.mark.parametrize("metrics", ["whole", "damaged", "gone"])
def test_the_earlier_run_is_set_aside_whole(
    metrics: str, store: TrajectoryStore, finished: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """So that nothing in the folder tells of another run, and nothing is lost."""
    if metrics == "damaged":
        (finished / METRICS_NAME).write_text('{"event": "iterat\n' * 3)
    elif metrics == "gone":
        (finished / METRICS_NAME).unlink()
    before = files(finished, aside=False)
    with pytest.raises(RuntimeError, match="broken off"):
        run_distillation(SIX, DATA, store, finished, resume=True, observer=BreakAt(1))
    assert files(finished, aside=True) == before
    assert files(finished, aside=False).keys() == {*SETTINGS, METRICS_NAME}
    names = [name for name in (*LOGS, *OUTCOMES, METRICS_NAME, *SETTINGS) if metrics != "gone" or name != METRICS_NAME]
    told = f"there is no checkpoint.safetensors in {finished} to resume from: the run begins anew at iteration 0, and "
    told += f"what an earlier one left is moved to {finished / 'before-1'} ({', '.join(names)})"
    assert caplog.messages == [told]
    run_distillation(SIX, DATA, store, finished, resume=True)
    run_distillation(SIX, DATA, store, tmp_path / "whole")
    assert_same_outcome(tmp_path / "whole", finished)
    assert not (finished / "before-2").exists()


def test_a_run_without_a_set_is_set_aside_too(
    store: TrajectoryStore, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """As one whose damaged checkpoint was removed before its first evaluation."""
    with pytest.raises(RuntimeError, match="broken off"):
        run_distillation(SIX, DATA, store, tmp_path, observer=BreakAt(2))
    (tmp_path / CHECKPOINT_NAME).unlink()
    before = (tmp_path / METRICS_NAME).read_bytes()
    run_distillation(SIX, DATA, store, tmp_path, resume=True)
    assert (tmp_path / "before-1" / METRICS_NAME).read_bytes() == before
    assert "moved to" in caplog.text


def test_a_run_that_was_stopped_in_its_first_iteration_leaves_nothing(
    store: TrajectoryStore, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """Before the checkpoint behind that: its lines are written again."""
    with pytest.raises(RuntimeError, match="broken off"):
        run_distillation(SIX, DATA, store, tmp_path / "run", observer=BreakAt(1))
    assert (tmp_path / "run" / METRICS_NAME).stat().st_size > 0
    assert not (tmp_path / "run" / CHECKPOINT_NAME).exists()
    with pytest.raises(InputError, match="already holds a run; continue it with --resume"):
        run_distillation(SIX, DATA, store, tmp_path / "run")
    run_distillation(SIX, DATA, store, tmp_path / "run", resume=True)
    run_distillation(SIX, DATA, store, tmp_path / "whole")
    assert_same_outcome(tmp_path / "whole", tmp_path / "run")
    assert not (tmp_path / "run" / "before-1").exists()
    folder = tmp_path / "run"
    assert caplog.messages == [
        f"there is no checkpoint.safetensors in {folder} to resume from: the run begins anew at iteration 0"
    ]


def test_damaged_metrics_alone_are_set_aside(store: TrajectoryStore, tmp_path: Path) -> None:
    (tmp_path / METRICS_NAME).write_text('{"event": "iterat\n' * 3)
    run_distillation(recipe(iterations=1), DATA, store, tmp_path, resume=True)
    assert (tmp_path / "before-1" / METRICS_NAME).read_text() == '{"event": "iterat\n' * 3


def test_a_move_that_breaks_off_anywhere_goes_on(
    store: TrajectoryStore, finished: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The earlier run stays whole: in one folder in the end, and until then its settings are compared."""
    before = files(finished, aside=False)
    rename = Path.replace
    left = 0

    def broken(path: Path, target: Path) -> Path:
        nonlocal left
        if path.parent == finished:  # but not within atomic_path
            if left == 0:
                raise OSError(errno.EIO, os.strerror(errno.EIO))
            left -= 1
        return rename(path, target)

    monkeypatch.setattr(Path, "replace", broken)
    parts = (0, 1, 2, 3, 2, 3)
    assert sum(parts) == len([*LOGS, *OUTCOMES, METRICS_NAME])  # so that the settings and the new name are left
    for moves in parts:
        left = moves
        with pytest.raises(WriteError, match=r"Input/output error; nothing is lost, and --resume goes on with it"):
            run_distillation(SIX, DATA, store, finished, resume=True)
        found = files(finished, aside=False)
        assert {name.removeprefix(f"{MOVING}/"): content for name, content in found.items()} == before
        with pytest.raises(InputError, match="already holds a run"):
            run_distillation(SIX, DATA, store, finished)
        with pytest.raises(MismatchError, match=r"began with distill\.steps = 3, not 4"):
            run_distillation(recipe(iterations=6, evaluate_every=3, steps=4), DATA, store, finished, resume=True)
    left = 2
    with pytest.raises(WriteError, match="Input/output error"):  # only the new name is left
        run_distillation(SIX, DATA, store, finished, resume=True)
    monkeypatch.undo()
    with pytest.raises(InputError, match=r"already holds \.before\.tmp"):
        run_distillation(SIX, DATA, store, finished)
    with pytest.raises(RuntimeError, match="broken off"):
        run_distillation(SIX, DATA, store, finished, resume=True, observer=BreakAt(1))
    assert files(finished, aside=True) == before
    assert [path.name for path in finished.iterdir() if path.is_dir()] == ["before-1"]


def test_a_name_that_is_taken_is_passed_over(store: TrajectoryStore, finished: Path) -> None:
    (finished / "before-1").symlink_to(finished / "nowhere")  # is there, though it leads nowhere
    with pytest.raises(RuntimeError, match="broken off"):
        run_distillation(SIX, DATA, store, finished, resume=True, observer=BreakAt(1))
    assert (finished / "before-2" / "best.safetensors").exists()


def test_who_is_writing_evaluations_is_waited_for(finished: Path) -> None:
    (finished / "evaluations.json").unlink()
    anew = threading.Thread(target=lambda: RunFolder(finished).begin_anew(resume=True))
    with only_writer(finished, name=EVALUATIONS_LOCK):
        anew.start()
        anew.join(0.3)
        assert anew.is_alive()
        assert not (finished / MOVING).exists()
        (finished / "evaluations.json").write_text("[]")
    anew.join()
    assert (finished / "before-1" / "evaluations.json").read_text() == "[]"


@pytest.mark.parametrize("name", [METRICS_NAME, *OUTCOMES])
def test_what_is_in_the_folder_is_not_written_over(name: str, store: TrajectoryStore, tmp_path: Path) -> None:
    """As a set that was imported or copied there, or a picture of somebody's own."""
    (tmp_path / name).write_text("something")
    before = content(tmp_path)
    with pytest.raises(InputError, match=f"already holds {name}; choose another folder, or move it elsewhere"):
        run_distillation(recipe(iterations=1), DATA, store, tmp_path)
    assert content(tmp_path) == before


def test_a_run_that_failed_at_once_is_no_run(store: TrajectoryStore, tmp_path: Path) -> None:
    """Another one, of other settings, may be tried in its folder."""

    class Failing(NoCallback):
        def on_images(self, iteration: int, images: Any) -> None:
            raise RuntimeError("too little memory, say")

    with pytest.raises(RuntimeError, match="too little"):
        run_distillation(recipe(iterations=2), DATA, store, tmp_path, observer=Failing())
    run_distillation(recipe(iterations=1, steps=2), DATA, store, tmp_path)


def test_who_resumes_what_has_not_begun_is_told(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level("INFO", logger="pydistill")
    told = f"there is no checkpoint.safetensors in {tmp_path} to resume from: the run begins at iteration 0"
    for resume, messages in ((True, [told]), (False, [])):
        caplog.clear()
        RunFolder(tmp_path).begin_anew(resume=resume)
        assert caplog.messages == messages


def test_a_run_that_is_refused_removes_nothing_of_an_earlier_one(store: TrajectoryStore, finished: Path) -> None:
    before = content(finished)
    with pytest.raises(MismatchError, match=r"began with distill\.steps = 3, not 4"):
        run_distillation(recipe(iterations=6, evaluate_every=3, steps=4), DATA, store, finished, resume=True)
    assert content(finished) == before
