"""The grid measures each contestant within its share, tells what is scaled or missing, and makes one table of it."""

from __future__ import annotations

import json
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import pytest
import torch

from benchmarks import harness
from benchmarks.gpu import ceilings, grid, table
from benchmarks.gpu.ceilings import Ceilings
from benchmarks.harness import CannotRun

SETTING = grid.PROBLEMS["C10-1"]  # N = 80, a part is 10 steps
CEILINGS = Ceilings(matrix_rate=4e14, copy_rate=4e12, cache=50 << 20, precision="tf32")


class Scripted:
    """A worker whose calls take a second a step by the clock of the test, and that fails as scripted."""

    def __init__(self, per_step: float, fails: dict[int, str] | None = None) -> None:
        self.per_step, self.fails, self.now, self.steps = per_step, fails or {}, 0.0, 0
        self.requests: list[tuple[str, int]] = []

    def ask(self, what: str, limit: float | None = None) -> float:
        return float(self.request(what, limit)["value"])

    def request(self, what: str, limit: float | None = None) -> dict[str, Any]:
        word, _, arguments = what.partition(" ")
        if word == "problem":
            self.steps = json.loads(arguments)["steps"]
            return {"value": 0.0}
        self.requests.append((word, self.steps))
        if word == "peak":
            return {"value": 100.0 * self.steps, "reserved": 200.0 * self.steps}
        if self.steps in self.fails:
            raise CannotRun(self.fails[self.steps])
        took = self.per_step * self.steps
        self.now += took
        return {"value": took / 2, "table": "kernels"} if word == "kernels" else {"value": took}


def measured(monkeypatch: pytest.MonkeyPatch, worker: Scripted, share: float, **options: Any) -> grid.Outcome:
    monkeypatch.setattr(grid.time, "monotonic", lambda: worker.now)
    return grid.measure(worker, SETTING, share, **options)


def test_complete_iterations_where_there_is_time(monkeypatch: pytest.MonkeyPatch) -> None:
    worker = Scripted(0.01)
    actual = measured(monkeypatch, worker, 1000.0)
    assert actual == grid.Outcome([0.8] * 10, 80, 8000.0, 16000.0)
    assert worker.requests == [("time", 10)] * 3 + [("peak", 10)] + [("time", 80)] * 12 + [("peak", 80)]


def test_a_part_is_scaled_where_there_is_no_time(monkeypatch: pytest.MonkeyPatch) -> None:
    worker = Scripted(1.0)
    actual = measured(monkeypatch, worker, 100.0)
    assert actual == grid.Outcome([80.0], 10, 1000.0, 2000.0, note="scaled from 10 of 80 steps")
    assert worker.now == 30.0


def test_memory_runs_out(monkeypatch: pytest.MonkeyPatch) -> None:
    error = "CUDA out of memory. Tried to allocate 20.00 GiB"
    complete = measured(monkeypatch, Scripted(0.01, {80: error}), 1000.0)
    assert complete == grid.Outcome([0.8], 10, 1000.0, 2000.0, note="out of memory; scaled from 10 of 80 steps")
    assert measured(monkeypatch, Scripted(0.01, {10: error}), 1000.0) == grid.Outcome(note="out of memory")
    other = measured(monkeypatch, Scripted(0.01, {10: "an illegal memory access"}), 1000.0)
    assert other == grid.Outcome(note="an illegal memory access", broken=True)


def test_kernels_are_timed_at_a_part_and_scaled() -> None:
    actual = grid.Outcome([0.8], 80)
    grid.measure_kernels(Scripted(0.01), SETTING, actual)
    assert actual == grid.Outcome([0.8], 80, kernels=0.4, kernel_table="kernels")
    grid.measure_kernels(Scripted(0.01, {10: "no profiler"}), SETTING, actual)
    assert (actual.broken, actual.kernel_table) == (True, "they cannot be timed: no profiler")


def row(contestant: str, outcome: grid.Outcome, problem: str = "C10-1") -> dict[str, str]:
    made = grid.row_of(problem, contestant, grid.PROBLEMS[problem], outcome, CEILINGS, {"device": "A GPU"})
    assert list(made) == list(grid.COLUMNS)
    return {key: str(value) for key, value in made.items()}


def test_the_table() -> None:
    rows = [
        row("fused", grid.Outcome([9.0], 80, 1.0, 1.0)),
        row("fused", grid.Outcome([0.25, 0.5, 0.75], 80, 512.0, 600.0, kernels=0.4)),
        row("autograd", grid.Outcome([2.0], 80, 8192.0, 9000.0)),
        row("tesla", grid.Outcome([4.0], 10, 1024.0, 1024.0, note="scaled from 10 of 80 steps")),
        row("torch", grid.Outcome([5.0], 10, 2048.0, 4096.0, note="out of memory; scaled from 10 of 80 steps")),
        row("fused", grid.Outcome(note="a reason"), "C100-50"),
        row("autograd", grid.Outcome(note="out of memory"), "C100-50"),
    ]
    lines = table.of_rows(rows).splitlines()
    floor = table.floor(rows[0])
    assert [cell.strip() for cell in lines[2].strip("|").split("|")] == [
        *("C10-1", "10, 10, 10, 80", f"{1000 * floor:.3g} ms", "500 ms, 0.5 GiB", "2 s, 8 GiB"),
        *("≈ 4 s (by 10 of 80 steps, 1 GiB)", "out of memory (≈ 5 s by 10 of 80 steps, 2 GiB)"),
        *("0.25", f"{0.5 / floor:.3g}"),
    ]
    second = [cell.strip() for cell in lines[3].strip("|").split("|")]
    assert second[:2] == ["C100-50", "100, 5000, 1200, 80"]
    assert second[3:] == ["cannot run: a reason", "out of memory", "", "", "", ""]
    assert "C10-1, `fused`: kernels run for 400 ms of 500 ms (80%)." in lines


def test_the_floor_is_the_larger_of_arithmetic_and_bytes() -> None:
    """Of C10-50: its arithmetic by hand (ConvNetD3: F = 3.5 + 37.7 + 9.4 M and a classifier; 3F and 8F with what the
    first layer does not need), against its bytes."""
    actual = row("fused", grid.Outcome([1.0], 50), "C10-50")
    first, others = 1024 * 128 * 27, 256 * 128 * 1152 + 64 * 128 * 1152 + 10 * 128 * 16
    assert int(actual["multiply_adds"]) == 500 * (50 * (7 * first + 11 * others) - (first + 2 * others))
    assert table.floor(actual) == pytest.approx(
        max(2 * int(actual["multiply_adds"]) / 4e14, int(actual["bytes"]) / 4e12)
    )
    assert table.floor(actual | {"bytes": "8000000000000"}) == 2.0
    assert int(row("fused", grid.Outcome(), "C10-1")["bytes"]) == 0  # a batch of ten lies in the cache
    # The first layer alone writes or reads 128 planes of 32×32 in more than five of its calls a step.
    assert int(actual["bytes"]) > 50 * 5 * 500 * 4 * 128 * 1024


def test_the_problems_are_those_of_the_papers() -> None:
    pytest.importorskip("ruamel.yaml")
    from pydistill.recipes.recipe import load_recipe, preset_path

    presets = {"C10": "cifar10", "C100": "cifar100", "Tiny": "tiny-imagenet"}
    for name, setting in grid.PROBLEMS.items():
        family, ipc = name.split("-")
        recipe = load_recipe(preset_path(f"att/{presets[family]}-ipc{ipc}"))
        assert (setting.steps, setting.images) == (recipe.distill.steps, setting.classes * recipe.distill.ipc)
        assert setting.batch == (recipe.distill.batch_size or 500 if family == "Tiny" else min(1200, setting.images))
        assert (setting.width, setting.model) == (recipe.model.width, f"{recipe.model.name}{recipe.model.depth}")
        assert recipe.distill.dsa is not None
        assert (setting.dsa, setting.gradient) == (recipe.distill.dsa.strategy, "exact")


@pytest.mark.usefixtures("local_workers")
def test_a_tiny_grid_on_the_cpu(
    tmp_path: Path, capfd: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(grid, "REPEATS", 2)
    monkeypatch.setattr(ceilings, "measure", lambda device: CEILINGS)
    monkeypatch.setenv("PYDISTILL_COMMIT", "abc1234")
    flags = ["--device=cpu", "--scale=tiny", "--seconds=120"]
    assert grid.main([str(tmp_path), *flags, "--problems", "C10-50", "--contestants", "autograd", "tesla"]) == 0
    rows = harness.read_rows(tmp_path / grid.FILE)
    assert [(item["problem"], item["contestant"], item["gradient"]) for item in rows] == [
        ("C10-50", "autograd", "exact"),
        ("C10-50", "tesla", "truncated"),
    ]
    for item in rows:
        assert 0 < float(item["q10"]) <= float(item["median"]) <= float(item["q90"])
        assert float(item["peak_mb"]) > 0
        assert float(item["kernels"]) > 0
        assert (item["commit"], item["device"], item["images"], item["batch"]) == ("abc1234", "cpu", "6", "4")
        assert item["dsa"] == grid.PROBLEMS["C10-50"].dsa
    printed = capfd.readouterr().out
    assert "ceilings: " in printed
    assert "kernels of tesla on C10-50" in printed
    assert "| C10-50 | 3, 6, 4, 9 |" in printed
    assert table.of_rows(rows) in printed


@pytest.mark.usefixtures("local_workers")
def test_every_problem_and_contestant_can_be_posed() -> None:
    """Each at its tiny size, one after the other in one process: what the grid asks of workers."""
    with harness.Worker(grid.MODULE, "torch", {}) as worker:
        for name, setting in grid.PROBLEMS.items():
            assert worker.ask(f"problem {json.dumps(asdict(replace(grid.tiny(setting), steps=1)))}") == 0
            assert worker.ask("time") > 0, name


@pytest.mark.cuda
@pytest.mark.slow
def test_a_tiny_grid_on_a_gpu(tmp_path: Path) -> None:
    if not torch.cuda.is_available():
        pytest.skip("no NVIDIA GPU is visible")
    flags = ["--scale=tiny", "--seconds=60", "--problems", "C10-50", "--contestants", "fused", "autograd"]
    assert grid.main([str(tmp_path), *flags]) == 0
    rows = harness.read_rows(tmp_path / grid.FILE)
    assert [item["contestant"] for item in rows] == ["fused", "autograd"]
    for item in rows:
        assert item["note"] == ""
        assert float(item["kernels"]) > 0
        assert 0 < float(item["peak_mb"]) <= float(item["reserved_mb"])
        assert (item["device"], item["precision"]) == (torch.cuda.get_device_name(), "tf32")
