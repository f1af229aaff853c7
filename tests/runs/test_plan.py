"""What a recipe will cost, against what it then costs."""

from __future__ import annotations

import json
import os
import statistics
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

import pydistill
from pydistill import data
from pydistill._util.memory import peak_memory
from pydistill.cli import main
from pydistill.data import DataSettings
from pydistill.errors import InputError, MismatchError, MissingDependencyError
from pydistill.evaluation.evaluate import EvaluationSettings
from pydistill.recipes.recipe import Recipe, load_recipe, preset_path
from pydistill.runs import timing as rehearsal
from pydistill.runs.folder import RunFolder
from pydistill.runs.plan import Phase, Plan, plan, table
from pydistill.runs.run import run_distillation
from pydistill.runs.timing import CostProbe
from pydistill.runs.workflow import draw_run, show_run
from pydistill.training.experts import train_experts
from pydistill.trajectories import TrajectoryStore
from tests.helpers.blobs import blobs
from tests.helpers.small_runs import EVALUATION, EXPERT, MODEL, experts, recipe

TURNS = 3


AFTER = ["distillation", "evaluations", "checkpoints", "report"]


@pytest.fixture(autouse=True)
def quick(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    """Short measurements, and no process that only loads modules."""
    monkeypatch.setattr(rehearsal, "BUDGET", 0.1)
    if "starts" not in request.fixturenames:
        monkeypatch.setattr("pydistill.runs.plan.starting", lambda reading: rehearsal.Measured(reading, "not measured"))


@pytest.fixture
def starts() -> None:
    """For a test of what starting takes."""


def demo(method: str = "att") -> Recipe:
    """The demo's recipe with one expert, two networks an evaluation, and fewer iterations."""
    changes = ["--expert.count=1", "--distill.iterations=30", "--distill.evaluate_every=15", "--evaluation.repeats=2"]
    return load_recipe(preset_path(f"demo/digits-{method}"), changes)


def small(**distill: object) -> Recipe:
    return replace(recipe(**distill), data=DataSettings("cifar10"), expert=replace(EXPERT, count=7))


def seconds(found: Plan) -> dict[str, float]:
    return {phase.name: phase.seconds for phase in found.phases}


def test_the_demo_takes_what_was_planned(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Planned and run in turn, by the processor's clock: what else the machine does has little part in it."""
    monkeypatch.setattr(rehearsal, "BUDGET", 0.3)
    work = demo()
    dataset = data.load(work.data)
    ratios: dict[str, list[float]] = {"experts": [], "run": [], "all": []}
    clock = time.process_time
    for turn in range(TURNS):
        found = plan(work, clock=clock)
        began = clock()
        store = train_experts(dataset, work.model, work.expert, tmp_path / f"experts-{turn}")
        trained = clock()
        with peak_memory("cpu") as peak:
            run_distillation(work, dataset, store, tmp_path / f"run-{turn}")
        ended = clock()
        planned = seconds(found)
        ratios["experts"].append(planned["experts"] / (trained - began))
        work_planned = found.seconds - planned["starting"] - planned["report"]  # this run writes none
        ratios["run"].append((work_planned - planned["experts"]) / (ended - trained))
        ratios["all"].append(work_planned / (ended - began))
    assert 0.75 <= statistics.median(ratios["all"]) <= 1.25, ratios
    for part in ("experts", "run"):  # no error of one part may hide that of another
        assert 0.75 <= statistics.median(ratios[part]) <= 1.33, ratios
    assert 0.75 <= found.memory / peak.resident <= 1.25
    written = sum(path.stat().st_size for path in (tmp_path / "experts-0").rglob("*.safetensors"))
    assert written == pytest.approx(found.disk["experts_recorded"], rel=0.02)
    show_run(RunFolder(tmp_path / "run-0"))
    kept = sum(path.stat().st_size for path in (tmp_path / "run-0").iterdir() if path.is_file())
    assert kept == pytest.approx(found.disk["run_folder"], rel=0.25)


@pytest.mark.alone
@pytest.mark.slow
def test_the_whole_demo_takes_what_was_planned_by_the_clock_on_the_wall(tmp_path: Path) -> None:
    """The two commands as they are, in turn, from their beginnings to their ends, each by its quickest turn.

    What else the machine does only adds to a turn. The demo's comparisons with real data, which no plan counts, are
    taken off by its own account.
    """
    planned: list[float] = []
    taken: list[float] = []
    for turn in range(TURNS):
        planned.append(json.loads(_command("plan", "--preset", "demo/digits-att", "--json")[0])["seconds"])
        told, seconds = _command("demo", "--out", str(tmp_path / f"demo-{turn}"), "--quiet", "--json")
        taken.append(seconds - json.loads(told)["seconds"]["references"])
    assert 0.75 <= min(planned) / min(taken) <= 1.25, (planned, taken)


def _command(*words: str) -> tuple[str, float]:
    """What the command prints, and how long it takes."""
    began = time.perf_counter()
    done = subprocess.run([sys.executable, "-m", "pydistill", *words], capture_output=True, text=True, check=True)
    return done.stdout, time.perf_counter() - began


class Clock:
    """A clock that stands still but for what it is told to have taken."""

    def __init__(self) -> None:
        self.seconds = 0.0

    def __call__(self) -> float:
        return self.seconds


def test_starting_is_loading_the_modules_and_reading_the_data(starts: None, monkeypatch: pytest.MonkeyPatch) -> None:
    clock = Clock()
    loaded: list[list[str]] = []
    run, real = subprocess.run, data.load

    def loads(words: list[str], **settings: Any) -> None:
        loaded.append(words)
        clock.seconds += 4.0

    def slowly(settings: DataSettings, device: torch.device) -> data.Dataset:
        clock.seconds += 3.0
        return real(settings, device)

    monkeypatch.setattr(rehearsal.subprocess, "run", loads)
    monkeypatch.setattr(rehearsal.time, "perf_counter", clock)
    assert rehearsal.starting(reading=1.0).seconds == 5.0
    ((python, _, script),) = loaded
    monkeypatch.setattr("pydistill.runs.plan.data.load", slowly)
    for name, reading in (("digits", 3.0), ("cifar10", 0.0)):  # data that are not here are not read
        found = plan(replace(small(), data=DataSettings(name)), clock=clock).phases[0]
        assert (found.name, found.count, found.seconds_each) == ("starting", 1, 4.0 + reading)
    # From wherever it is run, and without being installed.
    elsewhere = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}
    done = run([python, "-c", f"{script}; print(pydistill.__file__)"], cwd="/", env=elsewhere, capture_output=True)
    assert done.stdout.decode().strip() == pydistill.__file__


def test_data_that_are_decoded_for_the_first_time_are_read_as_the_run_will(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    clock, real = Clock(), data.load

    def first_decodes(settings: DataSettings, device: torch.device) -> data.Dataset:
        found = real(settings, device)
        entry = tmp_path / "cache" / "data" / "decoded"
        clock.seconds += 2.0 if entry.exists() else 70.0
        entry.parent.mkdir(parents=True, exist_ok=True)
        entry.touch()
        return found

    monkeypatch.setattr("pydistill.runs.plan.data.load", first_decodes)
    work = replace(small(), data=DataSettings("digits", cache=str(tmp_path / "cache")))
    for _ in range(2):
        assert plan(work, clock=clock).phases[0].seconds_each == 2.0


@pytest.mark.parametrize("python", ["", None, "/nowhere/python", "/bin/false"])
def test_a_python_that_cannot_be_started_is_told(python: str | None, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "executable", python)
    found = rehearsal.starting(reading=1.0)
    assert found.seconds == 1.0
    assert "measured reading the data alone, since no other Python could be started" in found.how


def test_the_report_of_as_long_a_run_is_measured(monkeypatch: pytest.MonkeyPatch) -> None:
    seen: list[tuple[int, int, set[str]]] = []

    def drawn(folder: RunFolder) -> list[Path]:
        made = draw_run(folder)
        metrics = folder.metrics()
        count = {kind: sum(line["event"] == kind for line in metrics) for kind in ("iteration", "evaluation")}
        seen.append((count["iteration"], count["evaluation"], {path.name for path in folder.path.iterdir()}))
        time.sleep(0.3)
        return made

    monkeypatch.setattr(rehearsal, "draw_run", drawn)
    found = plan(small(iterations=1200, evaluate_every=500)).phases[-1]
    ((iterations, evaluations, files),) = seen
    assert (iterations, evaluations) == (1200, 3)
    assert files >= {"report.html", "images.png", "curves.png", "distilled.safetensors", "best.safetensors"}
    assert (found.name, found.count) == ("report", 1)
    assert found.seconds_each >= 0.3
    monkeypatch.setitem(sys.modules, "matplotlib.figure", None)
    how = plan(small()).phases[-1].how
    assert "iterations, without pictures, which cannot be made here (pictures need matplotlib; install it with: " in how


def test_a_report_that_cannot_be_made_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    """A run warns of it and is whole without."""

    def broken(*given: object) -> list[Path]:
        raise ValueError("\nthe font cache is damaged\nand so on")

    def lacking(*given: object) -> Path:
        raise MissingDependencyError("reports need a package; install it")

    monkeypatch.setattr(rehearsal, "draw_run", broken)
    how = plan(small()).phases[-1].how
    assert "iterations, without pictures, which cannot be made here (the font cache is damaged), in the" in how
    for failing, told in ((broken, "the font cache is damaged"), (lacking, "reports need a package; install it")):
        monkeypatch.setattr(rehearsal, "write_report", failing)
        how = plan(small()).phases[-1].how
        assert f"iterations, without report.html, which cannot be made here ({told}), without pictures" in how


def test_experts_that_are_there_are_measured_with(tmp_path: Path) -> None:
    work = demo("mct")
    dataset = data.load(work.data)
    store = train_experts(dataset, work.model, work.expert, tmp_path / "experts")
    found = plan(work, experts=store)
    assert list(seconds(found)) == ["starting", "convexification", *AFTER]
    convexified = store.write_convexified(tmp_path / "convexified")
    written = sum(path.stat().st_size for path in (tmp_path / "convexified").rglob("*.safetensors"))
    assert written == pytest.approx(found.disk["experts_convexified"], rel=0.02)
    found = plan(work, experts=convexified)
    assert list(seconds(found)) == ["starting", *AFTER]
    assert list(found.disk) == ["experts_convexified", "run_folder"]
    asked = replace(work, distill=replace(work.distill, waypoints=3))
    with pytest.raises(MismatchError, match=r"are convexified with waypoints = .* and this run asks for"):
        plan(asked, experts=convexified)
    found = plan(demo("att"), experts=store)
    assert "were gone back on average" in found.phases[1].how
    assert not any("--experts" in note for note in found.notes)
    with pytest.raises(MismatchError, match=r"uses recorded trajectories and .*convexified holds convexified ones"):
        plan(demo("att"), experts=convexified)
    with pytest.raises(InputError, match=r"there is no expert in .*empty yet; train some"):
        plan(work, experts=TrajectoryStore.create(tmp_path / "empty", store.record))
    with pytest.raises(MismatchError, match="architecture is"):
        plan(replace(work, model=MODEL), experts=store)


def test_data_that_are_not_there_are_made_up() -> None:
    found = plan(small(evaluate_every=3))
    assert [(phase.name, phase.count) for phase in found.phases] == [
        ("starting", 1),
        ("experts", 7),
        ("distillation", 8),
        ("evaluations", 3),
        ("checkpoints", 1 + 3 + 3),
        ("report", 1),
    ]
    assert "made up in the shape of cifar10" in found.data
    assert found.memory > 60_000 * 3 * 32 * 32 * 4  # the recipe's own images, though they were not made
    assert found.disk["experts_recorded"] == 7 * 7 * found.parameters * 4
    assert "scaled to 6 epochs of 50,000" in found.phases[1].how
    assert found.as_dict()["seconds"] == pytest.approx(sum(seconds(found).values()))


def test_an_expert_costs_its_epochs_its_tests_and_its_writing(monkeypatch: pytest.MonkeyPatch) -> None:
    """60 epochs of 2 s; 61 tests of 10,000 images and one of the 50,000 at 1 ms each; 3 s of writing; of 7 experts."""
    monkeypatch.setattr(CostProbe, "_epoch", lambda self, training: (2.0, "measured"))
    monkeypatch.setattr(CostProbe, "_accuracy", lambda self, pictures, labels: 1e-3)
    monkeypatch.setattr(CostProbe, "_written", lambda self: 3.0)
    work = small()
    longer = replace(work.expert, training=replace(work.expert.training, epochs=60))
    found = plan(replace(work, expert=longer))
    assert found.phases[1].seconds_each == pytest.approx(60 * 2 + 61 * 10 + 50 + 3)
    assert found.phases[1].seconds == pytest.approx(7 * found.phases[1].seconds_each)
    assert found.disk["experts_recorded"] == 7 * 61 * found.parameters * 4


@pytest.mark.parametrize(("at_once", "rounds"), [(1, 5), (2, 3), (3, 2), (4, 2), (5, 1), (8, 1)])
def test_networks_train_in_rounds(at_once: int, rounds: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """A round takes 2 s an epoch however many networks are in it, as on a GPU; tests take no time."""
    now = 0.0

    def trained(images: Any, labels: Any, lr: Any, dataset: Any, network: Any, settings: EvaluationSettings) -> None:
        nonlocal now
        now += 2.0 * settings.training.epochs

    monkeypatch.setattr(rehearsal, "evaluate", trained)
    monkeypatch.setattr(CostProbe, "_accuracy", lambda self, pictures, labels: 0.0)
    monkeypatch.setattr(CostProbe, "now", lambda self: now)
    protocol = replace(EVALUATION, repeats=5, at_once=at_once, training=replace(EVALUATION.training, epochs=100))
    dataset = blobs()
    work = CostProbe(replace(recipe(), evaluation=protocol), MODEL, dataset, (8, 8), time.perf_counter)
    assert work.evaluation(dataset.test_images, dataset.test_labels).seconds == pytest.approx(rounds * 2 * 100)


@pytest.mark.parametrize(("iterations", "evaluate_every", "checkpoint_every"), [(8, 3, 2), (8, 0, 3), (6, 2, 3)])
def test_checkpoints_are_counted_and_measured(
    iterations: int, evaluate_every: int, checkpoint_every: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As many as a run writes, each as long as writing one takes."""
    work = recipe(iterations=iterations, evaluate_every=evaluate_every, checkpoint_every=checkpoint_every)
    written: list[Path] = []
    real = RunFolder.save_checkpoint

    def slow(self: RunFolder, state: dict[str, Any], tensors: dict[str, torch.Tensor]) -> None:
        written.append(self.path)
        time.sleep(0.05)
        real(self, state, tensors)

    monkeypatch.setattr(RunFolder, "save_checkpoint", slow)
    found = plan(replace(work, data=DataSettings("digits"))).phases[-2]
    written.clear()
    run_distillation(work, blobs(), experts(tmp_path / "experts"), tmp_path / "run")
    assert (found.name, found.count) == ("checkpoints", len(written))
    assert found.seconds_each >= 0.05


def test_what_a_run_would_refuse_is_refused() -> None:
    with pytest.raises(InputError, match="but the expert trajectories end at epoch 6"):
        plan(small(max_start=9))
    tiny = replace(demo(), evaluation=replace(EVALUATION, models=("convnet7",)))
    with pytest.raises(InputError, match=r"convnet7|depth"):
        plan(tiny)
    with pytest.raises(InputError, match=r"data\.name=folder needs data\.path"):
        plan(replace(small(), data=DataSettings("folder")))


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        (["--distill.max_start=9"], "reach up to epoch 10, but the expert trajectories end at epoch 4"),
        (["--expert.training.epochs=3", "--distill.max_start=3"], "but the expert trajectories end at epoch 3"),
        (["--distill.min_start=0.5"], "min_start = 0.5 must be a whole epoch"),
        (["--distill.expert_epochs=1.5"], "length M = 1.5 must be a whole number of epochs"),
        (["--distill.method=mct", "--distill.waypoints=9"], "waypoints = 9 must be 2 to 5"),
        (["--distill.method=datm"], "datm"),
        (["--distill.steps=0"], "steps must be at least 1"),
        (["--model.name=convnt"], "there is no network 'convnt'"),
        (["--evaluation.models=[nowhere:net]"], "the network 'nowhere:net' cannot be imported"),
    ],
)
@pytest.mark.parametrize("command", [["plan"], ["distill", "--experts=experts", "--out=run"]], ids=["plan", "distill"])
def test_what_the_recipe_alone_tells_is_told_before_the_data_are_read(
    command: list[str],
    flags: list[str],
    message: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    small = ["--model.width=4", "--model.depth=1", "--expert.count=1", "--distill.max_start=2"]
    four = "--expert.training.epochs=4"
    monkeypatch.chdir(tmp_path)
    if command[0] == "distill":
        epochs = [flag for flag in (four, *flags) if flag.startswith("--expert.training")]
        assert main(["experts", *small, *epochs, "--out", "experts", "--quiet"]) == 0

    def read(*_: object) -> None:
        raise AssertionError("the data are read")

    monkeypatch.setattr(data, "load", read)
    assert main([*command, *small, four, *flags]) == 2
    told = capsys.readouterr().err
    assert message in told
    assert told.count("\n") == 1
    assert not (tmp_path / "run").exists()


def test_soft_labels_and_a_long_student(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(rehearsal, "BUDGET", 1e-6)
    work = small(method="mct", labels="learned", steps=40, experts_per_step=2)
    found = plan(replace(work, evaluation=replace(EVALUATION, repeats=3)))
    assert "iterations of 2 student steps; scaled to 40" in found.phases[3].how
    assert "scaled to 3 networks" in found.phases[4].how


def test_the_command(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    flags = ["--data.name=cifar10", "--model.width=4", "--model.depth=1", "--expert.training.epochs=4"]
    flags += ["--distill.method=mtt", "--distill.steps=3", "--evaluation.training.epochs=3", "--evaluation.repeats=1"]
    flags += ["--expert.training.batch_size=16", "--expert.training.dsa=null"]
    assert main(["plan", *flags, "--json"]) == 0
    told = json.loads(capsys.readouterr().out)
    assert [phase["name"] for phase in told["phases"]] == ["starting", "experts", *AFTER]
    assert told["seconds"] > 0
    assert told["title"] == "mtt on cifar10, 1 per class"
    assert main(["plan", *flags, "--experts", str(tmp_path)]) != 0
    assert "Traceback" not in capsys.readouterr().err


def test_the_table_names_the_gpu_where_there_is_one() -> None:
    phases = (Phase("distillation", "iteration", 0.5, 240, "measured 3 iterations"),)
    found = Plan("att on x", "mlp()", 8, "H200", 2, "fused", "x as it is", phases, {"run_folder": 10}, 9, 10**9, ())
    lines = table(found).splitlines()
    assert "measured on H200, backend fused; data: x as it is" in lines
    assert lines[4].split() == ["distillation", "500", "ms", "240", "2", "min"]
    assert "memory of the GPU               1 GB" in lines
