"""run_gpu.sh runs its parts in order and within the time, keeps their results, and summarises them on one page."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from benchmarks import harness
from benchmarks.gpu import tests
from benchmarks.harness import ROOT

SCRIPT = ROOT / "benchmarks" / "run_gpu.sh"
SANITIZER = """#!/usr/bin/env bash
echo "sanitizer $*" >> "$CALLS"
echo "========= ERROR SUMMARY: 0 errors"
"""
# Stands in for the interpreter: the machine is ready, the build and the tests do what the test wants, the grid is tiny.
PYTHON = """#!/usr/bin/env bash
echo "$*" >> "$CALLS"
case "$*" in
    "-m benchmarks.gpu.ready"*) echo "A GPU"; exit 0 ;;
    setup.py*) echo "pydistill: compiling CUDA kernels for 9.0+PTX"; exit "${BUILD_STATUS:-0}" ;;
    "-m benchmarks.gpu.tests"*) echo "FAILED tests/ops/test_x_cuda.py::test_a - AssertionError"
        echo "RESULT tests/ops/test_x_cuda.py: 1 failed, 12 passed in 3.21s"; sleep "${TESTS_SECONDS:-0}" ;;
    "-m benchmarks.experts"*) echo "an epoch" ;;
    "-m benchmarks.gpu.grid"*) exec REAL "$@" --device cpu --scale tiny --problems C10-1 --contestants autograd ;;
    *) exec REAL "$@" ;;
esac
"""


@pytest.fixture
def environment(tmp_path: Path) -> dict[str, str]:
    """Fake programs that write their calls to the file `calls`."""
    tools = tmp_path / "tools"
    tools.mkdir()
    real = PYTHON.replace("REAL", sys.executable)
    programs = {"python": real, "nvcc": "#!/bin/sh\n", "compute-sanitizer": SANITIZER}
    for name, text in programs.items():
        (tools / name).write_text(text)
        (tools / name).chmod(0o755)
    actual = os.environ | {"PATH": f"{tools}:{os.environ['PATH']}", "CALLS": str(tmp_path / "calls")}
    return actual | {"PYTHON": str(tools / "python")}


def script(environment: dict[str, str], *arguments: object) -> subprocess.CompletedProcess[str]:
    command = [str(SCRIPT), *(str(value) for value in arguments)]
    return subprocess.run(command, env=environment, capture_output=True, text=True, check=False)


def test_everything(tmp_path: Path, environment: dict[str, str]) -> None:
    out = tmp_path / "out"
    done = script(environment, out, "--commit", "abc1234", "--minutes", "5")
    assert done.returncode == 0, done.stdout + done.stderr
    calls = (tmp_path / "calls").read_text().splitlines()
    kinds = ["ready", "setup.py", "gpu.tests", "gpu.grid", "sanitizer", "sanitizer", "experts", "summary"]
    assert [kind for kind, call in zip(kinds, calls, strict=True) if kind in call] == kinds
    assert {row["commit"] for row in harness.read_rows(out / "grid.csv")} == {"abc1234"}
    for call, tool in zip(calls[4:6], ("memcheck", "racecheck"), strict=True):
        assert call.startswith(f"sanitizer --tool {tool} --kernel-name kernel_substring=pydistill")
        assert "tests/ops/test_norm_act_pool_cuda.py" in call
    files = ["build.log", "experts.log", "grid.csv", "grid.log", "sanitizer.log", "summary.md", "tests.log"]
    assert sorted(file.name for file in out.iterdir()) == files
    page = (out / "summary.md").read_text(encoding="utf-8")
    assert done.stdout.rstrip().endswith(page.rstrip())
    for line in ("- build: done in ", "- tests: done in ", "- grid: done in ", "- sanitizer (racecheck): done in "):
        assert line in page
    assert page.index("- RESULT tests/ops/test_x_cuda.py: 1 failed, 12 passed in 3.21s") < page.index("- FAILED")
    assert page.count("- ERROR SUMMARY: 0 errors") == 2
    assert "| C10-1 | 3, 6, 4, 9 |" in page
    assert "\nan epoch\n" in page


def test_the_files_with_tests_for_a_gpu_are_found() -> None:
    actual = [str(file.relative_to(ROOT)) for file in tests.files(ROOT)]
    assert actual[0].startswith("tests/ops/")
    assert actual[-1].startswith("tests/benchmarks/")
    expected = {
        "tests/ops/test_parameter_maps_cuda.py",
        "tests/matching/backends/test_fused_cuda.py",
        "tests/training/test_gradients.py",
    }
    assert expected <= set(actual)


@pytest.mark.skipif(torch.cuda.is_available(), reason="a GPU is there")
def test_without_a_gpu_it_ends_at_once(tmp_path: Path) -> None:
    done = script(os.environ | {"PYTHON": sys.executable}, tmp_path / "out")
    assert done.returncode == 2
    assert done.stderr.startswith("run_gpu.sh: no NVIDIA GPU is visible on this machine (PyTorch ")
    assert done.stderr.count("\n") == 1
    assert not (tmp_path / "out").exists()
