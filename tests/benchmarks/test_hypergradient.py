"""The contestants agree with the package's own gradients, and the harness measures, tells and records them."""

from __future__ import annotations

import csv
import io
import json
from pathlib import Path
from types import ModuleType

import pytest
import torch

from benchmarks import contestants, harness, hypergradient
from benchmarks.contestants import Gradients, Problem, Setting, prepare
from tests.matching.problems import relative_error

TINY = {"model": "convnet2", "width": 4, "size": 8, "channels": 2, "classes": 3, "batch": 4, "steps": 3, "threads": 1}
DOUBLE = {**TINY, "dtype": "float64"}
FLAGS = [f"--{name}={value}" for name, value in TINY.items()]


def gradients(name: str, **changes: object) -> Gradients:
    actual = prepare(name, {**DOUBLE, **changes}).call()
    assert actual is not None
    return actual


@pytest.mark.parametrize("name", ["tesla", "torch.func", "autograd", "torch-memory"])
@pytest.mark.parametrize("model", ["convnet2", "convnet1-max-nonorm", "mlp"])
def test_truncated_gradients_are_those_of_match(name: str, model: str) -> None:
    problem = {"model": model, "gradient": "truncated"}
    assert_same(gradients(name, **problem), gradients("torch", **problem))


@pytest.mark.parametrize("name", ["torch.func", "autograd", "torch-memory"])
@pytest.mark.parametrize("model", ["convnet2", "mlp"])
def test_exact_gradients_are_those_of_match(name: str, model: str) -> None:
    assert_same(gradients(name, model=model), gradients("torch", model=model))


@pytest.mark.parametrize("name", ["tesla", "torch.func", "autograd", "torch-memory"])
def test_batches_and_augmentations_are_drawn_alike_for_everyone(name: str) -> None:
    problem = {"gradient": "truncated", "images": 7, "dsa": "color_crop_cutout_flip_scale_rotate", "steps": 6}
    actual, expected = gradients(name, **problem), gradients("torch", **problem)
    assert actual.images.shape[0] == 7
    assert_same(actual, expected)
    assert relative_error(gradients("torch", **{**problem, "dsa": ""}).images, expected.images) > 0.1


def assert_same(actual: Gradients, expected: Gradients) -> None:
    for name in ("loss", "images", "lr"):
        value = getattr(expected, name)
        assert value.norm() > 0
        assert relative_error(getattr(actual, name), value) <= 1e-9, name


@pytest.mark.parametrize("steps", [1, 20])
def test_the_nearest_step_is_the_last(steps: int) -> None:
    """So that a sweep goes back through all N steps, whatever the selection."""
    assert gradients("torch", selection="nearest", steps=steps).step == steps


def test_every_process_has_the_same_problem() -> None:
    one, other = Problem(Setting(**TINY)), Problem(Setting(**TINY))
    for name in ("images", "start", "target"):
        assert torch.equal(getattr(one, name), getattr(other, name))


def test_multiply_adds_are_counted_by_hand() -> None:
    """ConvNetD2 on 2 × 8×8, width 4, 3 classes: layers of F multiply-adds an image; steps 3F and 8F, the first layer
    2F and 5F; the sweep's step 0 and the truncated gradient have no weight gradient."""
    first, second, classifier = 64 * 4 * 2 * 9, 16 * 4 * 4 * 9, 16 * 3
    others = second + classifier
    exact = 3 * (7 * first + 11 * others) - (first + 2 * others)
    assert contestants.multiply_adds(Setting(**TINY)) == 4 * exact
    truncated = 3 * (6 * first + 9 * others)
    assert contestants.multiply_adds(Setting(**{**TINY, "gradient": "truncated"})) == 4 * truncated


def test_bytes_are_counted_by_hand() -> None:
    """An MLP of one hidden layer: each call reads its operands and writes its result, less what the cache holds."""
    setting = Setting(**{**TINY, "model": "mlp-d2", "steps": 1})
    layers = [item.shape for item in setting.network().parameters() if item.ndim == 2]
    (hidden, pixels), (classes, _) = layers
    first, last = 4 * (4 * (pixels + hidden) + pixels * hidden), 4 * (4 * (hidden + classes) + hidden * classes)
    # Step: forward and weight of both, input of the last. Sweep: forward and input twice, once of the last paired.
    pair = last + 4 * 4 * (hidden + classes)
    expected = 2 * first + 3 * last + 4 * first + 2 * (pair + last)
    assert contestants.bytes_beyond(setting, 0) == expected
    assert contestants.bytes_beyond(setting, 2**40) == 0


@pytest.mark.parametrize("model", ["convnet2", "mlp", "resnet18"])
def test_the_floor_runs_the_products_of_the_sweep(model: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Each product can be called in the shapes that it is counted in."""
    calls = []
    run = contestants._Layer.run

    def counted(layer: contestants._Layer, product: str, batches: int) -> None:
        run(layer, product, batches)
        calls.append(layer.multiply_adds * batches)

    monkeypatch.setattr(contestants._Layer, "run", counted)
    prepare("floor", {**DOUBLE, "model": model}).call()
    assert sum(calls) == contestants.multiply_adds(Setting(**{**DOUBLE, "model": model}))


def test_arithmetic_is_counted_at_the_speed_of_a_matrix_product() -> None:
    work = prepare("arithmetic", TINY)
    assert work.scale == contestants.multiply_adds(Setting(**TINY)) / 2048**3
    assert work.call() is None


@pytest.mark.slow
def test_times_are_printed_and_appended(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    """Of one contestant of every kind: the tests above call the others."""
    file, samples = tmp_path / "rows.csv", tmp_path / "samples.json"
    names = ["autograd", "tesla", "floor"]
    flags = [*FLAGS, f"--backends={','.join(names)}", "--repeat=3", f"--csv={file}", "--time-only"]
    assert hypergradient.main([*flags, f"--json={samples}"]) == 0
    rows = harness.read_rows(file)
    assert [row["contestant"] for row in rows] == names
    for row in rows:
        assert 0 < float(row["q10"]) <= float(row["median"]) <= float(row["q90"])
        assert (row["repeats"], row["threads"], row["torch"], row["batch"]) == ("3", "1", torch.__version__, "4")
        assert row["allocator"] == ("keeping" if row["contestant"] == "floor" else "default")
        assert row["gradient"] == ("truncated" if row["contestant"] == "tesla" else "exact")
        assert row["peak_mb"] == ""
    outcomes = json.loads(samples.read_text())["runs"][0]["outcomes"]
    assert [len(outcome["seconds"]) for outcome in outcomes] == [3] * len(names)
    printed = capfd.readouterr().out.splitlines()
    assert [line.split()[0] for line in printed[2:]] == names
    assert printed[2].split()[5] == "1.000"


def test_memory_for_several_steps_and_a_contestant_that_cannot_run(
    tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    if not Path("/proc/self/clear_refs").exists():
        pytest.skip("peak resident memory is read from Linux's /proc")
    file = tmp_path / "rows.csv"
    flags = ["--memory-only", "--selection=nearest", "--backends=torch,tesla", f"--csv={file}"]
    assert hypergradient.main([*FLAGS, *flags, "--steps=1,2"]) == 0
    rows = harness.read_rows(file)
    assert [(row["contestant"], row["steps"], row["median"]) for row in rows] == [
        ("torch", "1", ""),
        ("torch", "2", ""),
    ]
    assert all(float(row["peak_mb"]) > 0 for row in rows)
    assert float(rows[1]["vectors_mb"]) >= float(rows[0]["vectors_mb"]) > 0
    assert "cannot run: tesla is written for selection 'last' only" in capfd.readouterr().out


def test_a_worker_takes_one_problem_after_the_other() -> None:
    prepared: list[dict[str, object]] = []

    class Adding:
        scale = 1.0

        def call(self) -> None:
            torch.ones(300, 300) @ torch.ones(300, 300)

    module = ModuleType("adding")

    def prepare(name: str, setting: dict[str, object]) -> Adding:
        prepared.append(setting)
        return Adding()

    module.prepare = prepare  # type: ignore[attr-defined]
    replies = io.StringIO()
    requests = 'problem {"steps": 1}\ntime\ntime\nproblem {"steps": 2}\ntime\npeak\nkernels\n'
    harness.serve(module, "any", {"steps": 0}, io.StringIO(requests), replies)
    actual = [json.loads(line) for line in replies.getvalue().splitlines()]
    assert prepared == [{"steps": 1}, {"steps": 2}]
    assert actual[0] == actual[3] == {"value": 0.0}
    assert all(reply["value"] > 0 for reply in (*actual[1:3], *actual[4:]))
    assert actual[5]["reserved"] >= actual[5]["value"]
    assert "aten::mm" in actual[6]["table"]


def test_the_results_have_the_columns_of_the_benchmark() -> None:
    with open(hypergradient.RESULTS, newline="", encoding="utf-8") as handle:
        assert next(csv.reader(handle)) == list(hypergradient.COLUMNS)


@pytest.mark.cuda
@pytest.mark.slow
def test_on_a_gpu(tmp_path: Path) -> None:
    if not torch.cuda.is_available():
        pytest.skip("no NVIDIA GPU is visible")
    file = tmp_path / "rows.csv"
    names = "autograd,torch,tesla,torch.func,floor,arithmetic"
    flags = [*FLAGS, "--device=cuda", f"--backends={names}", "--repeat=2", f"--csv={file}"]
    assert hypergradient.main(flags) == 0
    rows = harness.read_rows(file)
    assert [row["contestant"] for row in rows] == names.split(",")
    assert all(float(row["peak_mb"]) > 0 for row in rows[:4])
    assert {row["device"] for row in rows} == {torch.cuda.get_device_name()}
