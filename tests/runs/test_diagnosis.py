"""The diagnosis of a run: every finding, provoked by a small run, and none about the demo's."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

import pydistill
from pydistill._util.settings import keyword_of
from pydistill.cli import main
from pydistill.data import DsaSettings
from pydistill.evaluation.evaluate import Evaluation
from pydistill.recipes.recipe import Recipe
from pydistill.runs import diagnosis
from pydistill.runs.demo import demo_recipe
from pydistill.runs.diagnosis import Finding, findings_in
from pydistill.runs.report import write_report
from pydistill.runs.report.contents import read_run
from pydistill.runs.workflow import distill_and_report, train_and_store
from pydistill.trajectories import TrajectoryStore
from tests.helpers.blobs import blobs
from tests.helpers.small_runs import experts as small_experts
from tests.helpers.small_runs import recipe

DATA = blobs()
# With images that stay, so that the course of the run is that of its settings.
STILL = {"iterations": 10, "lr_image": 0.0, "lr_lr": 1e-9}


@pytest.fixture(scope="module")
def experts(tmp_path_factory: pytest.TempPathFactory) -> TrajectoryStore:
    return small_experts(tmp_path_factory.mktemp("experts") / "experts", DATA)


def findings(settings: Recipe, store: TrajectoryStore, out: Path) -> list[Finding]:
    distill_and_report(DATA, settings, store, out, resume=False, quiet=True)
    return findings_in(json.loads((out / "summary.json").read_text()))


def with_epochs(settings: Recipe, epochs: int) -> Recipe:
    evaluation = settings.evaluation
    return replace(settings, evaluation=replace(evaluation, training=replace(evaluation.training, epochs=epochs)))


@pytest.mark.parametrize(
    ("settings", "what", "names"),
    [
        (
            {"steps": 12, "lr_init": 0.2},
            "set {distill.steps} to 4, which is 3 times faster",
            ("distill.lr_init", "distill.steps"),
        ),
        ({"steps": 3, "lr_init": 0.01}, "is the last, 3,", ("distill.steps", "distill.lr_init")),
        ({"method": "mtt", "steps": 12, "lr_init": 0.5}, "the matching loss is", ("distill.lr_init", "distill.steps")),
        ({}, "α has moved from 0.1 to 0.1 only in 10 iterations", ("distill.lr_lr",)),
        (
            {"method": "mtt", "steps": 12, "lr_form": "clamped", "lr_init": 0.5, "lr_min": 0.499, "lr_lr": 0.1},
            "α has fallen to its least value, 0.499",
            ("distill.lr_lr", "distill.lr_min"),
        ),
        (
            {"max_lr": 1.01},
            "updates beyond 0.101 are rejected",
            ("distill.lr_lr", "distill.max_lr"),
        ),
        ({}, "no better than 4 random real images", ("distill.iterations", "distill.lr_image")),
        ({"dsa": DsaSettings()}, "experts: none, distillation: color_crop_cutout_flip_scale_rotate", ("dsa",)),
        ({"steps": 30}, "the 1 update of an evaluation are worth", ("evaluation.training.epochs",)),
    ],
)
def test_a_run_provokes_its_finding(
    settings: dict[str, Any], what: str, names: tuple[str, ...], experts: TrajectoryStore, tmp_path: Path
) -> None:
    epochs = 1 if "evaluation" in what else 20
    found = findings(with_epochs(recipe(**STILL | settings), epochs), experts, tmp_path / "run")
    [finding] = [finding for finding in found if what in finding.what + finding.remedy]
    assert finding.settings == names
    assert "{" not in finding.sentence()
    assert all(f"--{name}" in finding.sentence("--{}".format) for name in names)


@pytest.mark.parametrize(
    ("lr", "epochs", "what"), [(1e-6, 6, "always answering one class gives 25.0 %"), (0.02, 3, "since epoch 2 of 3")]
)
def test_weak_experts_provoke_their_finding(
    lr: float, epochs: int, what: str, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    pydistill.train_experts(DATA, "convnet2-w4", lr=lr, epochs=epochs, batch_size=16, count=3, dsa=None, out=tmp_path)
    found = diagnosis.diagnose_experts(TrajectoryStore.open(tmp_path), diagnosis.chance_of(DATA))
    assert [what in finding.what for finding in found] == [True]
    assert [found[0].sentence(keyword_of)] == [record.getMessage() for record in caplog.records]
    assert "expert." not in caplog.text


def test_imported_experts_without_accuracies_are_not_judged(experts: TrajectoryStore, tmp_path: Path) -> None:
    store = TrajectoryStore.create(tmp_path, experts.record)
    store.add(0, torch.stack([experts[0].point(epoch) for epoch in range(7)]), {})
    assert diagnosis.diagnose_experts(store, 0.25) == []


def test_a_short_run_and_equal_settings_are_silent(experts: TrajectoryStore, tmp_path: Path) -> None:
    settings = with_epochs(recipe(iterations=9, lr_image=0.0, lr_lr=0.0), 60)
    settings = replace(settings, evaluation=replace(settings.evaluation, baselines=()))
    assert findings(settings, experts, tmp_path / "run") == []


@pytest.mark.parametrize("method", ["att", "mct"])
def test_the_demo_is_healthy(method: str, demo_experts: Path, tmp_path: Path) -> None:
    settings = demo_recipe(method, 0)
    settings = replace(settings, evaluation=replace(settings.evaluation, repeats=2, baselines=("random",)))
    data = pydistill.data.load(settings.data)
    store = TrajectoryStore.open(demo_experts)
    result = distill_and_report(data, settings, store, tmp_path / "run", resume=False, quiet=True)
    assert result.accuracy_final.mean > 0.8
    assert findings_in(json.loads((tmp_path / "run" / "summary.json").read_text())) == []


@pytest.fixture(scope="module")
def demo_experts(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The demo's experts, which are the same for every method."""
    out = tmp_path_factory.mktemp("demo") / "experts"
    settings = demo_recipe("att", 0)
    train_and_store(pydistill.data.load(settings.data), settings, out, quiet=True)
    return out


def test_the_command_the_report_and_python_print_the_findings(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    flags = ["--model.width=4", "--model.depth=1", "--expert.count=2", "--expert.training.lr=1e-9", "--quiet"]
    flags += ["--expert.training.epochs=4", "--dsa.strategy=none", "--distill.iterations=10", "--distill.steps=2"]
    flags += ["--distill.evaluate_every=0", "--evaluation.repeats=1", "--evaluation.training.epochs=3"]
    where, out = str(tmp_path / "experts"), tmp_path / "run"
    assert main(["experts", *flags, "--out", where]) == 0
    chance = "- the experts' test accuracy is"
    assert chance in capsys.readouterr().out
    assert main(["distill", *flags, "--experts", where, "--out", str(out)]) == 0
    printed = capsys.readouterr().out
    summary = json.loads((out / "summary.json").read_text())
    assert chance in printed
    assert [f"- {finding.sentence('--{}'.format)}" for finding in findings_in(summary)] == [
        line for line in printed.splitlines() if line.startswith("- ")
    ]
    assert "--distill.lr_lr" in printed
    text = write_report(out).read_text(encoding="utf-8")
    assert text.index("<h2>Diagnosis</h2>") < text.index("<h2>Images</h2>")
    assert text.count("<li>") == len(summary["findings"]) >= 2


def test_python_has_the_findings(experts: TrajectoryStore, tmp_path: Path) -> None:
    result = pydistill.distill(
        DATA,
        experts,
        iterations=10,
        steps=3,
        lr_init=0.01,
        lr_lr=1e-9,
        evaluation={"repeats": 1, "epochs": 20},
        out=tmp_path / "run",
    )
    assert any(sentence.endswith("raise steps, for example to 6, or lr_init.") for sentence in result.findings)
    assert repr(result).endswith(f", {len(result.findings)} findings)")


@pytest.mark.parametrize("damage", [3, [3], [{"what": "x"}], [{"what": 1, "numbers": {}, "remedy": "x"}]])
def test_damaged_findings_leave_the_summary_out(damage: Any, experts: TrajectoryStore, tmp_path: Path) -> None:
    out = tmp_path / "run"
    findings(recipe(iterations=1), experts, out)
    summary = json.loads((out / "summary.json").read_text())
    (out / "summary.json").write_text(json.dumps(summary | {"findings": damage}))
    run = read_run(out)
    assert run.findings == []
    assert "summary.json is damaged" in run.problems[0]


OWN = Evaluation("net", (0.5, 0.6), 1.0, protocol="p")


@pytest.mark.parametrize(
    ("name", "accuracies", "model", "protocol", "found"),
    [
        ("4 random real images", (0.39, 0.41), "net", "p", False),
        ("4 random real images", (0.49, 0.51), "net", "p", True),
        ("4 k-means real images", (0.3, 0.7), "net", "p", True),
        ("4 k-means real images", (0.9,), "other", "p", False),
        ("4 k-means real images", (0.9,), "net", "q", False),
        ("all 48 real images", (0.9,), "net", "p", False),
    ],
)
def test_sets_are_compared_with_as_many_real_images_within_the_spread(
    name: str, accuracies: tuple[float, ...], model: str, protocol: str, found: bool
) -> None:
    row = (name, Evaluation(model, accuracies, 1.0, protocol=protocol))
    assert (diagnosis.no_better(OWN, [row]) is not None) == found


def test_limits_of_the_steps() -> None:
    assert diagnosis.early_step([1] * 9 + [15], 4) is not None  # nine tenths at 1: two steps of four are enough
    assert diagnosis.early_step([1] * 8 + [15] * 2, 4) is None
    assert diagnosis.early_step([1] * 10, 3) is None
    assert diagnosis.last_step([3] * 9 + [2], 3, [0.1]) is not None
    assert diagnosis.last_step([3] * 8 + [2] * 2, 3, [0.1]) is None
    assert diagnosis.last_step([3] * 10, 3, [0.09]) is None
    assert diagnosis.last_step([3] * 10, 3, []) is None
    assert diagnosis.loss_above_one([1.5, 0.5]) is None
    assert diagnosis.loss_above_one([1.5, 0.6]) is not None


def test_limits_of_the_experts() -> None:
    assert diagnosis.at_chance(0.19, 0.1) is None
    assert diagnosis.at_chance(0.18, 0.1) is not None
    assert diagnosis.still_improving([0.0, 0.5]) is None  # one epoch says nothing
    assert diagnosis.still_improving([0, 0.1, 0.2, 0.3, 0.4, 0.431]) is not None
    assert diagnosis.still_improving([0, 0.1, 0.2, 0.3, 0.4, 0.429]) is None
