"""The findings and the report of `pydistill doctor`: backends, self-tests, compiler and driver."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import pytest
import torch

from pydistill.cli import _doctor as doctor
from pydistill.cli import main
from pydistill.ops import toolchain
from pydistill.ops.build_info import build_config
from pydistill.ops.extension import Extension
from tests.cli.commands import run
from tests.matching.problems import needs_engine


def program(path: Path, text: str) -> Path:
    """A shell script that prints a text."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(f"#!/bin/sh\n{text}\n")
    path.chmod(0o755)
    return path


@pytest.fixture
def bare(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A machine without compiler and driver; its PATH is the folder."""
    monkeypatch.setenv("PATH", f"{tmp_path / 'bin'}:/bin")
    monkeypatch.delenv("CUDA_HOME", raising=False)
    monkeypatch.setattr(toolchain.sysconfig, "get_paths", lambda: {"purelib": str(tmp_path / "site")})
    monkeypatch.setattr(toolchain, "_DRIVER", tmp_path / "version")
    monkeypatch.setattr(toolchain, "SECONDS", 0.5)
    return tmp_path


def test_the_compiler(bare: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert toolchain.cuda_compiler() is None
    release = "echo 'Cuda compilation tools, release {}, V1'"
    installed = program(bare / "site" / "nvidia" / "cu13" / "bin" / "nvcc", release.format("13.2"))
    assert toolchain.cuda_compiler() == {"path": str(installed), "version": "13.2"}
    on_path = program(bare / "bin" / "nvcc", release.format("12.8"))
    assert toolchain.cuda_compiler() == {"path": str(on_path), "version": "12.8"}
    monkeypatch.setenv("CUDA_HOME", str(bare / "home"))
    home = program(bare / "home" / "bin" / "nvcc", release.format("13.0"))
    assert toolchain.cuda_compiler() == {"path": str(home), "version": "13.0"}
    program(home, "exit 1")  # a compiler that fails is skipped
    program(on_path, "sleep 5")
    assert toolchain.cuda_compiler() == {"path": str(installed), "version": "13.2"}


def test_the_driver(bare: Path) -> None:
    assert toolchain.cuda_driver() is None
    (bare / "version").write_text("NVRM version: NVIDIA UNIX x86_64 Kernel Module  570.86.15  Thu\n")
    assert toolchain.cuda_driver() == "570.86.15"
    program(bare / "bin" / "nvidia-smi", "echo 580.65.06")
    assert toolchain.cuda_driver() == "580.65.06"


@needs_engine
def test_a_working_installation() -> None:
    findings = doctor.examine()
    assert json.loads(json.dumps(findings)) == findings
    assert findings["healthy"]
    chosen = {(choice["device"], choice["student"]): choice["backend"] for choice in findings["backends"]}
    assert chosen["cpu", "ConvNet and MLP"] == "fused"
    assert chosen["cpu", "other modules"] == "torch"
    tested = {(test["backend"], test["device"]) for test in findings["self_tests"]}
    assert {("fused", "cpu"), ("torch", "cpu")} <= tested
    assert all(test["error"] <= 1e-9 and test["seconds"] < 60 for test in findings["self_tests"])
    text = doctor.report(findings)
    assert f"torch {torch.__version__.split('+')[0]}" in text
    assert "'fused' on cpu against autograd in fp64: passed" in text


def test_without_the_extension(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("pydistill.engine.student.load_extension", lambda: Extension(None, "it was not built", None))
    findings = doctor.examine()
    text = doctor.report(findings)
    assert "auto runs 'torch' on cpu for ConvNet and MLP" in text
    assert "'fused' on cpu against autograd in fp64: not run, backend 'fused' cannot run this: it was" in text
    assert findings["healthy"]


def test_a_wrong_gradient_fails_the_self_test(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    sound = doctor.match

    def wrong(*arguments: object, backend: str, **options: object) -> object:
        if backend == "torch":
            options["gradient"] = "truncated"
        return sound(*arguments, backend=backend, **options)  # type: ignore[arg-type]

    monkeypatch.setattr(doctor, "match", wrong)
    assert main(["doctor", "--json"]) == 1
    findings = json.loads(capsys.readouterr().out)
    assert not findings["healthy"]
    assert [test["backend"] for test in findings["self_tests"] if test["passed"] is False] == ["torch"]
    assert "'torch' on cpu against autograd in fp64: FAILED" in doctor.report(findings)


def test_the_report_names_gpu_compiler_and_driver() -> None:
    findings = doctor.examine()
    findings["gpus"] = [{"name": "H200", "memory": 141 * 2**30, "compute_capability": "9.0"}]
    findings["cuda"] = {"torch": "13.2", "compiler": {"path": "/x/nvcc", "version": "13.2"}, "driver": "580.65"}
    text = doctor.report(findings)
    assert "gpu         H200, 141 GiB, compute capability 9.0" in text
    assert "cuda        torch built with 13.2, nvcc 13.2 (/x/nvcc), driver 580.65" in text
    assert sys.version.split()[0] in text


def test_doctor(capsys: pytest.CaptureFixture[str]) -> None:
    assert run("doctor") == 0
    report = capsys.readouterr().out
    expected = "fused" if build_config()["compiled"] else "torch"
    assert f"auto runs '{expected}' on cpu" in report
    assert "passed" in report
    assert "FAILED" not in report
