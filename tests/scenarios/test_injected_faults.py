"""Errors of the system and `kill -9` at sampled calls of `experts` and `distill`, injected by a preloaded library."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from pydistill.trajectories import TrajectoryStore
from tests.helpers.faults import FAULTS
from tests.helpers.small_runs import assert_same_outcome

ROOT = Path(__file__).parents[2]


@pytest.fixture(scope="module")
def outcomes(tmp_path_factory: pytest.TempPathFactory) -> list[dict[str, Any]]:
    """What `tests.helpers.faults` prints."""
    compiler = shutil.which("gcc")
    if compiler is None:
        pytest.skip("the library that injects faults needs gcc")
    folder = tmp_path_factory.mktemp("faults")
    shim = folder / "faults.so"
    source = ROOT / "tests" / "helpers" / "faults.c"
    subprocess.run([compiler, "-shared", "-fPIC", "-o", shim, source, "-ldl"], check=True, timeout=60)
    done = subprocess.run(
        [sys.executable, "-m", "tests.helpers.faults", str(folder)],
        cwd=ROOT,
        env=os.environ | {"LD_PRELOAD": str(shim)},
        capture_output=True,
        text=True,
        check=False,
        timeout=600,
    )
    assert done.returncode == 0, done.stderr
    found: list[dict[str, Any]] = json.loads(done.stdout.splitlines()[-1])
    return found


def test_fault_ends_the_command_with_one_sentence(outcomes: list[dict[str, Any]]) -> None:
    """Or with a warning at most, if the file is no result."""
    assert {(row["kind"], row["fault"]) for row in outcomes} == {
        (kind, fault) for kind in ("experts", "distill", "resumed") for fault in FAULTS
    }
    for row in outcomes:
        if row["fault"] == "kill -9":
            assert row["status"] == -9, row
        elif row["status"] != 0:
            assert row["status"] == 1, row
            assert row["stderr"].splitlines()[-1].startswith("pydistill: error: "), row
        assert "Traceback" not in row["stderr"], row
    failed = {row["fault"] for row in outcomes if row["status"] == 1}
    assert failed == FAULTS.keys() - {"kill -9"}


def test_continued_command_equals_an_undisturbed_one(outcomes: list[dict[str, Any]]) -> None:
    for row in outcomes:
        folder = Path(row["folder"])
        assert row["status again"] == 0, row
        if row["kind"] == "experts":
            store = TrajectoryStore.open(folder)
            assert store.digest == TrajectoryStore.open(folder.parent / "experts").digest, row
            assert store.verify() == {}, row
        else:
            assert_same_outcome(folder, folder.parent / "distill")
            assert (folder / "summary.json").exists(), row


def test_nothing_is_left_of_the_fault(outcomes: list[dict[str, Any]]) -> None:
    for row in outcomes:
        left = [path.name for path in Path(row["folder"]).rglob(".*") if ".tmp" in path.name]
        assert left == [], row
