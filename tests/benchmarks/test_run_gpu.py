"""run_gpu.sh runs its parts in order and within the time, keeps what was found, and tells it on one page."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from benchmarks import harness
from benchmarks.gpu import ready, summary, tests
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
    """Fakes of the programs, noted in the file `calls`."""
    tools = tmp_path / "tools"
    tools.mkdir()
    real = PYTHON.replace("REAL", sys.executable)
    programs = {"python": real, "nvcc": "#!/bin/sh\n", "compute-sanitizer": SANITIZER}
    for name, text in programs.items():
        (tools / name).write_text(text)
        (tools / name).chmod(0o755)
    found = os.environ | {"PATH": f"{tools}:{os.environ['PATH']}", "CALLS": str(tmp_path / "calls")}
    return found | {"PYTHON": str(tools / "python")}


def script(environment: dict[str, str], *arguments: object) -> subprocess.CompletedProcess[str]:
    command = [str(SCRIPT), *(str(each) for each in arguments)]
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


@pytest.mark.slow
def test_a_part_that_fails_and_a_part_that_takes_too_long(tmp_path: Path, environment: dict[str, str]) -> None:
    """The parts behind them run; the status says that something failed."""
    out = tmp_path / "out"
    slow = environment | {"BUILD_STATUS": "3", "TESTS_SECONDS": "600"}
    done = script(slow, out, "--parts", "build,tests", "--minutes", "1")
    assert done.returncode == 1
    page = (out / "summary.md").read_text(encoding="utf-8")
    assert "- build: failed with status 3 after " in page
    assert "- tests: stopped after " in page
    assert "pydistill: compiling CUDA kernels" in done.stdout  # the end of a log that tells why


def test_every_file_of_tests_is_a_process_of_its_own(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    mark = "import os, pytest\npytestmark = pytest.mark.cuda\n"
    (tmp_path / "tests" / "ops").mkdir(parents=True)
    (tmp_path / "pytest.ini").write_text("[pytest]\nmarkers =\n    cuda: a\n    slow: b\n")
    for name, text in {
        "tests/ops/test_one.py": mark + "def test_a(): os._exit(3)\n",
        "tests/ops/test_two.py": mark + "def test_a(): pass\n@pytest.mark.slow\ndef test_b(): assert False\n",
        "tests/test_three.py": mark + "@pytest.mark.slow\ndef test_b(): pass\n",
        "tests/test_four.py": "def test_a(): assert False\n",
    }.items():
        (tmp_path / name).write_text(text)
    assert tests.main(tmp_path) == 1
    results = [line for line in capsys.readouterr().out.splitlines() if line.startswith("RESULT")]
    told = ["one.py: nothing, status 3", "two.py: 1 passed", "two.py (slow): 1 failed", "three.py (slow): 1 passed"]
    assert len(results) == len(told)
    for line, part in zip(results, told, strict=True):
        assert part in line


def test_the_files_with_tests_for_a_gpu_are_found() -> None:
    found = [str(file.relative_to(ROOT)) for file in tests.files(ROOT)]
    assert found[0].startswith("tests/ops/")
    assert found[-1].startswith("tests/benchmarks/")
    expected = {
        "tests/ops/test_parameter_maps_cuda.py",
        "tests/matching/backends/test_fused_cuda.py",
        "tests/training/test_gradients.py",
    }
    assert expected <= set(found)


def test_without_a_sanitizer(tmp_path: Path, environment: dict[str, str]) -> None:
    (tmp_path / "tools" / "compute-sanitizer").unlink()
    done = script(environment, tmp_path / "out", "--parts", "sanitizer")
    assert "- sanitizer: left out, there is no compute-sanitizer on the PATH or beside nvcc" in done.stdout


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        ([], "OUT_DIR is missing; see --help"),
        (["out", "--parts", "bench"], "there is no part 'bench'; there are build tests grid sanitizer experts real"),
        (["out", "--minutes", "0"], "--minutes must be a whole number of at least 1, not '0'"),
        (["out", "--parts"], "--parts needs a value"),
        (["out", "--fast"], "there is no option --fast; there are --parts, --minutes, --real, --commit"),
        (["out", "other"], "one OUT_DIR is needed, not out and other"),
        (["out", "--parts", "real"], "the part real needs --real DATA, a folder or an archive of CIFAR-10's images"),
        (["out", "--real", "nowhere"], "the part real needs --real DATA, a folder or an archive of CIFAR-10's images"),
    ],
)
def test_bad_arguments(arguments: list[str], sentence: str, environment: dict[str, str]) -> None:
    done = script(environment, *arguments)
    assert done.returncode == 2
    assert done.stderr == f"run_gpu.sh: {sentence}\n"


@pytest.mark.skipif(torch.cuda.is_available(), reason="a GPU is there")
def test_without_a_gpu_it_ends_at_once(tmp_path: Path) -> None:
    done = script(os.environ | {"PYTHON": sys.executable}, tmp_path / "out")
    assert done.returncode == 2
    assert done.stderr.startswith("run_gpu.sh: no NVIDIA GPU is visible on this machine (PyTorch ")
    assert done.stderr.count("\n") == 1
    assert not (tmp_path / "out").exists()


def test_an_old_pytorch_and_a_missing_nvcc(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch, "__version__", "2.9.1")
    with pytest.raises(ready.NotReady, match=r"PyTorch 2.9.1 is too old; 2.11 or later is needed"):
        ready.describe()
    monkeypatch.setattr(torch, "__version__", "2.11.0+cu130")
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(ready.shutil, "which", lambda name: None)
    with pytest.raises(ready.NotReady, match=r"there is no nvcc on the PATH"):
        ready.describe()


def test_what_a_page_tells_of_the_logs(tmp_path: Path) -> None:
    failures = [f"FAILED tests/a.py::test_{number} - no" for number in range(45)]
    (tmp_path / "tests.log").write_text("\n".join(["noise", *failures, "RESULT tests/a.py: 45 failed in 2.00s"]) + "\n")
    (tmp_path / "sanitizer.log").write_text("== sanitizer\n========= Invalid __global__ read of size 4 bytes\n")
    (tmp_path / "real.jsonl").write_text('{"event": "data"}\n{"event": "random real", "mean": 0.15}\n')
    page = summary.page(tmp_path, ["tests: failed"])
    assert "- RESULT tests/a.py: 45 failed in 2.00s\n- FAILED" in page
    assert page.count("- FAILED") == summary.MOST_LINES - 1
    assert "… and 6 lines more" in page
    assert "- Invalid __global__ read of size 4 bytes" in page
    assert "random real images: 15.0 % on one network." in page
    assert "noise" not in page
