"""`pydistill evaluate`: its table, its progress and the evaluations that it records."""

from __future__ import annotations

import json
import re
import shutil
from pathlib import Path
from typing import Any

import pytest

import pydistill
from pydistill.cli import main
from pydistill.evaluation import evaluate as evaluate_module
from pydistill.evaluation.evaluate import Evaluation
from pydistill.evaluation.evaluations_file import read_evaluations
from tests.cli.commands import SMALL, run
from tests.data.files import two_classes, write_folder


def test_evaluate_prints_a_table_across_architectures(finished: Path, capsys: pytest.CaptureFixture[str]) -> None:
    command = ["evaluate", finished, "--models", "convnet1-w4", "mlp-w8", "--repeats", 2, "--epochs", 2]
    assert run(*command) == 0
    table = capsys.readouterr().out
    assert "convnet1-w4" in table
    assert "mlp-w8" in table
    assert run(*command, "--json") == 0
    rows = json.loads(capsys.readouterr().out)
    assert [row["model"] for row in rows] == ["convnet1-w4", "mlp-w8"] * 2
    names = ["10 distilled images (ATT)"] * 2 + ["10 random real images"] * 2
    assert [row["trained_on"] for row in rows] == names
    assert [(row["epochs"], len(row["runs"])) for row in rows] == [(2, 2)] * 4


def test_evaluating_the_student_repeats_the_accuracies_of_the_run(
    finished: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run("evaluate", finished, "--json") == 0
    row, baseline = json.loads(capsys.readouterr().out)
    assert baseline["trained_on"] == "10 random real images"
    summary = json.loads((finished / "summary.json").read_text())
    assert row["runs"] == summary["accuracy_final"]["runs"]


def test_digits_take_no_data_path(finished: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert run("evaluate", finished, "--data", "nope") == 2
    assert "--data must be left out for digits" in capsys.readouterr().err


def test_a_folder_has_its_own_name_and_is_read_from_anywhere(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    pytest.importorskip("PIL")
    monkeypatch.setenv("PYDISTILL_CACHE", str(tmp_path / "cache"))
    write_folder(tmp_path / "patches", two_classes(width=8, height=8))
    monkeypatch.chdir(tmp_path)
    data = ["--data.name=folder", "--data.path=patches", *SMALL, "--quiet"]
    assert run("experts", *data, "--out=experts") == 0
    assert run("distill", *data, "--experts=experts", "--out=run") == 0
    assert json.loads((tmp_path / "run" / "recipe.json").read_text())["data"]["path"] == str(tmp_path / "patches")
    assert "patches by ATT" in (tmp_path / "run" / "report.html").read_text(encoding="utf-8")
    assert "classes of patches" in repr(pydistill.load("run"))
    monkeypatch.chdir("/")
    assert run("evaluate", tmp_path / "run", "--epochs=1") == 0
    (tmp_path / "patches").rename(tmp_path / "moved")
    assert run("evaluate", tmp_path / "run", "--epochs=1") == 2
    assert "--data.path" in capsys.readouterr().err
    for flag in ("--data.path", "--data"):
        assert run("evaluate", tmp_path / "run", "--epochs=1", flag, tmp_path / "moved") == 0
    moved = [f"--data.path={tmp_path / 'moved'}" if flag.startswith("--data.path") else flag for flag in data]
    assert run("experts", *moved, "--out", tmp_path / "experts") == 0  # these are the same data


def test_evaluate_shows_progress_and_records_every_architecture(
    finished: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    run_folder = shutil.copytree(finished, tmp_path / "run", ignore=shutil.ignore_patterns("evaluations.json"))
    monkeypatch.setattr("pydistill._util.progress.LINE_EVERY_SECONDS", 0.0)
    common = ["evaluate", run_folder, "--models", "mlp-w4", "mlp-w8", "--repeats", "1", "--epochs", "2"]
    common += ["--baselines", "none"]
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
    assert "networks' epochs" not in output.out
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


@pytest.mark.parametrize("name", ["evaluations.json", "baselines.json"])
def test_evaluate_refuses_damaged_evaluations_before_the_work(
    name: str, finished: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    run_folder = shutil.copytree(finished, tmp_path / "run", ignore=shutil.ignore_patterns(name))
    (run_folder / name).write_text("[3]")
    monkeypatch.delattr(evaluate_module, "evaluate")
    assert run("evaluate", run_folder) == 1
    assert f"{name} is damaged" in capsys.readouterr().err


def test_a_protocol_by_name_is_a_column_of_its_rows(
    finished: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Digits are not mirrored, whatever the protocol."""
    run_folder = shutil.copytree(finished, tmp_path / "run")
    command = ["evaluate", run_folder, "--protocol", "datm", "--epochs", 2, "--quiet"]
    assert run(*command, "--baselines", "random", "full", "--repeats", 1, "--json") == 0
    rows = json.loads(capsys.readouterr().out)
    protocol = "datm, dsa.strategy color_crop_cutout_scale_rotate"
    assert [row["trained_on"] for row in rows] == [
        "10 distilled images (ATT)",
        "10 random real images",
        "all 1,437 real images",
    ]
    assert rows[0]["protocol"] == rows[1]["protocol"] == protocol
    assert [row["epochs"] for row in rows] == [2, 2, 4]
    assert read_evaluations(run_folder)[-1]["protocol"] == protocol
    assert main(["report", str(run_folder)]) == 0
    assert protocol in (run_folder / "report.html").read_text(encoding="utf-8")
