"""The contestants agree with the package's own gradients, and the harness measures, tells and records them."""

from __future__ import annotations

import csv
import io
import json
import re
import subprocess
import sys
from pathlib import Path
from types import ModuleType

import pytest
import torch

from benchmarks import contestants, harness, hypergradient
from benchmarks.contestants import Gradients, Problem, Setting, prepare
from benchmarks.harness import CannotRun, Worker
from tests.matching.problems import relative_error

TINY = {"model": "convnet2", "width": 4, "size": 8, "channels": 2, "classes": 3, "batch": 4, "steps": 3, "threads": 1}
DOUBLE = {**TINY, "dtype": "float64"}
FLAGS = [f"--{name}={value}" for name, value in TINY.items()]


def gradients(name: str, **changes: object) -> Gradients:
    found = prepare(name, {**DOUBLE, **changes}).call()
    assert found is not None
    return found


@pytest.mark.parametrize("name", ["tesla", "torch.func", "autograd"])
@pytest.mark.parametrize("model", ["convnet2", "convnet1-max-nonorm", "mlp"])
def test_truncated_gradients_are_those_of_match(name: str, model: str) -> None:
    problem = {"model": model, "gradient": "truncated"}
    assert_same(gradients(name, **problem), gradients("torch", **problem))


@pytest.mark.parametrize("name", ["torch.func", "autograd"])
@pytest.mark.parametrize("model", ["convnet2", "mlp"])
def test_exact_gradients_are_those_of_match(name: str, model: str) -> None:
    assert_same(gradients(name, model=model), gradients("torch", model=model))


@pytest.mark.parametrize("name", ["tesla", "torch.func", "autograd"])
def test_batches_and_augmentations_are_drawn_alike_for_everyone(name: str) -> None:
    problem = {"gradient": "truncated", "images": 7, "dsa": "color_crop_cutout_flip_scale_rotate", "steps": 6}
    found, expected = gradients(name, **problem), gradients("torch", **problem)
    assert found.images.shape[0] == 7
    assert_same(found, expected)
    assert relative_error(gradients("torch", **{**problem, "dsa": ""}).images, expected.images) > 0.1


def assert_same(found: Gradients, expected: Gradients) -> None:
    for name in ("loss", "images", "lr"):
        value = getattr(expected, name)
        assert value.norm() > 0
        assert relative_error(getattr(found, name), value) <= 1e-9, name


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
    layers = [each.shape for each in setting.network().parameters() if each.ndim == 2]
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

    def noted(layer: contestants._Layer, product: str, batches: int) -> None:
        run(layer, product, batches)
        calls.append(layer.multiply_adds * batches)

    monkeypatch.setattr(contestants._Layer, "run", noted)
    prepare("floor", {**DOUBLE, "model": model}).call()
    assert sum(calls) == contestants.multiply_adds(Setting(**{**DOUBLE, "model": model}))


def test_arithmetic_is_counted_at_the_speed_of_a_matrix_product() -> None:
    work = prepare("arithmetic", TINY)
    assert work.scale == contestants.multiply_adds(Setting(**TINY)) / 2048**3
    assert work.call() is None


@pytest.mark.slow
def test_times_of_every_contestant_are_printed_and_appended(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    file, samples = tmp_path / "found.csv", tmp_path / "found.json"
    names = ["autograd", "torch", "tesla", "torch.func", "floor", "arithmetic"]
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
    file = tmp_path / "found.csv"
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


def test_status_1_if_nothing_could_run(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    file = tmp_path / "found.csv"
    flags = ["--time-only", "--selection=nearest", "--backends=tesla,torch.func", f"--csv={file}"]
    assert hypergradient.main([*FLAGS, *flags]) == 1
    assert capfd.readouterr().out.count("cannot run: ") == 2
    assert harness.read_rows(file) == []


def test_a_contestant_that_fails_later_has_no_row() -> None:
    """Out of memory in the second round, say: what it did before does not count, and the others go on."""

    class Failing:
        scale = 1.0

        def __init__(self) -> None:
            self.calls = 0

        def call(self) -> None:
            self.calls += 1
            if self.calls > 1:
                raise RuntimeError("out of memory\nand much more")

    replies = _served(Failing(), "time\ntime\n")
    assert replies[0]["value"] > 0
    assert replies[1] == {"error": "out of memory"}


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
    asked = 'problem {"steps": 1}\ntime\ntime\nproblem {"steps": 2}\ntime\npeak\nkernels\n'
    harness.serve(module, "any", {"steps": 0}, io.StringIO(asked), replies)
    found = [json.loads(line) for line in replies.getvalue().splitlines()]
    assert prepared == [{"steps": 1}, {"steps": 2}]
    assert found[0] == found[3] == {"value": 0.0}
    assert all(reply["value"] > 0 for reply in (*found[1:3], *found[4:]))
    assert found[5]["reserved"] >= found[5]["value"]
    assert "aten::mm" in found[6]["table"]


def test_a_worker_is_stopped_at_its_limit() -> None:
    with Worker("benchmarks.contestants", "autograd", TINY) as worker:
        with pytest.raises(CannotRun, match=r"it was stopped after 0 s without an answer"):
            worker.ask("time", limit=0.05)
        with pytest.raises(CannotRun, match=r"its process was killed"):
            worker.ask("time")


def _served(contestant: harness.Contestant, asked: str) -> list[dict[str, object]]:
    module = ModuleType("one_contestant")
    module.prepare = lambda name, setting: contestant  # type: ignore[attr-defined]
    replies = io.StringIO()
    harness.serve(module, "any", {}, io.StringIO(asked), replies)
    return [json.loads(line) for line in replies.getvalue().splitlines()]


def test_a_worker_that_dies_tells_its_last_words() -> None:
    said = r"ended with status 1: .*No module named 'benchmarks.nowhere'"
    with Worker("benchmarks.nowhere", "torch", TINY) as worker:
        with pytest.raises(CannotRun, match=said):
            worker.ask("time")
        assert worker.said()[0].startswith("Traceback")


def test_turns_and_allocators(monkeypatch: pytest.MonkeyPatch) -> None:
    """A round calls everyone once; who fails is left out from then on; malloc's settings are the harness's own."""
    asked: list[str] = []

    class Scripted:
        def __init__(self, module: str, name: str, setting: dict[str, object], allocator: str) -> None:
            self.name = name

        def ask(self, what: str) -> float:
            asked.append(self.name)
            if self.name == "tesla" and asked.count("tesla") == 4:
                raise CannotRun("enough")
            return 1.0

        def close(self) -> None: ...

        def __enter__(self) -> Scripted:
            return self

        def __exit__(self, *_: object) -> None: ...

    monkeypatch.setattr(hypergradient, "Worker", Scripted)
    outcomes = [hypergradient.Outcome(name, "default") for name in ("torch", "tesla", "floor")]
    hypergradient.measure_times(outcomes, Setting(**TINY), 3)
    warm = 3 * harness.WARM_CALLS
    rounds = [set(asked[at : at + 3]) for at in range(0, warm + 3, 3)]
    assert rounds == [{"torch", "tesla", "floor"}] * (harness.WARM_CALLS + 1)
    assert asked[0] != asked[3] != asked[6]
    assert [each.seconds for each in outcomes] == [[1.0] * 3, [], [1.0] * 3]
    assert outcomes[1].reason == "enough"


def test_workers_malloc_is_the_one_asked_for(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MALLOC_TOP_PAD_", "1")
    started: list[dict[str, str]] = []
    popen = subprocess.Popen

    def noted(command: list[str], **options: object) -> subprocess.Popen[str]:
        started.append(options["env"])  # type: ignore[arg-type]
        return popen([sys.executable, "-c", ""], **options)  # type: ignore[call-overload, no-any-return]

    monkeypatch.setattr(subprocess, "Popen", noted)
    for allocator in ("default", "keeping"):
        Worker("benchmarks.contestants", "floor", TINY, allocator).close()
    found = [{name: value for name, value in each.items() if name.startswith("MALLOC_")} for each in started]
    assert found == [{}, harness.ALLOCATORS["keeping"]]


def test_a_csv_of_other_columns_is_not_written_to(tmp_path: Path) -> None:
    file = tmp_path / "other.csv"
    harness.append_rows(file, ["a", "b"], [{"a": 1, "b": 2}])
    with pytest.raises(ValueError, match="has other columns"):
        harness.append_rows(file, ["a", "c"], [{"a": 1, "c": 2}])
    harness.append_rows(file, ["a", "b"], [{"a": 3, "b": 4}])
    assert harness.read_rows(file) == [{"a": "1", "b": "2"}, {"a": "3", "b": "4"}]


def test_the_results_have_the_columns_of_the_benchmark() -> None:
    with open(hypergradient.RESULTS, newline="", encoding="utf-8") as handle:
        assert next(csv.reader(handle)) == list(hypergradient.COLUMNS)


@pytest.mark.parametrize(
    ("flags", "sentence"),
    [
        (["--backends=torch,fast"], "there is no contestant 'fast'; there are autograd, torch, fused, tesla"),
        (["--batch=0"], "argument --batch: must be a whole number of at least 1, not '0'"),
        (["--steps=5,x"], "argument --steps: must be a whole number of at least 1, not 'x'"),
        (["--gradient=half"], "argument --gradient: invalid choice: 'half'"),
        (["--model=convnet7"], "depth must be .* not 7"),
        (["--model=convnet4", "--size=8"], "images of 8x8 are too small for a ConvNet of depth 4"),
        (["--memory-only", "--time-only"], "not allowed with argument"),
        (["--csv=README.md"], "README.md has other columns than these rows"),
        (["--json=nowhere/found.json"], "argument --json: there is no folder nowhere"),
    ],
)
def test_bad_arguments(
    flags: list[str], sentence: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(harness.ROOT)
    with pytest.raises(SystemExit) as stopped:
        hypergradient.main(flags)
    said = capsys.readouterr().err.splitlines()
    assert stopped.value.code == 2
    assert re.search(sentence, said[-1])


@pytest.mark.skipif(torch.cuda.is_available(), reason="a GPU is there")
def test_no_gpu(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        hypergradient.main(["--device=cuda"])
    assert "argument --device: no NVIDIA GPU is visible" in capsys.readouterr().err


@pytest.mark.cuda
@pytest.mark.slow
def test_on_a_gpu(tmp_path: Path) -> None:
    if not torch.cuda.is_available():
        pytest.skip("no NVIDIA GPU is visible")
    file = tmp_path / "found.csv"
    names = "autograd,torch,tesla,torch.func,floor,arithmetic"
    flags = [*FLAGS, "--device=cuda", f"--backends={names}", "--repeat=2", f"--csv={file}"]
    assert hypergradient.main(flags) == 0
    rows = harness.read_rows(file)
    assert [row["contestant"] for row in rows] == names.split(",")
    assert all(float(row["peak_mb"]) > 0 for row in rows[:4])
    assert {row["device"] for row in rows} == {torch.cuda.get_device_name()}
