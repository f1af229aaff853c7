"""The report of a run of which files are gone or damaged: made of what is there, and at one with the run's summary."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from pydistill.cli import main
from pydistill.errors import FormatError
from pydistill.evaluation.evaluate import Evaluation
from pydistill.evaluation.evaluations_file import add_evaluations, read_evaluations
from pydistill.runs.folder import RunFolder
from pydistill.runs.loggers import LogSettings
from pydistill.runs.report import write_report
from pydistill.runs.run import NoCallback
from pydistill.runs.workflow import distill_and_report
from pydistill.trajectories import TrajectoryStore
from tests.helpers.blobs import blobs
from tests.helpers.small_runs import BreakAt, experts, recipe
from tests.runs.test_report import Page

DATA = blobs(channels=3)
WORK = recipe(evaluate_every=2)
MEANS = (0.3, 0.9, 0.5, 0.7)  # after iterations 2, 4, 6 and 8
SETS = ("distilled.safetensors", "best.safetensors")


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> TrajectoryStore:
    return experts(tmp_path_factory.mktemp("experts"), DATA)


@pytest.fixture
def known(monkeypatch: pytest.MonkeyPatch) -> None:
    """Evaluations are as MEANS tells, one after the other."""
    means = iter(MEANS)
    monkeypatch.setattr("pydistill.runs.evaluation.evaluate", lambda *given: Evaluation("mlp", (next(means),), 1.0))


def distil(store: TrajectoryStore, run: Path, *observers: NoCallback) -> None:
    log = LogSettings(tensorboard=False)
    distill_and_report(DATA, WORK, store, run, resume=True, quiet=True, log=log, observers=observers)


@pytest.fixture
def broken(store: TrajectoryStore, tmp_path: Path, known: None) -> Path:
    """A run that broke off after iteration 7, with a checkpoint after iteration 6."""
    with pytest.raises(RuntimeError, match="broken off"):
        distil(store, tmp_path / "run", BreakAt(7))
    return tmp_path / "run"


@pytest.fixture
def finished(store: TrajectoryStore, broken: Path) -> Path:
    distil(store, broken)
    add_evaluations(broken, [Evaluation("mlp-w9", (0.25,), 1.5)], which="final", iteration=8, epochs=3, seed=0)
    return broken


def text(run: Path) -> str:
    return Page(write_report(run).read_text(encoding="utf-8")).text


def cut(file: Path) -> None:
    file.write_bytes(file.read_bytes()[: file.stat().st_size // 2])


def test_a_best_set_that_was_lost_counts_no_more(broken: Path, store: TrajectoryStore) -> None:
    assert "best accuracy, at 490.0 %" in text(broken)
    (broken / "best.safetensors").unlink()
    distil(store, broken)
    told = json.loads((broken / "summary.json").read_text())["accuracy_best"]
    assert (told["iteration"], told["mean"]) == (8, 0.7)
    assert "best accuracy, at 870.0 %" in text(broken)
    for name in ("summary.json", "checkpoint.safetensors"):  # each of the others tells it as well
        cut(broken / name)
        assert "best accuracy, at 870.0 %" in text(broken)
    (broken / "best.safetensors").unlink()
    assert "best accuracy, at 490.0 %" in text(broken)  # of the metrics, which are all there is


def test_an_evaluation_behind_the_checkpoint_counts(broken: Path) -> None:
    """Its set is the best that is saved, although the process ended before the checkpoint that knows of it."""
    record = Evaluation("mlp", (0.95,), 1.0).as_record()
    with (broken / "metrics.jsonl").open("a") as metrics:
        metrics.write(json.dumps({"event": "evaluation", "iteration": 7} | record) + "\n")
    assert "best accuracy, at 795.0 %" in text(broken)


def test_metrics_that_were_lost_are_told(broken: Path, store: TrajectoryStore) -> None:
    (broken / "metrics.jsonl").unlink()
    distil(store, broken)
    lost = "metrics.jsonl lacks 6 of 8 iterations: curves and times are of what is there."
    for name in ("", "summary.json"):
        if name:
            (broken / name).unlink()
        found = text(broken)
        assert "best accuracy, at 490.0 %" in found
        assert "final accuracy70.0 %" in found
        assert "8 of 8" in found
        assert found.count(lost) == 1
        assert "every update was finite" not in found


def test_whole_metrics_lack_nothing(finished: Path) -> None:
    assert "lacks" not in text(finished)


@pytest.mark.parametrize("name", SETS)
@pytest.mark.parametrize("end", [False, True])
def test_a_damaged_set_is_told_and_left_out(
    name: str, end: bool, broken: Path, store: TrajectoryStore, caplog: pytest.LogCaptureFixture
) -> None:
    if end:
        distil(store, broken)
    file = broken / name
    file.write_bytes((broken / "best.safetensors").read_bytes()[:200])
    caplog.clear()
    assert main(["report", str(broken)]) == 0
    found = Page((broken / "report.html").read_text(encoding="utf-8"))
    assert len(found.of("img")) == 2 * 4
    assert f"after iteration {8 if end else 6}" in found.text
    assert ("SHA-256 of" in found.text) == (end and name == "best.safetensors")
    remedy = (
        "pydistill distill … --resume writes it again"
        if name == "distilled.safetensors"
        else "put the run's own back, or move it elsewhere and go on with pydistill distill … --resume"
    )
    assert caplog.messages == [f"{file} is damaged; {remedy}; it is left out"]


@pytest.mark.parametrize(
    ("name", "remedy", "without"),
    [
        ("summary.json", "pydistill distill … --resume writes it again", "peak memory of the process"),
        ("recipe.json", "pydistill distill … --resume writes it again", ""),
        ("config.json", "put the run's own back", ""),  # the checkpoint has a copy
        ("evaluations.json", "it is not a list of evaluations; remove it and evaluate again", "mlp-w9"),
    ],
)
@pytest.mark.parametrize("content", ["{", "3", "\x80"])
def test_a_damaged_side_file_is_told_and_left_out(
    name: str, remedy: str, without: str, content: str, finished: Path, caplog: pytest.LogCaptureFixture
) -> None:
    assert without in text(finished)
    (finished / name).write_text(content, encoding="latin-1")
    caplog.clear()
    assert main(["report", str(finished)]) == 0
    found = Page((finished / "report.html").read_text(encoding="utf-8")).text
    assert not without or without not in found
    assert "blobs by ATT, 1 image per class" in found
    assert "8 of 8" in found
    told = f"{finished / name} is damaged{':' if name == 'evaluations.json' else ';'} {remedy}"
    assert caplog.messages == [f"{told}; it is left out"]


def test_the_recipe_is_also_in_the_sets(finished: Path) -> None:
    for name in ("recipe.json", "config.json"):
        cut(finished / name)
    found = text(finished)
    assert "blobs by ATT, 1 image per class" in found
    assert "8 of 8" in found
    checkpoint = (finished / "checkpoint.safetensors").read_bytes()
    (finished / "checkpoint.safetensors").unlink()
    assert "8 of 8" in text(finished)
    for name in SETS:
        cut(finished / name)
    (finished / "checkpoint.safetensors").write_bytes(checkpoint)  # with a copy of the configuration
    found = text(finished)
    assert "8 of 8" in found
    assert "experts' digest" in found
    assert "finished" in found
    (finished / "checkpoint.safetensors").unlink()
    found = text(finished)  # nothing tells what was asked for
    assert "A distillation" in found
    assert "iterations8learned" in found


def test_damaged_evaluations_are_not_written_over(finished: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (finished / "evaluations.json").write_text("{")
    told = "evaluations.json is damaged: it is not a list of evaluations; remove it and evaluate again"
    assert main(["evaluate", str(finished)]) == 1
    assert told in capsys.readouterr().err
    for use in (read_evaluations, lambda run: add_evaluations(run, [Evaluation("mlp", (0.5,), 1.0)])):
        with pytest.raises(FormatError, match=told):
            use(finished)
    assert (finished / "evaluations.json").read_text() == "{"


@pytest.mark.parametrize("name", ["checkpoint.safetensors", *SETS])
def test_a_folder_without_metrics_is_a_run(name: str, finished: Path, caplog: pytest.LogCaptureFixture) -> None:
    for other in {"checkpoint.safetensors", "metrics.jsonl", *SETS} - {name}:
        (finished / other).unlink()
    caplog.clear()
    found = text(finished)
    assert "finished" in found
    assert "8 of 8" in found
    assert "metrics.jsonl lacks 8 of 8 iterations" in found
    assert "final accuracy70.0 %" in found
    assert "best accuracy, at 490.0 %" in found
    gone = f"{finished / 'metrics.jsonl'} is gone; put the run's own back; "
    assert caplog.messages == [f"{gone}its curves and times are left out"]


@pytest.mark.parametrize(
    ("alone", "done", "last"), [("checkpoint.safetensors", 6, "650.0 %"), ("best.safetensors", 4, "490.0 %")]
)
def test_a_run_that_goes_on_without_metrics(alone: str, done: int, last: str, broken: Path) -> None:
    for name in {"checkpoint.safetensors", "metrics.jsonl", "best.safetensors"} - {alone}:
        (broken / name).unlink()
    found = text(broken)
    assert f"in progress: iteration {done} of 8" in found
    assert f"accuracy at {last}" in found
    assert "best accuracy, at 490.0 %" in found
    assert f"metrics.jsonl lacks {done} of {done} iterations" in found


def test_files_of_an_earlier_end_tell_nothing_of_a_run_that_was_put_back(finished: Path) -> None:
    """To an earlier checkpoint: its summary and its sets are of later iterations."""
    folder = RunFolder(finished)
    state, tensors = folder.load_checkpoint()
    judge = {"best": None, "last": None}
    folder.rewind_metrics(3, None)
    folder.save_checkpoint(state | {"distiller": state["distiller"] | {"iteration": 3}, "judge": judge}, tensors)
    found = text(finished)
    assert "3 of 8" in found
    assert "final accuracy" not in found
    assert "finished" not in found
    rate = next(line["lr"] for line in folder.metrics() if line["event"] == "iteration" and line["iteration"] == 3)
    assert f"learned α{rate:.4g}" in found


@pytest.mark.parametrize("count", [9, 10**30, "8", True, None])
def test_a_summary_of_more_iterations_than_there_are_is_not_believed(count: object, finished: Path) -> None:
    summary = json.loads((finished / "summary.json").read_text())
    (finished / "summary.json").write_text(json.dumps(summary | {"iterations": count}))
    assert "8 of 8" in text(finished)
    (finished / "checkpoint.safetensors").unlink()
    assert "8 of 8" in text(finished)


def test_the_learning_rate_is_that_of_the_last_iteration_or_not_told(finished: Path) -> None:
    folder = RunFolder(finished)
    lines = folder.metrics()
    rates = {line["iteration"]: line["lr"] for line in lines if line["event"] == "iteration"}
    folder.rewind_metrics(3, None)
    assert f"learned α{rates[8]:.4g}" in text(finished)  # of the set and of the summary
    for name in (*SETS, "summary.json"):
        (finished / name).unlink()
    found = text(finished)
    assert "8 of 8" in found
    assert "learned α" not in found
