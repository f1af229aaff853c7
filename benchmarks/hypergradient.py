"""Time and memory of one hypergradient by every contestant, in separate processes that take turns.

    python -m benchmarks.hypergradient --model convnet3 --width 128 --batch 100 --steps 5 --backends torch,fused,floor

A hypergradient is `pydistill.match(…).loss.backward()`: N student steps forward, the sweep back, gradients to the
images and the learning rate. Contestants: the backends autograd, torch and fused; torch-memory (torch with memory for
the graphs of all steps); tesla (the published scheme, with the truncated gradient); torch.func (forward over reverse);
floor (the convolutions and matrix products alone, malloc keeping freed memory); arithmetic (their multiply-adds at the
speed of a product of two 2048² matrices).

In a round every contestant is called once, warm, one at a time; times are per student step, median and 10 % to 90 %
quantiles over the rounds. Memory is the peak of the first call in a fresh process whose malloc gives freed memory back,
above what was there before; the N + 1 parameter vectors that the sweep keeps by design are a column of their own. Rows
are appended to benchmarks/results/hypergradient.csv, where `median`, `q10` and `q90` are seconds per student step;
benchmarks.report makes docs/performance.md of them.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import sys
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field, fields, replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import torch

from benchmarks import harness
from benchmarks.contestants import BACKENDS, CONTESTANTS, DTYPES, YARDSTICKS, Setting, gradient_of, vectors_bytes
from benchmarks.harness import CannotRun, Worker
from pydistill.data.dsa import DsaSettings
from pydistill.errors import InputError
from pydistill.matching import GRADIENTS, SELECTIONS

RESULTS = harness.RESULTS / "hypergradient.csv"
MODULE = "benchmarks.contestants"

PROBLEM = ("model", "width", "size", "channels", "classes", "batch", "steps", "dsa", "gradient", "selection", "dtype")
COLUMNS = (
    *("date", "commit", "machine", "torch", "threads", "device"),
    *PROBLEM,
    *("contestant", "median", "q10", "q90", "repeats", "peak_mb", "vectors_mb", "allocator"),
)


@dataclass
class Outcome:
    """The measurements of one contestant, or the reason why it cannot run."""

    contestant: str
    allocator: str
    seconds: list[float] = field(default_factory=list)  # one number per call
    peak_mb: float | None = None
    reason: str | None = None

    def per_step(self, steps: int) -> tuple[float, float, float] | None:
        """Median, 10 % and 90 % quantile of the seconds per student step."""
        if not self.seconds:
            return None
        return harness.quantiles([value / steps for value in self.seconds])


def measure_times(outcomes: Sequence[Outcome], setting: Setting, repeats: int) -> None:
    """Measure the outcomes' seconds: every contestant once per round, in its process, one at a time."""
    with contextlib.ExitStack() as stack:
        workers = {
            value.contestant: stack.enter_context(Worker(MODULE, value.contestant, asdict(setting), value.allocator))
            for value in outcomes
        }
        turns = harness.take_turns(workers, repeats)
    for outcome in outcomes:
        result = turns[outcome.contestant]
        if isinstance(result, str):
            outcome.reason = result
        else:
            outcome.seconds = result


def measure_memory(name: str, setting: Setting) -> float:
    """Measure the peak in MB of one hypergradient in a separate process.

    Raises:
        CannotRun: it cannot run, or peaks cannot be read here.
    """
    with Worker(MODULE, name, asdict(setting), "returning") as worker:
        return worker.ask("memory")


def measure(names: Sequence[str], setting: Setting, options: argparse.Namespace) -> list[Outcome]:
    """Measure the requested time and memory of every contestant."""
    outcomes = [Outcome(name, "keeping" if name == "floor" else options.allocator) for name in names]
    if not options.memory_only:
        measure_times(outcomes, setting, options.repeat)
    if not options.time_only:
        for outcome in outcomes:
            if outcome.contestant in YARDSTICKS or outcome.reason is not None:
                continue
            try:
                outcome.peak_mb = measure_memory(outcome.contestant, setting)
            except CannotRun as error:
                outcome.reason = str(error)
    return outcomes


def rows_of(outcomes: Sequence[Outcome], setting: Setting, date: str) -> list[dict[str, Any]]:
    """Convert the measured outcomes to rows of the results."""
    device = setting.device if setting.device == "cpu" else torch.cuda.get_device_name(setting.device)
    shared = {name: getattr(setting, name) for name in PROBLEM} | {
        "date": date,
        "commit": harness.commit(),
        "machine": harness.machine(),
        "torch": torch.__version__,
        "threads": setting.threads,
        "device": device,
    }
    vectors_mb = vectors_bytes(setting) / harness.MEGABYTE
    rows = []
    for outcome in outcomes:
        times = outcome.per_step(setting.steps)
        if times is None and outcome.peak_mb is None:
            continue
        row: dict[str, Any] = dict.fromkeys(COLUMNS, "") | shared
        row |= {"contestant": outcome.contestant, "gradient": gradient_of(outcome.contestant, setting)}
        if times is not None:
            row |= dict(zip(("median", "q10", "q90"), (f"{value:.6g}" for value in times), strict=True))
            row |= {"repeats": len(outcome.seconds), "allocator": outcome.allocator}
        if outcome.peak_mb is not None:
            row |= {"peak_mb": f"{outcome.peak_mb:.1f}", "vectors_mb": f"{vectors_mb:.4g}"}
        rows.append(row)
    return rows


def table(outcomes: Sequence[Outcome], setting: Setting) -> str:
    """Format the outcomes, one line per contestant."""
    vectors = vectors_bytes(setting) / harness.MEGABYTE
    lines = [
        f"{setting.model}, width {setting.width}, {setting.channels} × {setting.size}×{setting.size}, "
        f"batch {setting.batch}, {setting.steps} steps, {setting.dsa or 'no augmentation'}, "
        f"{setting.gradient}, {setting.selection}, {setting.dtype}, "
        f"{setting.device}, {setting.threads} threads; parameter vectors {vectors:.1f} MB",
        f"{'contestant':>10} {'s/step':>10} {'10 %':>10} {'90 %':>10} {'s/call':>10} {'/autograd':>9} {'peak MB':>9} "
        f"{'less vectors':>12}",
    ]
    oracle = next((value.per_step(setting.steps) for value in outcomes if value.contestant == "autograd"), None)
    for outcome in outcomes:
        cells = []
        if times := outcome.per_step(setting.steps):
            ratio = f"{times[0] / oracle[0]:.3f}" if oracle else ""
            cells = [*(f"{value:>10.4g}" for value in (*times, times[0] * setting.steps)), f"{ratio:>9}"]
        elif outcome.peak_mb is not None:
            cells = [" " * width for width in (10, 10, 10, 10, 9)]
        if outcome.peak_mb is not None:
            cells += [f"{outcome.peak_mb:>9.1f}", f"{outcome.peak_mb - vectors:>12.1f}"]
        if outcome.reason is not None:
            cells.append(("no memory: " if cells else "cannot run: ") + outcome.reason)
        lines.append(" ".join([f"{outcome.contestant:>10}", *cells]).rstrip())
    return "\n".join(lines)


def _steps(text: str) -> list[int]:
    return [harness.counted(value) for value in text.split(",")]


def parse(arguments: Sequence[str] | None) -> argparse.Namespace:
    """Parse the command line; an error is one sentence and exit status 2."""
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.hypergradient",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    default = Setting()
    parser.add_argument("--backends", default=",".join(BACKENDS), help=f"contestants: {', '.join(CONTESTANTS)}")
    parser.add_argument("--model", default=default.model, help="convnet1 … convnet6, mlp, or another short name")
    for name in ("width", "size", "channels", "classes", "batch"):
        parser.add_argument(f"--{name}", type=harness.counted, default=getattr(default, name))
    parser.add_argument("--steps", type=_steps, default=[default.steps], help="N, or several: 5,20,50")
    parser.add_argument(
        "--dsa",
        default=default.dsa,
        help="augmentation, drawn at every call: color_crop_cutout_flip_scale_rotate, or some of these ('': none)",
    )
    parser.add_argument("--gradient", choices=GRADIENTS, default=default.gradient)
    parser.add_argument("--selection", choices=SELECTIONS, default=default.selection)
    parser.add_argument("--dtype", choices=DTYPES, default=default.dtype)
    parser.add_argument("--device", choices=("cpu", "cuda"), default=default.device)
    parser.add_argument("--threads", type=harness.counted, default=torch.get_num_threads())
    parser.add_argument("--repeat", type=harness.counted, default=5, help="rounds")
    parser.add_argument(
        "--allocator", choices=("default", "keeping"), default="default", help="malloc of all but the floor"
    )
    only = parser.add_mutually_exclusive_group()
    only.add_argument("--memory-only", action="store_true")
    only.add_argument("--time-only", action="store_true")
    parser.add_argument("--csv", default=str(RESULTS), help="append the rows here ('': nowhere)")
    parser.add_argument("--json", type=Path, help="write the rows and every call's seconds here")
    options = parser.parse_args(arguments)
    options.contestants = list(dict.fromkeys(options.backends.split(",")))
    if unknown := [name for name in options.contestants if name not in CONTESTANTS]:
        parser.error(f"argument --backends: there is no contestant {unknown[0]!r}; there are {', '.join(CONTESTANTS)}")
    if options.device == "cuda" and not torch.cuda.is_available():
        parser.error("argument --device: no NVIDIA GPU is visible")
    if options.json and not options.json.parent.is_dir():
        parser.error(f"argument --json: there is no folder {options.json.parent}")
    keys = [value.name for value in fields(Setting) if value.name not in ("steps", "images", "budget")]
    options.setting = Setting(**{key: getattr(options, key) for key in keys})
    try:
        options.setting.network()
        DsaSettings(strategy=options.dsa)
        if options.csv:
            harness.check_header(Path(options.csv), COLUMNS)
    except (InputError, ValueError) as error:
        parser.error(str(error))
    return options


def main(arguments: Sequence[str] | None = None) -> int:
    """Measure, print, append; 1 if nothing could be measured."""
    options = parse(arguments)
    date = datetime.now(UTC).isoformat(timespec="seconds")
    rows, runs = [], []
    for steps in options.steps:
        setting = replace(options.setting, steps=steps)
        outcomes = measure(options.contestants, setting, options)
        print(table(outcomes, setting), flush=True)
        result = rows_of(outcomes, setting, date)
        if options.csv:
            harness.append_rows(Path(options.csv), COLUMNS, result)
        rows += result
        runs.append({"setting": asdict(setting), "outcomes": [asdict(outcome) for outcome in outcomes]})
    if options.json:
        options.json.write_text(json.dumps({"rows": rows, "runs": runs}, indent=1) + "\n", encoding="utf-8")
    return 0 if rows else 1


if __name__ == "__main__":
    sys.exit(main())
