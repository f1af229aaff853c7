"""What the doctor finds and says: backends and why, self-tests, compiler and driver."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import pytest
import torch

from pydistill.cli import _doctor as doctor
from pydistill.cli import main
from pydistill.ops import toolchain
from pydistill.ops.extension import Extension
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
    program(home, "exit 1")  # one that does not work is passed over
    program(on_path, "sleep 5")
    assert toolchain.cuda_compiler() == {"path": str(installed), "version": "13.2"}


def test_the_driver(bare: Path) -> None:
    assert toolchain.cuda_driver() is None
    (bare / "version").write_text("NVRM version: NVIDIA UNIX x86_64 Kernel Module  570.86.15  Thu\n")
    assert toolchain.cuda_driver() == "570.86.15"
    program(bare / "bin" / "nvidia-smi", "echo 580.65.06")
    assert toolchain.cuda_driver() == "580.65.06"


@needs_engine
def test_what_a_sound_machine_is_told() -> None:
    found = doctor.examine()
    assert json.loads(json.dumps(found)) == found
    assert found["healthy"]
    chosen = {(each["device"], each["student"]): each["backend"] for each in found["backends"]}
    assert chosen["cpu", "ConvNet and MLP"] == "fused"
    assert chosen["cpu", "other modules"] == "torch"
    tested = {(each["backend"], each["device"]) for each in found["self_tests"]}
    assert {("fused", "cpu"), ("torch", "cpu")} <= tested
    assert all(each["error"] <= 1e-9 and each["seconds"] < 60 for each in found["self_tests"])
    told = doctor.report(found)
    assert f"torch {torch.__version__.split('+')[0]}" in told
    assert "'fused' on cpu against the whole graph in fp64: passed" in told


def test_without_the_extension(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("pydistill.engine.student.load_extension", lambda: Extension(None, "it was not built", None))
    found = doctor.examine()
    told = doctor.report(found)
    assert "auto runs 'torch' on cpu for ConvNet and MLP" in told
    assert "'fused' on cpu against the whole graph in fp64: not run, backend 'fused' cannot run this: it was" in told
    assert found["healthy"]


def test_a_backend_that_computes_something_else(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    sound = doctor.match

    def wrong(*arguments: object, backend: str, **options: object) -> object:
        if backend == "torch":
            options["gradient"] = "truncated"
        return sound(*arguments, backend=backend, **options)  # type: ignore[arg-type]

    monkeypatch.setattr(doctor, "match", wrong)
    assert main(["doctor", "--json"]) == 1
    found = json.loads(capsys.readouterr().out)
    assert not found["healthy"]
    assert [each["backend"] for each in found["self_tests"] if each["passed"] is False] == ["torch"]
    assert "'torch' on cpu against the whole graph in fp64: FAILED" in doctor.report(found)


def test_a_gpu_is_named() -> None:
    found = doctor.examine()
    found["gpus"] = [{"name": "H200", "memory": 141 * 2**30, "compute_capability": "9.0"}]
    found["cuda"] = {"torch": "13.2", "compiler": {"path": "/x/nvcc", "version": "13.2"}, "driver": "580.65"}
    told = doctor.report(found)
    assert "gpu         H200, 141 GiB, compute capability 9.0" in told
    assert "cuda        torch built with 13.2, nvcc 13.2 (/x/nvcc), driver 580.65" in told
    assert sys.version.split()[0] in told
