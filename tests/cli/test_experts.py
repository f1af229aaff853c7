"""`pydistill experts`: existing experts stay, missing ones are trained again, others are refused."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from pydistill.trajectories import TrajectoryStore
from tests.cli.commands import SMALL, run


def test_a_second_run_does_not_train_existing_experts_again(experts: Path, capsys: pytest.CaptureFixture[str]) -> None:
    before = {path.name: path.stat().st_mtime_ns for path in experts.glob("expert*")}
    assert run("experts", *SMALL, "--out", experts, "--quiet") == 0
    assert "2 experts in" in capsys.readouterr().out
    assert before == {path.name: path.stat().st_mtime_ns for path in experts.glob("expert*")}
    assert len(before) == 2


def test_one_expert_is_reported_in_the_singular(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert run("experts", *SMALL, "--expert.count=1", "--out", tmp_path, "--quiet") == 0
    accuracy, *_ = capsys.readouterr().out.partition("\n")
    assert re.fullmatch(rf"1 expert in {tmp_path}; final test accuracy [0-9.]+ %", accuracy)


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
