"""The benchmarks' harness: contestants in separate processes, peak memory, the origin of a row, CSV files.

A contestant is what `prepare(name, setting)` of a module returns: an object with `call()`, the work, and `scale`, what
a second of that call counts as. Where memory is asked for, the module also has `smallest(setting)`, the same problem at
its least size. Where problems follow each other, it may have `release()`, which frees its memory.

The requests of a worker, and the `value` of its reply:

    time                seconds of one call; the first request prepares the contestant
    memory              peak in MB of the first call of a fresh process, see `_peak_of_a_call`
    problem SETTING     0; the next request prepares the contestant for SETTING (JSON)
    peak                peak in MB since the problem was set, and `reserved`, the MB that the allocator holds
    kernels             seconds that one call's kernels run (without a GPU: its operators), and `table`, their names
"""

from __future__ import annotations

import argparse
import csv
import gc
import importlib
import json
import os
import platform
import resource
import statistics
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from types import ModuleType, TracebackType
from typing import IO, Any, Protocol, Self

import torch

ROOT = Path(__file__).parent.parent
RESULTS = Path(__file__).parent / "results"
MEGABYTE = 1 << 20
WARM_CALLS = 2
SETTLING_SECONDS = 0.02  # the threads of the process before stop spinning

ALLOCATORS: dict[str, dict[str, str]] = {
    "default": {},
    # Freed memory stays with the process: no page faults after the first call.
    "keeping": {"MALLOC_MMAP_MAX_": "0", "MALLOC_TRIM_THRESHOLD_": "100000000000", "MALLOC_TOP_PAD_": "100000000"},
    # Big buffers go back to the system when freed, so that resident memory is memory in use.
    "returning": {"MALLOC_MMAP_THRESHOLD_": "65536", "MALLOC_TRIM_THRESHOLD_": "65536", "MALLOC_ARENA_MAX": "1"},
}
"""Settings of glibc's malloc, which is PyTorch's allocator on the CPU."""


class CannotRun(Exception):
    """A contestant cannot run; the message is one line that says why."""


class Contestant(Protocol):
    """Work to be timed: a call's seconds are multiplied by `scale`."""

    scale: float

    def call(self) -> object: ...


class Worker:
    """One contestant in a separate process that stays alive and answers over pipes.

    Args:
        module: import path of the module that has `prepare`, and `smallest` if memory is asked for.
        name: the contestant.
        setting: the problem; JSON values.
        allocator: a key of ALLOCATORS; malloc's settings in the caller's environment are not passed on.
        environment: variables to set for the process.
    """

    def __init__(
        self,
        module: str,
        name: str,
        setting: Mapping[str, Any],
        allocator: str = "default",
        environment: Mapping[str, str] | None = None,
    ) -> None:
        inherited = {k: v for k, v in os.environ.items() if not k.startswith("MALLOC_") and k != "GLIBC_TUNABLES"}
        self._errors = tempfile.TemporaryFile("w+")  # noqa: SIM115  # closed by close()
        self._process = subprocess.Popen(
            [sys.executable, "-m", "benchmarks.harness", module, name, json.dumps(dict(setting))],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=self._errors,
            text=True,
            cwd=ROOT,
            env=inherited | ALLOCATORS[allocator] | dict(environment or {}),
        )

    def ask(self, what: str, limit: float | None = None) -> float:
        """Send a request and return the `value` of the answer."""
        return float(self.request(what, limit)["value"])

    def request(self, what: str, limit: float | None = None) -> dict[str, Any]:
        """The answer to one of the lines above.

        Args:
            limit: seconds after which the process is ended.

        Raises:
            CannotRun: the contestant raised, its process ended, or the limit was reached.
        """
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        late = threading.Event()

        def stop() -> None:
            late.set()
            self._process.kill()

        timer = threading.Timer(limit, stop) if limit is not None else None
        if timer is not None:
            timer.start()
        try:
            self._process.stdin.write(what + "\n")
            self._process.stdin.flush()
            line = self._process.stdout.readline()
        except BrokenPipeError:
            line = ""
        finally:
            if timer is not None:
                timer.cancel()
        if not line and late.is_set():
            raise CannotRun(f"it was stopped after {limit:.0f} s without an answer")
        if not line:
            raise CannotRun(self._why_ended())
        reply: dict[str, Any] = json.loads(line)
        if "error" in reply:
            raise CannotRun(reply["error"])
        return reply

    def said(self) -> list[str]:
        """Return the non-empty lines that the process has printed besides its answers."""
        file = self._errors.fileno()
        # The process writes at the position of the same file, so that it must not be moved by reading.
        text = os.pread(file, os.fstat(file).st_size, 0).decode("utf-8", "replace")
        return [line.strip() for line in text.splitlines() if line.strip()]

    def _why_ended(self) -> str:
        code = self._process.wait()
        if code == -9:
            return "its process was killed, as the system does when memory runs out"
        last = (self.said() or ["it said nothing"])[-1]
        return f"its process ended with status {code}: {last}"

    def close(self) -> None:
        """End the process, even during a call."""
        self._process.kill()
        self._process.communicate()
        self._errors.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        self.close()


def take_turns(workers: Mapping[str, Worker], rounds: int) -> dict[str, list[float] | str]:
    """Time every worker once a round, one at a time; return its seconds, or the reason why it could not run."""
    result: dict[str, list[float] | str] = {name: [] for name in workers}
    names = list(workers)
    for turn in range(-WARM_CALLS, rounds):
        shift = turn % len(names)  # so that no worker always follows the same one
        for name in [*names[shift:], *names[:shift]]:
            seconds_so_far = result[name]
            if isinstance(seconds_so_far, str):
                continue
            time.sleep(SETTLING_SECONDS)
            try:
                value = workers[name].ask("time")
            except CannotRun as error:
                result[name] = str(error)
                workers[name].close()
            else:
                seconds_so_far += [value] if turn >= 0 else []
    return result


def quantiles(values: Sequence[float]) -> tuple[float, float, float]:
    """Median, 10 % and 90 % quantile."""
    value = torch.tensor(values, dtype=torch.float64)
    q10, q90 = torch.quantile(value, torch.tensor([0.1, 0.9], dtype=torch.float64)).tolist()
    return statistics.median(values), q10, q90


def serve(module: ModuleType, name: str, setting: dict[str, Any], asked: IO[str], replies: IO[str]) -> None:
    """Run a worker: answer every line of `asked` with one line of JSON."""
    contestant: Contestant | None = None
    for line in asked:
        what, _, options = line.strip().partition(" ")
        reply: dict[str, Any]
        try:
            if what == "memory":
                reply = {"value": _peak_of_a_call(module, name, setting)}
            elif what == "problem":
                contestant, setting = None, json.loads(options)
                if hasattr(module, "release"):
                    module.release()
                _start_peak()
                reply = {"value": 0.0}
            elif what == "peak":
                reply = _peak()
            else:
                contestant = contestant or module.prepare(name, setting)
                reply = _kernels(contestant) if what == "kernels" else {"value": seconds(contestant) * contestant.scale}
        except Exception as error:  # any error of the contestant is a reason for the table
            first_line = (str(error).strip() or type(error).__name__).splitlines()[0]
            reply = {"error": first_line if len(first_line) <= 300 else first_line[:300] + " …"}
        replies.write(json.dumps(reply) + "\n")
        replies.flush()


def seconds(contestant: Contestant) -> float:
    """Measure the wall-clock time of one call, including the work that it queued on a GPU."""
    gc.collect()
    _synchronise()
    begin = time.perf_counter()
    contestant.call()
    _synchronise()
    return time.perf_counter() - begin


def _synchronise() -> None:
    if torch.cuda.is_initialized():
        torch.cuda.synchronize()


def _peak_of_a_call(module: ModuleType, name: str, setting: dict[str, Any]) -> float:
    """Peak memory in MB of the first call of a problem, above what was there before it.

    Not counted are PyTorch, what libraries keep of the smallest problem, and the problem's network, images and points.
    """
    module.prepare(name, module.smallest(setting)).call()
    contestant = module.prepare(name, setting)
    gc.collect()
    if torch.cuda.is_initialized():
        torch.cuda.synchronize()
        torch.cuda.reset_peak_memory_stats()
        before = torch.cuda.memory_allocated()
        contestant.call()
        return (torch.cuda.max_memory_allocated() - before) / MEGABYTE
    if not Path("/proc/self/clear_refs").exists():
        raise CannotRun("peak resident memory is read from Linux's /proc")
    before = _resident()
    Path("/proc/self/clear_refs").write_text("5", encoding="ascii")  # the high-water mark starts again
    contestant.call()
    return (_high_water_mark() - before) / MEGABYTE


def _start_peak() -> None:
    """Free unused memory and reset the peak."""
    gc.collect()
    if torch.cuda.is_initialized():
        torch.cuda.synchronize()
        torch.cuda.empty_cache()
        torch.cuda.reset_peak_memory_stats()
    elif Path("/proc/self/clear_refs").exists():
        Path("/proc/self/clear_refs").write_text("5", encoding="ascii")


def _peak() -> dict[str, float]:
    if torch.cuda.is_initialized():
        allocated, reserved = torch.cuda.max_memory_allocated(), torch.cuda.max_memory_reserved()
        return {"value": allocated / MEGABYTE, "reserved": reserved / MEGABYTE}
    peak = _high_water_mark() / MEGABYTE
    return {"value": peak, "reserved": peak}


def _kernels(contestant: Contestant) -> dict[str, Any]:
    """Measure the seconds that a call's kernels run; also list the twelve longest."""
    on_gpu = torch.cuda.is_initialized()
    activity = torch.profiler.ProfilerActivity.CUDA if on_gpu else torch.profiler.ProfilerActivity.CPU
    _synchronise()
    with torch.profiler.profile(activities=[activity]) as profiler:
        contestant.call()
        _synchronise()
    result = [
        ((value.self_device_time_total if on_gpu else value.self_cpu_time_total) / 1e6, value.count, value.key)
        for value in profiler.key_averages()
    ]
    total = sum(taken for taken, _, _ in result)
    lines = [f"{'s':>10} {'share':>6} {'calls':>7}  kernel"]
    for taken, count, key in sorted(result, reverse=True)[:12]:
        lines.append(f"{taken:>10.4g} {taken / total if total else 0:>6.1%} {count:>7}  {key[:100]}")
    return {"value": total * contestant.scale, "table": "\n".join(lines)}


def _resident() -> int:
    return int(Path("/proc/self/statm").read_text(encoding="ascii").split()[1]) * resource.getpagesize()


def _high_water_mark() -> int:
    lines = Path("/proc/self/status").read_text(encoding="ascii").splitlines()
    return int(next(line for line in lines if line.startswith("VmHWM")).split()[1]) * 1024


def commit() -> str:
    """The commit that is checked out, with -dirty if a tracked file other than results and docs has changed.

    PYDISTILL_COMMIT in the environment is taken instead, for copies of a tree without git.
    """
    if named := os.environ.get("PYDISTILL_COMMIT"):
        return named

    def git(*arguments: str) -> str:
        return subprocess.run(["git", *arguments], cwd=ROOT, capture_output=True, text=True, check=True).stdout.strip()

    try:
        here = git("rev-parse", "--short", "HEAD")
        changed = git("status", "--porcelain", "--untracked-files=no", "--", ".", ":!benchmarks/results", ":!docs")
    except (OSError, subprocess.CalledProcessError):
        return "unknown"
    return here + ("-dirty" if changed else "")


def processor() -> str:
    """Return the processor's name."""
    lines = Path("/proc/cpuinfo").read_text().splitlines() if Path("/proc/cpuinfo").exists() else []
    return next((line.split(":", 1)[1].strip() for line in lines if line.startswith("model name")), platform.machine())


def machine() -> str:
    """Processor, the cores that this process may use, and the widest instructions that PyTorch uses on it."""
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    return f"{processor()}, {cores} cores, {torch.backends.cpu.get_cpu_capability()}"


def counted(text: str) -> int:
    """Parse a command-line argument that is an integer of at least 1."""
    if not text.strip().isdecimal() or int(text) < 1:
        raise argparse.ArgumentTypeError(f"must be an integer of at least 1, not {text!r}")
    return int(text)


def check_header(path: Path, names: Sequence[str]) -> None:
    """Raise ValueError unless `path` is missing, empty, or a CSV of exactly these columns."""
    if not path.exists() or not path.stat().st_size:
        return
    with open(path, newline="", encoding="utf-8") as handle:
        result = next(csv.reader(handle), [])
    if result != list(names):
        raise ValueError(f"{path} has other columns than these rows ({', '.join(names)})")


def read_rows(path: Path) -> list[dict[str, str]]:
    """Read the rows of a CSV; a missing file has none."""
    if not path.exists():
        return []
    with open(path, newline="", encoding="utf-8") as handle:
        return list(csv.DictReader(handle))


def append_rows(path: Path, names: Sequence[str], rows: Sequence[Mapping[str, Any]]) -> None:
    """Append rows to a CSV of these columns, which begins with their names."""
    check_header(path, names)
    path.parent.mkdir(parents=True, exist_ok=True)
    with open(path, "a", newline="", encoding="utf-8") as handle:
        writer = csv.DictWriter(handle, list(names), lineterminator="\n")
        if not handle.tell():
            writer.writeheader()
        writer.writerows(rows)


def _main() -> None:
    module, name, setting = sys.argv[1:]
    replies = os.fdopen(os.dup(1), "w", encoding="utf-8")
    os.dup2(2, 1)  # what a library prints must not get among the replies
    serve(importlib.import_module(module), name, json.loads(setting), sys.stdin, replies)


if __name__ == "__main__":
    _main()
