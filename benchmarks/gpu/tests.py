"""Run the tests marked `cuda`, one process per file: an error in a kernel ends all work of its process.

    python -m benchmarks.gpu.tests

Four files are tested at a time; tests marked `slow`, which may need the whole GPU's memory, come afterwards, one file
at a time. pytest's output is printed file by file, and at the end a line per file: RESULT FILE: pytest's verdict.
"""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from benchmarks.harness import ROOT

AT_A_TIME = 4
MARK = "mark.cuda"
NO_TESTS = 5  # pytest's status


def files(root: Path) -> list[Path]:
    """Return the test files in which the mark appears: kernels first, then matching, benchmarks last."""
    result = [file for file in (root / "tests").rglob("test_*.py") if MARK in file.read_text(encoding="utf-8")]
    place = {"ops": 0, "matching": 1, "benchmarks": 3}
    return sorted(result, key=lambda file: (place.get(file.parent.name, 2), file))


def run(file: Path, marks: str) -> tuple[int, str]:
    """Run the tests of a file that have these marks; return pytest's status and its output."""
    options = ["-q", "-ra", "--durations=3", "-p", "no:cacheprovider", "-m", marks]
    done = subprocess.run(
        [sys.executable, "-m", "pytest", *options, str(file)],
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        check=False,
    )
    return done.returncode, done.stdout


def main(root: Path = ROOT) -> int:
    """Run the tests and print their results; return 1 if a test failed or there was none."""
    result = files(root)
    results: list[str] = []
    failed = not result

    def report(file: Path, marks: str, outcome: tuple[int, str]) -> None:
        nonlocal failed
        status, text = outcome
        if status == NO_TESTS:
            return
        failed = failed or status != 0
        print(f"== {file.relative_to(root)}, {marks}\n{text}", flush=True)
        verdict = (text.strip().splitlines() or [f"nothing, status {status}"])[-1].strip("= ")
        slow = "" if marks.endswith("not slow") else " (slow)"
        results.append(f"RESULT {file.relative_to(root)}{slow}: {verdict}")

    quick, slow = "cuda and not slow", "cuda and slow"
    with ThreadPoolExecutor(AT_A_TIME) as pool:
        for file, outcome in zip(result, pool.map(lambda value: run(value, quick), result), strict=True):
            report(file, quick, outcome)
    for file in result:
        if "mark.slow" in file.read_text(encoding="utf-8"):
            report(file, slow, run(file, slow))
    print("\n".join(results))
    return 1 if failed else 0


def _main(arguments: Sequence[str]) -> int:
    if arguments:
        print(f"python -m benchmarks.gpu.tests takes no arguments, not {' '.join(arguments)}", file=sys.stderr)
        return 2
    return main()


if __name__ == "__main__":
    sys.exit(_main(sys.argv[1:]))
