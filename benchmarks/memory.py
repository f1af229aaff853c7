"""Peak memory of one matching gradient against the number of student steps, for each backend.

    python -m benchmarks.memory --steps 5 20 50 --backends autograd torch

Each measurement is a process of its own. The figure is the process's peak resident memory during forward and
backward, less what was resident before the call (network, images, expert points). `vectors` is the size of the N + 1
parameter vectors that the adjoint sweep keeps by design.
"""

from __future__ import annotations

import argparse
import json
import os
import resource
import subprocess
import sys
from pathlib import Path

MEGABYTE = 1 << 20
ROOT = Path(__file__).parent.parent


def measure(backend: str, steps: int, batch: int, width: int, size: int) -> dict[str, float]:
    """Peak and vectors in MB for one gradient in this process."""
    import torch

    from pydistill.matching import Batches, match
    from pydistill.nn import ConvNet, flatten

    torch.manual_seed(0)
    torch.set_num_threads(1)  # no thread's own caches beside what is measured
    model = ConvNet(3, 10, size, width=width, depth=3)
    start = flatten(model)
    target = start + 0.01 * torch.randn_like(start)
    images = torch.randn(batch, 3, size, size, requires_grad=True)
    index = torch.arange(batch).repeat(steps, 1)

    def gradient(index: torch.Tensor) -> None:
        labels = torch.arange(batch) % 10
        lr = torch.tensor(0.01, requires_grad=True)
        match(model, start, target, Batches(images, labels, index), lr, backend=backend).loss.backward()

    gradient(index[:1])  # libraries load and warm up
    before = _resident()
    _reset_peak()
    gradient(index)
    vectors = (steps + 1) * start.numel() * start.element_size()
    return {"peak_mb": (_peak() - before) / MEGABYTE, "vectors_mb": vectors / MEGABYTE}


def _resident() -> int:
    with open("/proc/self/statm", encoding="ascii") as handle:
        return int(handle.read().split()[1]) * resource.getpagesize()


def _reset_peak() -> None:
    with open("/proc/self/clear_refs", "w", encoding="ascii") as handle:
        handle.write("5")


def _peak() -> int:
    with open("/proc/self/status", encoding="ascii") as handle:
        line = next(line for line in handle if line.startswith("VmHWM"))
    return int(line.split()[1]) * 1024


def measure_apart(backend: str, steps: int, batch: int, width: int, size: int) -> dict[str, float]:
    """`measure` in a process of its own."""
    command = [sys.executable, "-m", "benchmarks.memory", "--worker", backend, "--steps", str(steps)]
    command += ["--batch", str(batch), "--width", str(width), "--size", str(size)]
    # Big buffers go back to the system when freed, so that resident memory is memory in use.
    environment = {**os.environ, "MALLOC_MMAP_THRESHOLD_": "65536", "MALLOC_TRIM_THRESHOLD_": "65536"}
    done = subprocess.run(command, capture_output=True, text=True, check=True, env=environment, cwd=ROOT)
    result: dict[str, float] = json.loads(done.stdout)
    return result


def main() -> None:
    """Print a table: backend, N, peak, vectors."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--steps", type=int, nargs="+", default=[5, 20, 50])
    parser.add_argument("--backends", nargs="+", default=["autograd", "torch"])
    parser.add_argument("--batch", type=int, default=100)
    parser.add_argument("--width", type=int, default=32)
    parser.add_argument("--size", type=int, default=32)
    parser.add_argument("--worker", help=argparse.SUPPRESS)
    given = parser.parse_args()
    if given.worker:
        print(json.dumps(measure(given.worker, given.steps[0], given.batch, given.width, given.size)))
        return
    print(f"ConvNetD3, width {given.width}, {given.size}×{given.size}, batch {given.batch}")
    print(f"{'backend':>10} {'N':>4} {'peak MB':>9} {'vectors MB':>11}")
    for backend in given.backends:
        for steps in given.steps:
            found = measure_apart(backend, steps, given.batch, given.width, given.size)
            print(f"{backend:>10} {steps:>4} {found['peak_mb']:>9.1f} {found['vectors_mb']:>11.1f}", flush=True)


if __name__ == "__main__":
    main()
