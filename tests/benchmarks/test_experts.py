"""The benchmark of experts measures the engine and PyTorch at the same work, tells it and records it."""

from __future__ import annotations

import csv
from pathlib import Path
from typing import Any

import pytest

from benchmarks import experts, harness
from benchmarks.experts import Setting, prepare
from pydistill.ops.extension import load_extension

TINY = Setting("convnet1-w4", 1, 8, images=10, batch=4, dsa="crop")


@pytest.mark.usefixtures("local_workers")
def test_rows_are_printed_and_appended(
    tmp_path: Path, capfd: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(experts.PROBLEMS, "digits", TINY)
    file = tmp_path / "rows.csv"
    assert experts.main(["--problems", "digits", "--repeat=2", "--threads=1", f"--csv={file}"]) == 0
    rows = harness.read_rows(file)
    ran = ["engine"] if "cpu" in load_extension().device_types else []
    ran += ["torch", "published"]
    assert [(row["work"], row["dsa"], row["contestant"]) for row in rows] == [
        *(("train", "crop", name) for name in ran),
        *(("test", "", name) for name in ran),
    ]
    assert all(0 < float(row["q10"]) <= float(row["median"]) <= float(row["q90"]) for row in rows)
    assert {(row["repeats"], row["images"], row["threads"]) for row in rows} == {("2", "10", "1")}
    printed = capfd.readouterr().out.splitlines()
    assert printed[0].startswith("train: convnet1-w4, 10 images 1 × 8×8, batch 4, crop, cpu, 1 threads")
    assert [line.split()[0] for line in printed[:5]] == ["train:", "contestant", "engine", "torch", "published"]
    assert [line.split()[0] for line in printed[5:]] == ["test:", "contestant", "engine", "torch", "published"]


def test_the_contestants_are_what_they_are_called(monkeypatch: pytest.MonkeyPatch) -> None:
    calls: list[tuple[str, bool]] = []

    def train(*_: Any, engine: bool, **__: Any) -> None:
        calls.append(("train", engine))

    def accuracy(*_: Any, engine: bool) -> None:
        calls.append(("test", engine))

    monkeypatch.setattr(experts, "train", train)
    monkeypatch.setattr(experts, "accuracy", accuracy)
    monkeypatch.setattr(experts, "why_not_fused", lambda model, images: None)
    for name in ("engine", "torch"):
        for work in experts.WORKS:
            prepare(name, vars(TINY) | {"work": work}).call()
    assert calls == [("train", True), ("test", True), ("train", False), ("test", False)]


def test_the_engine_says_what_it_does_not_run() -> None:
    with pytest.raises(harness.CannotRun):
        prepare("engine", vars(TINY) | {"model": "alexnet-w4"})


def test_the_results_have_the_columns_of_the_benchmark() -> None:
    with open(experts.RESULTS, newline="", encoding="utf-8") as handle:
        assert next(csv.reader(handle)) == list(experts.COLUMNS)
