"""Time of training and testing a network, as experts and evaluation do, by the engine, by PyTorch, and as published.

    python -m benchmarks.experts                      both problems, on random numbers in place of pictures
    python -m benchmarks.experts --problems digits --threads 1

`train` is one epoch of `pydistill.training.train.train` with its augmentation (on a GPU, a fifth of five epochs),
`test` one
`accuracy` on the same images, by the engine (`engine`) and by PyTorch (`torch`); `published` is the published loop's
way, see `benchmarks.published`. The contestants are processes that take turns; in a round every one is called
once, warm. Rows are appended to benchmarks/results/experts.csv, where `median`, `q10` and `q90`
are seconds; benchmarks.report makes a table of docs/performance.md of them.
"""

from __future__ import annotations

import argparse
import contextlib
import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import torch

from benchmarks import harness, published
from benchmarks.harness import CannotRun, Worker
from pydistill.data.dsa import DsaSettings
from pydistill.engine.student import why_not_fused
from pydistill.nn import build, parse
from pydistill.training.train import TrainingSettings, accuracy, train

RESULTS = harness.RESULTS / "experts.csv"
CONTESTANTS = ("engine", "torch", "published")
WORKS = ("train", "test")


@dataclass(frozen=True)
class Setting:
    """The network, its images and the work; an empty `dsa` means no augmentation."""

    model: str
    channels: int
    size: int
    images: int
    batch: int
    dsa: str
    work: str = "train"
    device: str = "cpu"
    threads: int = 1
    classes: int = 10


PROBLEMS = {
    # An expert of the papers, on a small part of CIFAR-10's images.
    "cifar": Setting("convnet3-w128", 3, 32, images=2000, batch=256, dsa=DsaSettings().strategy),
    # An expert of `pydistill demo`.
    "digits": Setting("convnet2-w32", 1, 8, images=1437, batch=64, dsa="crop_scale_rotate"),
}

ON_A_GPU = {"cifar": 50_000}
"""Problems with more images on a GPU, where an epoch of the small problem is too short to time."""

EPOCHS_A_CALL = {"cpu": 1, "cuda": 5}
"""Epochs of training in a call: on a GPU its first steps, which are captured as CUDA graphs, are shared by several."""

PROBLEM = ("work", "model", "channels", "size", "images", "batch", "dsa")
COLUMNS = (
    *("date", "commit", "machine", "torch", "threads", "device"),
    *PROBLEM,
    *("contestant", "median", "q10", "q90", "repeats"),
)


@dataclass(frozen=True)
class Work:
    """A contestant; the seconds of its calls are reported."""

    call: Callable[[], object]
    scale: float = 1.0


def prepare(name: str, setting: Mapping[str, Any]) -> Work:
    """The contestant `name` on the problem of `setting`, whose keys are Setting's.

    Raises:
        CannotRun: the engine does not run the network here.
    """
    chosen = Setting(**setting)
    torch.set_num_threads(chosen.threads)
    generator = torch.Generator().manual_seed(0)
    images = torch.randn(chosen.images, chosen.channels, chosen.size, chosen.size, generator=generator)
    images, labels = images.to(chosen.device), (torch.arange(chosen.images) % chosen.classes).to(chosen.device)
    model = build(parse(chosen.model), chosen.channels, chosen.classes, chosen.size, seed=0).to(chosen.device)
    dsa = DsaSettings(strategy=chosen.dsa) if chosen.dsa else None
    epochs = EPOCHS_A_CALL[torch.device(chosen.device).type] if chosen.work == "train" else 1
    if name == "published":
        return Work(published.prepare(chosen.work, model, images, labels, chosen.batch, dsa))
    engine = name == "engine"
    if engine and (why := why_not_fused(model, images)):
        raise CannotRun(why)
    if chosen.work == "test":
        return Work(lambda: accuracy(model, images, labels, engine=engine))
    settings = TrainingSettings(epochs=epochs, batch_size=chosen.batch, lr=0.01, dsa=dsa)
    return Work(lambda: train(model, images, labels, settings, generator=generator, engine=engine), 1 / epochs)


def measure(setting: Setting, repeats: int) -> dict[str, list[float] | str]:
    """Time the contestants; return their seconds, or the reason why they cannot run."""
    with contextlib.ExitStack() as stack:
        workers = {
            name: stack.enter_context(Worker("benchmarks.experts", name, asdict(setting))) for name in CONTESTANTS
        }
        return harness.take_turns(workers, repeats)


def rows_of(result: Mapping[str, list[float] | str], setting: Setting, date: str) -> list[dict[str, Any]]:
    """Convert the measurements to rows of the results."""
    shared = {name: getattr(setting, name) for name in PROBLEM} | {
        "date": date,
        "commit": harness.commit(),
        "machine": harness.machine(),
        "torch": torch.__version__,
        "threads": setting.threads,
        "device": setting.device if setting.device == "cpu" else torch.cuda.get_device_name(setting.device),
    }
    rows = []
    for name, seconds in result.items():
        if not isinstance(seconds, str):
            times = zip(("median", "q10", "q90"), (f"{value:.6g}" for value in harness.quantiles(seconds)), strict=True)
            rows.append(shared | {"contestant": name, "repeats": len(seconds)} | dict(times))
    return rows


def table(result: Mapping[str, list[float] | str], setting: Setting) -> str:
    """Format the measurements, one line per contestant."""
    lines = [
        f"{setting.work}: {setting.model}, {setting.images} images {setting.channels} × {setting.size}×{setting.size}, "
        f"batch {setting.batch}, {setting.dsa or 'no augmentation'}, {setting.device}, {setting.threads} threads",
        f"{'contestant':>10} {'s':>10} {'10 %':>10} {'90 %':>10} {'per s':>10}",
    ]
    for name, seconds in result.items():
        if isinstance(seconds, str):
            lines.append(f"{name:>10} cannot run: {seconds}")
        else:
            times = harness.quantiles(seconds)
            lines.append(" ".join([f"{name:>10}", *(f"{value:>10.4g}" for value in (*times, 1 / times[0]))]))
    return "\n".join(lines)


def parse_arguments(arguments: Sequence[str] | None) -> argparse.Namespace:
    """Parse the command line; an error is one sentence and exit status 2."""
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.experts", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--problems", nargs="+", choices=PROBLEMS, default=list(PROBLEMS))
    parser.add_argument("--works", nargs="+", choices=WORKS, default=WORKS)
    parser.add_argument("--no-augmentation", action="store_true")
    parser.add_argument("--device", choices=("cpu", "cuda"), default="cpu")
    parser.add_argument("--threads", type=harness.counted, default=torch.get_num_threads())
    parser.add_argument("--repeat", type=harness.counted, default=5, help="rounds")
    parser.add_argument("--csv", default=str(RESULTS), help="append the rows here ('': nowhere)")
    options = parser.parse_args(arguments)
    if options.device == "cuda" and not torch.cuda.is_available():
        parser.error("argument --device: no NVIDIA GPU is visible")
    try:
        if options.csv:
            harness.check_header(Path(options.csv), COLUMNS)
    except ValueError as error:
        parser.error(str(error))
    return options


def main(arguments: Sequence[str] | None = None) -> int:
    """Measure, print, append; 1 if nothing could be measured."""
    options = parse_arguments(arguments)
    date = datetime.now(UTC).isoformat(timespec="seconds")
    measured = 0
    for problem in options.problems:
        for work in options.works:
            plain = work == "test" or options.no_augmentation
            setting = replace(PROBLEMS[problem], work=work, device=options.device, threads=options.threads)
            setting = replace(setting, dsa="") if plain else setting
            if options.device == "cuda" and problem in ON_A_GPU:
                setting = replace(setting, images=ON_A_GPU[problem])
            result = measure(setting, options.repeat)
            print(table(result, setting), flush=True)
            rows = rows_of(result, setting, date)
            if options.csv:
                harness.append_rows(Path(options.csv), COLUMNS, rows)
            measured += len(rows)
    return 0 if measured else 1


if __name__ == "__main__":
    sys.exit(main())
