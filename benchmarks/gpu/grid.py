"""Seconds and memory of one outer iteration on the papers' problems, by each contestant, beside the floor.

    python -m benchmarks.gpu.grid OUT_DIR --seconds 200
    python -m benchmarks.gpu.grid OUT_DIR --device cpu --scale tiny      problems of a few pixels, to try it

An outer iteration draws the batches and their augmentation, trains the student for N steps, and goes back to the
gradients of the images and the learning rate. Reading an expert's two points and moving the pixels are no part of it.

Contestants are processes that work one at a time and free their memory before the next begins. A contestant first runs
an eighth of the steps. If its time does not suffice for a complete iteration, or memory runs out in one, its row is
this part, scaled to N and marked so. Rows are appended to OUT_DIR/grid.csv as they are measured; benchmarks.gpu.table
makes a table of them.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import sys
import time
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Protocol

import torch

from benchmarks import harness
from benchmarks.contestants import Setting, bytes_beyond, gradient_of, multiply_adds
from benchmarks.gpu import arguments, ceilings, table
from benchmarks.gpu.ceilings import Ceilings
from benchmarks.harness import CannotRun, Worker
from pydistill.data.dsa import DsaSettings

MODULE = "benchmarks.contestants"
FILE = "grid.csv"

_CIFAR = Setting(dsa=DsaSettings().strategy)
PROBLEMS = {
    "C10-1": replace(_CIFAR, images=10, batch=10, steps=80),
    "C10-10": replace(_CIFAR, images=100, batch=100, steps=30),
    "C10-50": replace(_CIFAR, images=500, batch=500, steps=50),
    "C100-10": replace(_CIFAR, classes=100, images=1000, batch=1000, steps=20),
    "C100-50": replace(_CIFAR, classes=100, images=5000, batch=1200, steps=80),
    "Tiny-10": replace(_CIFAR, model="convnet4", size=64, classes=200, images=2000, batch=500, steps=20),
}
"""ConvNetD3 and D4 of width 128 at the images per class, batches and steps of the papers, with their augmentation."""

CONTESTANTS: dict[str, tuple[str, dict[str, str]]] = {
    "fused": ("fused", {}),
    "autograd": ("autograd", {}),
    "tesla": ("tesla", {}),
    "torch": ("torch", {}),
    "fused-direct": ("fused", {"PYDISTILL_CUDA_GRAPHS": "0"}),
}
"""The contestants with their environment variables."""

GROWING = ("autograd",)  # whose memory grows with the steps
PROFILED = ("C10-50",)  # where kernels are timed too
REPEATS = 10
MOST_WARNINGS = 50  # lines of a worker
GRACE = 30.0  # seconds beyond its share after which a contestant is stopped

PROBLEM = ("model", "width", "size", "channels", "classes", "images", "batch", "steps", "dsa", "selection", "dtype")
COLUMNS = (
    *("date", "commit", "machine", "device", "torch", "cuda", "problem"),
    *PROBLEM,
    *("contestant", "gradient", "median", "q10", "q90", "repeats", "steps_run", "peak_mb", "reserved_mb", "kernels"),
    *("note", "multiply_adds", "bytes", "matrix_rate", "copy_rate", "precision"),
)


class Timeable(Protocol):
    """The requests that a worker answers."""

    def ask(self, what: str, limit: float | None = None) -> float: ...

    def request(self, what: str, limit: float | None = None) -> dict[str, Any]: ...


@dataclass
class Outcome:
    """The measurements of one contestant on one problem; `seconds` are of outer iterations, scaled if needed."""

    seconds: list[float] = field(default_factory=list)
    steps: int = 0  # student steps of the iterations that were run
    peak_mb: float | None = None
    reserved_mb: float | None = None
    kernels: float | None = None  # seconds that the kernels of an outer iteration run
    kernel_table: str = ""
    note: str = ""
    broken: bool = False  # the worker cannot go on


def tiny(setting: Setting) -> Setting:
    """Shrink the problem to a size that a CPU does in milliseconds."""
    size = 16 if setting.model == "convnet4" else 8
    return replace(setting, width=4, size=size, classes=3, images=6, batch=4, steps=9, threads=1)


def measure(worker: Timeable, setting: Setting, share: float, *, room_mb: float | None = None) -> Outcome:
    """Time an outer iteration within about `share` seconds; the outcome's note says what could not be measured.

    Args:
        room_mb: the device's memory, of a contestant whose memory grows with the steps: if N of them are not likely to
            fit, all are tried even where there is no time, so that no scaled time stands for a run out of memory.
    """
    outcome, limit, part = Outcome(), share + GRACE, part_of(setting)
    deadline = time.monotonic() + share
    scale, scaled = setting.steps / part.steps, f"scaled from {part.steps} of {setting.steps} steps"
    try:
        _pose(worker, part)
        worker.ask("time", limit)
        predicted = scale * min(worker.ask("time", limit) for _ in range(2))
        _record(outcome, worker, [predicted], part)
        overflows = room_mb is not None and scale * worker.ask("peak") > room_mb
        if deadline - time.monotonic() < 2 * predicted and not overflows:
            outcome.note = scaled
            return outcome
        _pose(worker, setting)
        for _ in range(harness.WARM_CALLS if deadline - time.monotonic() > 4 * predicted else 1):
            worker.ask("time", limit)
        seconds: list[float] = []
        while not seconds or (len(seconds) < REPEATS and deadline - time.monotonic() > predicted):
            seconds.append(worker.ask("time", limit))
        _record(outcome, worker, seconds, setting)
    except CannotRun as error:
        memory = "out of memory" in str(error)
        outcome.broken = not memory
        outcome.note = (table.OUT_OF_MEMORY if memory else str(error)) + (f"; {scaled}" if outcome.seconds else "")
    return outcome


def measure_kernels(worker: Timeable, setting: Setting, outcome: Outcome) -> None:
    """Time the kernels of a part, and scale that to N; where they cannot be timed, the table says why."""
    part = part_of(setting)
    try:
        _pose(worker, part)
        for _ in range(harness.WARM_CALLS):
            worker.ask("time", GRACE)
        reply = worker.request("kernels", GRACE)
    except CannotRun as error:
        outcome.broken, outcome.kernel_table = True, f"they cannot be timed: {error}"
    else:
        outcome.kernels, outcome.kernel_table = reply["value"] * setting.steps / part.steps, reply["table"]


def part_of(setting: Setting) -> Setting:
    """Return the problem with an eighth of the steps."""
    return replace(setting, steps=-(-setting.steps // 8))


def _pose(worker: Timeable, setting: Setting) -> None:
    worker.ask(f"problem {json.dumps(asdict(setting))}", GRACE)


def _record(outcome: Outcome, worker: Timeable, seconds: list[float], setting: Setting) -> None:
    peak = worker.request("peak")
    outcome.seconds, outcome.steps = seconds, setting.steps
    outcome.peak_mb, outcome.reserved_mb = peak["value"], peak["reserved"]


def row_of(
    name: str, contestant: str, setting: Setting, outcome: Outcome, result: Ceilings, shared: Mapping[str, Any]
) -> dict[str, Any]:
    """Convert an outcome to a row of the results."""
    counted = replace(setting, device="cpu")
    row: dict[str, Any] = dict.fromkeys(COLUMNS, "") | dict(shared)
    row |= {key: getattr(setting, key) for key in PROBLEM}
    row |= {"problem": name, "contestant": contestant, "note": outcome.note}
    row |= {"gradient": gradient_of(contestant, setting), "multiply_adds": multiply_adds(counted)}
    row |= {"bytes": bytes_beyond(counted, result.cache), "precision": result.precision}
    row |= {"matrix_rate": f"{result.matrix_rate:.4g}", "copy_rate": f"{result.copy_rate:.4g}"}
    if outcome.seconds:
        times = zip(("median", "q10", "q90"), harness.quantiles(outcome.seconds), strict=True)
        row |= {key: f"{value:.6g}" for key, value in times}
        row |= {"repeats": len(outcome.seconds), "steps_run": outcome.steps}
    for key in ("peak_mb", "reserved_mb"):
        value = getattr(outcome, key)
        row[key] = "" if value is None else f"{value:.1f}"
    row["kernels"] = "" if outcome.kernels is None else f"{outcome.kernels:.6g}"
    return row


def run(out: Path, names: Sequence[str], contestants: Sequence[str], options: argparse.Namespace) -> int:
    """Measure problem after problem, appending rows; return the number of rows with times."""
    deadline = time.monotonic() + options.seconds
    pairs = [(name, contestant) for name in names for contestant in contestants]
    result, shared = _ceilings(options.device), _shared(options.device)
    cuda = options.device == "cuda"
    room_mb = torch.cuda.get_device_properties(0).total_memory / harness.MEGABYTE if cuda else None
    timed = 0
    with contextlib.ExitStack() as stack:
        # All start at once, so that they load PyTorch while the first one works.
        workers = {contestant: _start(stack, contestant) for contestant in contestants}
        printed: set[tuple[str, str]] = set()
        for place, (name, contestant) in enumerate(pairs):
            setting = replace(PROBLEMS[name], device=options.device)
            setting = tiny(setting) if options.scale == "tiny" else setting
            share = (deadline - time.monotonic()) / (len(pairs) - place)
            if share <= 0:
                print(f"the time is over; not measured: {', '.join(' '.join(pair) for pair in pairs[place:])}")
                break
            room = room_mb if contestant in GROWING else None
            worker = workers[contestant]
            outcome = measure(worker, setting, share, room_mb=room)
            if name in PROFILED and outcome.seconds:
                measure_kernels(worker, setting, outcome)
            row = row_of(name, contestant, setting, outcome, result, shared)
            harness.append_rows(out / FILE, COLUMNS, [row])
            print(_line(row), flush=True)
            if outcome.kernel_table:
                print(f"kernels of {contestant} on {name}, an eighth of the steps:\n{outcome.kernel_table}", flush=True)
            timed += bool(outcome.seconds)
            _print_warnings(contestant, worker, printed)
            if outcome.broken or not _released(worker):
                worker.close()
                workers[contestant] = _start(stack, contestant)
    return timed


def _ceilings(device: str) -> Ceilings:
    result = ceilings.measure(device)
    rates = f"{result.matrix_rate / 1e12:.3g} TFLOP/s ({result.precision}), copy {result.copy_rate / 1e12:.3g} TB/s"
    print(f"ceilings: {rates}, cache {result.cache / harness.MEGABYTE:.0f} MB", flush=True)
    if device == "cuda":
        torch.cuda.empty_cache()
    return result


def _shared(device: str) -> dict[str, Any]:
    cuda = device == "cuda"
    return {
        "date": datetime.now(UTC).isoformat(timespec="seconds"),
        "commit": harness.commit(),
        "machine": harness.machine(),
        "device": torch.cuda.get_device_name() if cuda else "cpu",
        "torch": torch.__version__,
        "cuda": torch.version.cuda if cuda else "",
    }


def _start(stack: contextlib.ExitStack, contestant: str) -> Worker:
    name, environment = CONTESTANTS[contestant]
    return stack.enter_context(Worker(MODULE, name, {}, "default", environment))


def _print_warnings(contestant: str, worker: Worker, printed: set[tuple[str, str]]) -> None:
    """Print the worker's new warnings."""
    for line in worker.said()[:MOST_WARNINGS]:
        if (contestant, line) not in printed:
            printed.add((contestant, line))
            print(f"{contestant} says: {line}", flush=True)


def _released(worker: Worker) -> bool:
    """Let a worker free its memory; return whether it did."""
    try:
        worker.ask("problem {}", GRACE)
    except CannotRun:
        return False
    return True


def _line(row: Mapping[str, Any]) -> str:
    cells = [f"{row['problem']:>8} {row['contestant']:>12}"]
    if row["median"]:
        spread = f"({float(row['q10']):.4g} – {float(row['q90']):.4g})"
        cells.append(f"{float(row['median']):>10.4g} s {spread}, {row['repeats']} times")
    if row["peak_mb"]:
        cells.append(f"{float(row['peak_mb']):,.0f} MB (reserved {float(row['reserved_mb']):,.0f})")
    return "  ".join([*cells, row["note"]]).rstrip()


def parse(command: Sequence[str] | None) -> argparse.Namespace:
    """Parse the command line; an error is one sentence, and the exit status is 2."""
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.gpu.grid", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("out", type=Path, metavar="OUT_DIR", help="grid.csv goes there")
    parser.add_argument("--seconds", type=harness.counted, default=200, help="for everything")
    parser.add_argument("--problems", nargs="+", choices=PROBLEMS, default=list(PROBLEMS))
    parser.add_argument("--contestants", nargs="+", choices=CONTESTANTS, default=list(CONTESTANTS))
    parser.add_argument("--device", choices=("cuda", "cpu"), default="cuda")
    parser.add_argument("--scale", choices=("full", "tiny"), default="full")
    options = parser.parse_args(command)
    arguments.check(parser, options)
    try:
        harness.check_header(options.out / FILE, COLUMNS)
    except ValueError as error:
        parser.error(str(error))
    return options


def main(command: Sequence[str] | None = None) -> int:
    """Measure, append, print; 1 if nothing could be timed."""
    options = parse(command)
    timed = run(options.out, options.problems, options.contestants, options)
    print(table.of_rows(harness.read_rows(options.out / FILE)))
    return 0 if timed else 1


if __name__ == "__main__":
    sys.exit(main())
