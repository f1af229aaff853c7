"""The estimated cost of a recipe, and the real cost."""

from __future__ import annotations

import json
import statistics
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from pydistill import data
from pydistill.cli import main
from pydistill.data import DataSettings
from pydistill.errors import InputError, MismatchError
from pydistill.recipes.recipe import Recipe, load_recipe, preset_path
from pydistill.runs import timing
from pydistill.runs.plan import Phase, Plan, plan, table
from pydistill.runs.run import run_distillation
from pydistill.synthesis.decoders import DecoderSettings
from pydistill.training import train as train_module
from pydistill.training.experts import train_experts
from pydistill.trajectories import TrajectoryStore
from tests.helpers.small_runs import EVALUATION, EXPERT, MODEL, recipe

TURNS = 3


@pytest.fixture
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(timing, "BUDGET", 0.05)


def demo(method: str = "att", changes: dict[str, object] | None = None) -> Recipe:
    return load_recipe(preset_path(f"demo/digits-{method}"), changes or {})


def small(**distill: object) -> Recipe:
    """A small recipe on a data set that is not on this machine."""
    return replace(recipe(**distill), data=DataSettings("cifar10"), expert=replace(EXPERT, count=7))


def counts(cost: Plan) -> dict[str, int]:
    return {phase.name: phase.count for phase in cost.phases}


@pytest.mark.parametrize(
    "changes",
    [
        {"initialisation": "correct", "labels": "learned", "label_start": "correct_logits"},
        {"initialisation": "difficulty", "difficulty_start": 500, "ipc": 2, "frozen": 0.5},
        {"initialisation": "file", "start_from": "nowhere"},
        {"method": "progressive", "max_start": None, "expert_epochs": 4},
    ],
    ids=["correct", "difficulty", "file", "progressive"],
)
def test_the_start_needs_no_experts_and_no_set(changes: dict[str, object], quick: None) -> None:
    assert plan(small(**changes)).seconds > 0


@pytest.mark.alone
def test_the_demo_takes_as_long_as_planned(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """By the processor's clock, in turns, with the demo's recipe."""
    monkeypatch.setattr(timing, "perf_counter", time.process_time)
    work = demo(changes={"evaluation.baselines": []})  # which `run_distillation` does not measure
    dataset = data.load(work.data)
    ratios: dict[str, list[float]] = {"experts": [], "run": [], "total": []}
    for turn in range(TURNS):
        cost = plan(work)
        start = time.process_time()
        store = train_experts(dataset, work.model, work.expert, tmp_path / f"experts-{turn}")
        trained = time.process_time()
        run_distillation(work, dataset, store, tmp_path / f"run-{turn}")
        end = time.process_time()
        experts = cost.phases[0].seconds
        ratios["experts"].append(experts / (trained - start))
        ratios["run"].append((cost.seconds - experts) / (end - trained))
        ratios["total"].append(cost.seconds / (end - start))
    assert 0.75 <= statistics.median(ratios["total"]) <= 1.25, ratios
    for part in ("experts", "run"):  # an error of one part must not hide an error of the other
        assert 0.75 <= statistics.median(ratios[part]) <= 1.33, ratios
    written = sum(path.stat().st_size for path in (tmp_path / "experts-0").rglob("*.safetensors"))
    assert cost.disk["experts_recorded"] == pytest.approx(written, rel=0.02)
    written = sum(path.stat().st_size for path in (tmp_path / "run-0").iterdir())
    assert cost.disk["run_folder"] == pytest.approx(written, rel=0.25)


@pytest.mark.slow
def test_the_demo_takes_as_much_memory_as_planned(tmp_path: Path) -> None:
    def command(*words: str) -> dict[str, float]:
        done = subprocess.run([sys.executable, "-m", "pydistill", *words], capture_output=True, text=True, check=True)
        values: dict[str, float] = json.loads(done.stdout)
        return values

    planned = command("plan", "--preset", "demo/digits-att", "--json")["memory"]
    command("experts", "--preset", "demo/digits-att", "--out", str(tmp_path / "experts"), "--quiet", "--json")
    distill = ["distill", "--preset", "demo/digits-att", "--experts", str(tmp_path / "experts")]
    peak = command(*distill, "--out", str(tmp_path / "run"), "--quiet", "--json")["peak_memory_bytes"]
    assert planned == pytest.approx(peak, rel=0.25)


@pytest.mark.usefixtures("quick")
def test_existing_experts_are_measured_and_not_planned(tmp_path: Path) -> None:
    work = demo("mct", {"expert.count": 1})
    store = train_experts(data.load(work.data), work.model, work.expert, tmp_path / "experts")
    assert counts(plan(work, experts=store)) == {
        "convexification": 1,
        "distillation": 150,
        "evaluations": 3,
        "baselines": 4,  # random and kmeans, at two rates each
        "all real data": 5,  # networks
    }
    convexified = store.write_convexified(tmp_path / "convexified")
    written = sum(path.stat().st_size for path in (tmp_path / "convexified").rglob("*.safetensors"))
    cost = plan(work, experts=convexified)
    assert list(counts(cost)) == ["distillation", "evaluations", "baselines", "all real data"]
    assert list(cost.disk) == ["experts_convexified", "run_folder"]
    assert cost.disk["experts_convexified"] == pytest.approx(written, rel=0.02)


@pytest.mark.usefixtures("quick")
def test_experts_of_another_recipe_are_refused(tmp_path: Path) -> None:
    work = demo("mct", {"expert.count": 1})
    store = train_experts(data.load(work.data), work.model, work.expert, tmp_path / "experts")
    convexified = store.write_convexified(tmp_path / "convexified")
    with pytest.raises(MismatchError, match="waypoints"):
        plan(replace(work, distill=replace(work.distill, waypoints=3)), experts=convexified)
    with pytest.raises(MismatchError, match="recorded"):
        plan(demo("att"), experts=convexified)
    with pytest.raises(MismatchError, match="architecture"):
        plan(replace(work, model=MODEL), experts=store)
    with pytest.raises(InputError, match="no expert"):
        plan(work, experts=TrajectoryStore.create(tmp_path / "empty", store.record))


@pytest.mark.usefixtures("quick")
def test_missing_data_are_replaced_by_noise_of_their_shape() -> None:
    cost = plan(small(evaluate_every=3))
    assert counts(cost) == {"experts": 7, "distillation": 8, "evaluations": 3, "baselines": 2}
    assert cost.data == "noise in the shape of cifar10"
    assert cost.memory > 60_000 * 3 * 32 * 32 * 4  # with the real images, which were not made
    assert cost.disk["experts_recorded"] == 7 * 7 * cost.parameters * 4
    assert cost.as_dict()["seconds"] == pytest.approx(sum(phase.seconds for phase in cost.phases))


@pytest.mark.usefixtures("quick")
def test_both_passes_of_flat_experts_are_measured(monkeypatch: pytest.MonkeyPatch) -> None:
    passes = []
    gradients_for = train_module.gradients_for

    def counted(*arguments: Any, **options: Any) -> Any:
        gradients = gradients_for(*arguments, **options)
        gradient = gradients.gradient
        gradients.gradient = lambda *batch: (passes.append(1), gradient(*batch))[1]  # type: ignore[method-assign]
        return gradients

    monkeypatch.setattr(train_module, "gradients_for", counted)
    experts, all_real = [], []
    for sharpness in (None, {}):
        work = demo(changes={"expert.training.sharpness": sharpness})
        probe = timing.CostProbe(work, work.model, data.load(work.data), 1000, 100)
        for measured, measure in ((experts, probe.expert), (all_real, probe.all_real)):
            passes.clear()
            measure()
            measured.append(len(passes))
    assert experts[1] == 2 * experts[0] > 0
    assert all_real[1] == all_real[0] > 0  # the baseline's training has no sharpness


@pytest.mark.usefixtures("quick")
def test_soft_labels_and_a_long_student(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(timing, "BUDGET", 1e-6)
    cost = plan(small(method="mct", labels="learned", steps=40, experts_per_step=2))
    assert list(counts(cost)) == ["experts", "convexification", "distillation", "evaluations", "baselines"]


def test_an_invalid_recipe_is_refused() -> None:
    with pytest.raises(InputError, match="epoch"):
        plan(small(max_start=9))
    with pytest.raises(InputError, match="depth"):
        plan(replace(demo(), evaluation=replace(EVALUATION, models=("convnet7",))))
    with pytest.raises(InputError, match=r"data\.path"):
        plan(replace(small(), data=DataSettings("folder")))


@pytest.mark.parametrize(
    "flags",
    [
        ["--distill.max_start=9"],
        ["--expert.training.epochs=3", "--distill.max_start=3"],
        ["--distill.min_start=0.5"],
        ["--distill.expert_epochs=1.5"],
        ["--distill.method=mct", "--distill.waypoints=9"],
        ["--distill.method=mttt"],
        ["--distill.steps=0"],
        ["--model.name=convnt"],
        ["--evaluation.models=[nowhere:net]"],
    ],
)
@pytest.mark.parametrize("command", [["plan"], ["distill", "--experts=experts", "--out=run"]], ids=["plan", "distill"])
def test_an_invalid_recipe_is_refused_before_the_data_are_read(
    command: list[str],
    flags: list[str],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    small_experts = ["--model.width=4", "--model.depth=1", "--expert.count=1", "--distill.max_start=2"]
    four = "--expert.training.epochs=4"
    monkeypatch.chdir(tmp_path)
    if command[0] == "distill":
        epochs = [flag for flag in (four, *flags) if flag.startswith("--expert.training")]
        assert main(["experts", *small_experts, *epochs, "--out", "experts", "--quiet"]) == 0

    def read(*_: object) -> None:
        raise AssertionError("the data are read")

    monkeypatch.setattr(data, "load", read)
    assert main([*command, *small_experts, four, *flags]) == 2
    assert capsys.readouterr().err.count("\n") == 1
    assert not (tmp_path / "run").exists()


@pytest.mark.usefixtures("quick")
def test_the_command(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    flags = ["--data.name=cifar10", "--model.width=4", "--model.depth=1", "--expert.training.epochs=4"]
    flags += ["--distill.method=mtt", "--distill.steps=3", "--evaluation.training.epochs=3", "--evaluation.repeats=1"]
    flags += ["--expert.training.batch_size=16", "--expert.training.dsa=null"]
    assert main(["plan", *flags, "--json"]) == 0
    cost = json.loads(capsys.readouterr().out)
    assert [phase["name"] for phase in cost["phases"]] == ["experts", "distillation", "evaluations", "baselines"]
    assert cost["seconds"] > 0
    assert cost["title"] == "mtt on cifar10, 1 per class"
    assert main(["plan", *flags, "--experts", str(tmp_path)]) == 2


def test_the_table() -> None:
    phases = (Phase("distillation", 0.5, 240),)
    cost = Plan("att on x", "mlp()", 8, "H200", 2, "fused", "x", phases, {"run_folder": 10}, 9, 10**9, ())
    lines = table(cost).splitlines()
    assert "measured on H200, backend fused; data: x" in lines
    assert lines[4].split() == ["distillation", "500", "ms", "240", "2", "min"]
    assert lines[-1].split() == ["peak", "memory", "of", "the", "GPU", "1", "GB"]


def test_a_decoder_s_images_are_measured_and_its_fit_is_planned(quick: None) -> None:
    """16 images of a class in the storage of one: an iteration with all of them costs more."""
    pixels, upsampled = plan(small()), plan(small(decoder=DecoderSettings("upsample", factor=4)))
    seconds = [{phase.name: phase.seconds_each for phase in cost.phases} for cost in (pixels, upsampled)]
    assert seconds[1]["distillation"] > 3 * seconds[0]["distillation"]
    assert "fit of the codes" not in seconds[1]
    assert upsampled.disk["run_folder"] == pytest.approx(pixels.disk["run_folder"], rel=0.1)
    fitted = plan(small(decoder=DecoderSettings("siren"), optimiser="adam"))
    assert {phase.name: phase.seconds for phase in fitted.phases}["fit of the codes"] > 0
