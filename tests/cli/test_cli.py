"""The commands in this process: from experts to a report on digits, error messages, exit statuses."""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import sys
from dataclasses import fields
from pathlib import Path
from typing import Any

import pytest
import torch

from pydistill.artefact.file import Artefact
from pydistill.cli import main
from pydistill.evaluation import evaluate as evaluate_module
from pydistill.evaluation.evaluate import Evaluation
from pydistill.evaluation.evaluations_file import read_evaluations
from pydistill.ops.build_info import build_config
from pydistill.recipes.yaml import read_yaml
from pydistill.trajectories import TrajectoryStore

ROOT = Path(__file__).parents[2]
WHERE = ["--experts", "x", "--out", "y"]
SMALL = [
    "--model.width=4",
    "--model.depth=1",
    "--expert.count=2",
    "--expert.training.epochs=4",
    "--expert.training.dsa=null",
    "--distill.iterations=4",
    "--distill.steps=2",
    "--distill.expert_epochs=2",
    "--distill.max_start=2",
    "--distill.checkpoint_every=2",
    "--evaluation.repeats=2",
    "--evaluation.training.epochs=3",
]


def run(*arguments: object) -> int:
    return main([str(argument) for argument in arguments])


@pytest.fixture(scope="module")
def experts(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("cli") / "experts"
    assert run("experts", *SMALL, "--out", folder, "--quiet") == 0
    return folder


@pytest.fixture(scope="module")
def finished(experts: Path) -> Path:
    out = experts.parent / "run"
    assert run("distill", *SMALL, "--experts", experts, "--out", out, "--quiet") == 0
    return out


def test_a_second_run_does_not_train_existing_experts_again(experts: Path, capsys: pytest.CaptureFixture[str]) -> None:
    before = {path.name: path.stat().st_mtime_ns for path in experts.glob("expert*")}
    assert run("experts", *SMALL, "--out", experts, "--quiet") == 0
    assert "2 experts in" in capsys.readouterr().out
    assert before == {path.name: path.stat().st_mtime_ns for path in experts.glob("expert*")}
    assert len(before) == 2


def test_one_expert_is_reported_in_the_singular(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert run("experts", *SMALL, "--expert.count=1", "--out", tmp_path, "--quiet") == 0
    assert re.fullmatch(rf"1 expert in {tmp_path}; final test accuracy [0-9.]+ %\n", capsys.readouterr().out)


def test_a_missing_expert_is_trained_again(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], caplog: pytest.LogCaptureFixture
) -> None:
    assert run("experts", *SMALL, "--out", tmp_path, "--quiet") == 0
    digest = TrajectoryStore.open(tmp_path).digest
    file = tmp_path / "expert_0001.safetensors"
    file.unlink()
    capsys.readouterr()
    assert run("experts", *SMALL, "--out", tmp_path, "--quiet") == 0
    assert capsys.readouterr().out.startswith(f"2 experts in {tmp_path}; ")
    assert caplog.messages == [f"{file} is missing or damaged; its expert is trained again"]
    assert TrajectoryStore.open(tmp_path).digest == digest


def test_a_smaller_count_removes_no_experts(experts: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert run("experts", *SMALL, "--expert.count=1", "--out", experts, "--quiet") == 0
    assert capsys.readouterr().out.startswith(f"2 experts in {experts} (expert.count is 1; ")
    assert len(TrajectoryStore.open(experts)) == 2


def test_experts_trained_with_other_settings_are_refused(experts: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert run("experts", *SMALL, "--expert.training.epochs=5", "--out", experts, "--quiet") == 2
    message = capsys.readouterr().err
    assert message.count("epochs") == 2
    assert "training is {'epochs': 4} for the store" in message


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


def test_evaluate_prints_a_table_across_architectures(finished: Path, capsys: pytest.CaptureFixture[str]) -> None:
    command = ["evaluate", finished, "--models", "convnet1-w4", "mlp-w8", "--repeats", 2, "--epochs", 2]
    assert run(*command) == 0
    table = capsys.readouterr().out
    assert "convnet1-w4" in table
    assert "mlp-w8" in table
    assert run(*command, "--json") == 0
    rows = json.loads(capsys.readouterr().out)
    assert [row["model"] for row in rows] == ["convnet1-w4", "mlp-w8"]
    assert [len(row["runs"]) for row in rows] == [2, 2]


def test_evaluating_the_student_repeats_the_accuracies_of_the_run(
    finished: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run("evaluate", finished, "--json") == 0
    (row,) = json.loads(capsys.readouterr().out)
    summary = json.loads((finished / "summary.json").read_text())
    assert row["runs"] == summary["accuracy_final"]["runs"]


def test_show_draws_again(finished: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (finished / "images.png").unlink()
    assert run("show", finished) == 0
    assert "images.png" in capsys.readouterr().out
    assert (finished / "images.png").exists()


def test_an_unfinished_run_has_no_set(finished: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "metrics.jsonl").write_bytes((finished / "metrics.jsonl").read_bytes())
    for name, command in (
        ("distilled", ["evaluate", tmp_path]),
        ("best", ["export", tmp_path, "--which=best", "--format=mtt", "--out", "x"]),
        ("best", ["evaluate", tmp_path, "--which=best"]),
    ):
        assert run(*command) == 2
        message = capsys.readouterr().err
        assert f"has no {name}.safetensors" in message
        assert "--which best" not in message
    assert run("show", tmp_path) == 2
    assert f"the run in {tmp_path} has no images yet" in capsys.readouterr().err
    assert [path.name for path in tmp_path.iterdir()] == ["metrics.jsonl"]
    (tmp_path / "best.safetensors").touch()
    assert run("evaluate", tmp_path) == 2
    assert "--which best" in capsys.readouterr().err


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


@pytest.mark.parametrize("printing", ["distill", "plan", "experts"])
def test_a_printed_recipe_reads_back_equal(printing: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    from pydistill.recipes.recipe import Recipe, load_recipe, preset_path

    changes = {
        "distill.lr_form": "log",
        "distill.lr_lr": 1e-7,
        "distill.waypoints": [0, 2],
        "data.path": "1e5",
        "expert.training.dsa.flip": 0.25,
        "evaluation.training.dsa": None,
        "evaluation.models": ["convnet3"],
    }
    flags = ["--distill.lr_form", "log", "--distill.lr_lr", "1e-7", "--distill.waypoints", "[0, 2]"]
    flags += ["--data.path", "1e5", "--expert.training.dsa.flip=0.25", "--evaluation.training.dsa=null"]
    flags += ["--evaluation.models=[convnet3]"]
    expected = load_recipe(preset_path("demo/digits-att"), changes)
    experts = [] if printing == "experts" else ["--experts=x"]
    assert run(printing, "--preset", "demo/digits-att", *flags, *experts, "--print_config") == 0
    file = tmp_path / "printed.yaml"
    file.write_text(capsys.readouterr().out)
    assert load_recipe(file) == expected
    for reading in ("distill", "plan", "experts"):
        assert run(reading, "--config", file, "--print_config") == 0
        printed = capsys.readouterr().out
        assert printed == file.read_text()
        assert list(read_yaml(printed)) == [field.name for field in fields(Recipe)]


def test_doctor(capsys: pytest.CaptureFixture[str]) -> None:
    assert run("doctor") == 0
    report = capsys.readouterr().out
    expected = "fused" if build_config()["compiled"] else "torch"
    assert f"auto runs '{expected}' on cpu" in report
    assert "passed" in report
    assert "FAILED" not in report


@pytest.mark.parametrize(
    ("arguments", "name"),
    [
        (["distill", "--config=/dev/null/x", *WHERE], "/dev/null/x"),
        (["distill", "--distill.backend=fused", *WHERE], "x "),
        (["experts", "--data.path=/nowhere", "--out", "y"], "--data.path"),
        (["experts", "--data.name=cifar10", "--data.path=/nowhere", "--out", "y"], "--data.path"),
        (["experts", "--data.name=cifar10", "--out", "y"], "data.path"),
        (["distill", "--experts", "/nowhere", "--out", "y"], "/nowhere"),
        (["convexify", "/nowhere", "--out", "y"], "/nowhere"),
        (["import", "--format=mtt", "/nowhere/a.pt", "--out=y.safetensors"], "/nowhere/a.pt"),
        (["evaluate", "/nowhere"], "/nowhere"),
        (["show", "/nowhere"], "/nowhere"),
        (["evaluate", "/"], "/ "),
        (["demo", "--method", "magic"], "--method"),
        (["demo", "--out", ""], "--out"),
        (["demo", "--resume"], "--resume"),
        (["distill", "--experts", "x", "--out="], "--out"),
        (["distill", "--experts=", "--out=y"], "--experts"),
        (["report", "x", "--out", ""], "--out"),
        (["evaluate", ""], "RUN"),
        (["experts", "--device", "abacus", "--out", "y"], "--device must be"),
        (["experts", "--model.name=convnot", "--out", "y"], "--model.name: "),
    ],
)
def test_wrong_usage(arguments: list[str], name: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(arguments) == 2
    message = capsys.readouterr().err
    assert name in message
    assert message.startswith("pydistill: error: ")
    assert message.count("\n") == 1


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


def test_a_pipe_closed_early_is_no_error() -> None:
    command = f"{sys.executable} -m pydistill doctor 2>&1 | head -1; exit ${{PIPESTATUS[0]}}"
    done = subprocess.run(["bash", "-c", command], cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout
    assert done.stdout.count("\n") == 1


def test_experts_of_another_network(experts: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    arguments = [*SMALL, "--model.width=5", "--experts", experts, "--out", tmp_path / "run"]
    assert run("distill", *arguments) == 2
    message = capsys.readouterr().err
    assert "width=4" in message
    assert "width=5" in message


def test_debug_shows_the_traceback(tmp_path: Path) -> None:
    from pydistill.errors import InputError

    with pytest.raises(InputError):
        run("show", tmp_path, "--debug")


def test_digits_take_no_data_path(finished: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert run("evaluate", finished, "--data", "nope") == 2
    assert "--data must be left out for digits" in capsys.readouterr().err


def test_a_folder_of_runs_is_refused_with_the_runs_in_it(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "zero").mkdir()
    for name in ("one", "two", "three"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "distilled.safetensors").touch()
    ending = f"in it; give one of the runs in it, {tmp_path / 'one'} or {tmp_path / 'three'}\n"
    for command in ("evaluate", "show", "report"):
        assert run(command, tmp_path) == 2
        assert capsys.readouterr().err.endswith(ending)


def test_the_demo_refuses_a_folder_in_use(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "file").write_text("mine")
    assert run("demo", "--out", tmp_path) == 2
    assert "is not empty; choose another folder" in capsys.readouterr().err
    assert run("demo", "--out", tmp_path / "file") == 2
    assert f"{tmp_path / 'file'} is a file" in capsys.readouterr().err


def test_importing_the_package_is_light() -> None:
    """Optional packages that torch does not import itself stay unimported, and CUDA uninitialised."""
    script = (
        "import sys, torch; before = set(sys.modules);"
        "import pydistill, pydistill.nn, pydistill.data, pydistill.distillation.distiller;"
        "import pydistill.evaluation.evaluate;"
        "optional = {'torchvision', 'sklearn', 'matplotlib', 'ruamel', 'tqdm', 'PIL'};"
        "heavy = optional & (set(sys.modules) - before);"
        "assert not heavy, heavy; assert not torch.cuda.is_initialized()"
    )
    done = subprocess.run([sys.executable, "-c", script], cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr


def test_the_core_works_without_the_optional_packages(tmp_path: Path) -> None:
    """Without torchvision and ruamel.yaml, matching works, and reading a recipe names the package to install."""
    for name in ("torchvision", "ruamel", "sklearn", "matplotlib", "tqdm"):
        (tmp_path / f"{name}.py").write_text("raise ImportError('not here')")
    script = "from pydistill.cli._doctor import self_test; print(self_test('torch', 'cpu')[0] < 1e-9)"
    environment = {**os.environ, "PYTHONPATH": f"{tmp_path}{os.pathsep}{ROOT}"}
    common = {"cwd": tmp_path, "env": environment, "capture_output": True, "text": True, "check": False}
    done = subprocess.run([sys.executable, "-c", script], **common)
    assert done.stdout.strip() == "True", done.stderr
    command = [sys.executable, "-m", "pydistill", "distill", "--preset", "demo/digits-att", "--print_config"]
    done = subprocess.run(command, **common)
    assert done.returncode == 1
    assert "ruamel.yaml; install it with: pip install 'pydistill[cli]'" in done.stderr


def test_evaluate_shows_progress_and_records_every_architecture(
    finished: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    run_folder = shutil.copytree(finished, tmp_path / "run", ignore=shutil.ignore_patterns("evaluations.json"))
    monkeypatch.setattr("pydistill._util.progress.LINE_EVERY_SECONDS", 0.0)
    common = ["evaluate", run_folder, "--models", "mlp-w4", "mlp-w8", "--repeats", "1", "--epochs", "2"]
    assert run(*common) == 0
    output = capsys.readouterr()
    assert re.sub(r"test [\d.]+%", "test T", output.err).splitlines() == [
        "networks' epochs 1/4",
        "networks' epochs 2/4",
        "networks' epochs 2/4: network mlp-w4 1/1, test T",
        "networks' epochs 3/4: network mlp-w4 1/1, test T",
        "networks' epochs 4/4: network mlp-w4 1/1, test T",
        "networks' epochs 4/4: network mlp-w8 1/1, test T",
    ]
    assert "epochs" not in output.out
    assert run(*common, "--quiet") == 0
    assert "networks" not in capsys.readouterr().err
    assert [row["model"] for row in read_evaluations(run_folder)] == ["mlp-w4", "mlp-w8"] * 2

    real = evaluate_module.evaluate

    def stopped_in_the_second(*arguments: Any, **options: Any) -> Evaluation:
        if arguments[4].width == 8:
            raise KeyboardInterrupt
        return real(*arguments, **options)

    monkeypatch.setattr(evaluate_module, "evaluate", stopped_in_the_second)
    assert run(*common, "--quiet") == 130
    assert [row["model"] for row in read_evaluations(run_folder)][4:] == ["mlp-w4"]


def test_evaluate_refuses_damaged_evaluations_before_the_work(
    finished: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    run_folder = shutil.copytree(finished, tmp_path / "run", ignore=shutil.ignore_patterns("evaluations.json"))
    (run_folder / "evaluations.json").write_text("[3]")
    monkeypatch.delattr(evaluate_module, "evaluate")
    assert run("evaluate", run_folder) == 1
    assert "evaluations.json is damaged" in capsys.readouterr().err
