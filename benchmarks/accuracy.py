"""Error of the float32 gradient of each backend against the float64 oracle, over seeds.

    python -m benchmarks.accuracy --width 128 --batch 10 --steps 1,5 --seeds 20

For each seed another network, other images and another target. ReLU has kinks: after a few steps a difference of
rounding flips single units, and any two correct implementations in float32 then differ by far more than rounding. So
single seeds say little; the mean and the median over seeds are compared.
"""

from __future__ import annotations

import argparse
import re
import statistics

import torch
from torch import Tensor

from pydistill.matching import Batches, match
from pydistill.nn import ConvNet, flatten

BACKENDS = ("autograd", "torch", "fused")


def gradients(backend: str, dtype: torch.dtype, seed: int, given: argparse.Namespace, steps: int) -> list[Tensor]:
    """∂L/∂images and ∂L/∂lr in float64, computed by `backend` in `dtype`."""
    torch.manual_seed(seed)
    model = ConvNet(3, 10, given.size, width=given.width, depth=3)
    start = flatten(model)
    target = start + 0.01 * torch.randn_like(start)
    images = torch.randn(given.batch, 3, given.size, given.size).to(dtype).requires_grad_()
    lr = torch.tensor(given.lr, dtype=dtype, requires_grad=True)
    labels = torch.arange(given.batch) % 10
    index = torch.arange(given.batch).repeat(steps, 1)
    model = model.to(dtype)
    batches = Batches(images, labels, index)
    outcome = match(model, start.to(dtype), target.to(dtype), batches, lr, backend=backend)
    return [each.double() for each in torch.autograd.grad(outcome.loss, [images, lr])]


def main() -> None:
    """Print a table: N, backend, mean and median relative error of both gradients."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--width", type=int, default=128)
    parser.add_argument("--size", type=int, default=32)
    parser.add_argument("--batch", type=int, default=10)
    parser.add_argument("--steps", default="1,5")
    parser.add_argument("--seeds", type=int, default=20)
    parser.add_argument("--lr", type=float, default=0.01)
    given = parser.parse_args()
    if min(given.width, given.batch, given.seeds) < 1 or not re.fullmatch(r"[1-9]\d*(,[1-9]\d*)*", given.steps):
        parser.error("--width, --batch and --seeds must be at least 1, --steps such numbers with commas between")
    if given.size < 8:
        parser.error(f"--size must be at least 8 for three poolings, not {given.size}")
    print(f"ConvNetD3, width {given.width}, {given.size}×{given.size}, batch {given.batch}, {given.seeds} seeds")
    print(f"{'N':>3} {'backend':>9} | images: mean, median | lr: mean, median")
    for steps in map(int, given.steps.split(",")):
        errors: dict[str, list[list[float]]] = {backend: [] for backend in BACKENDS}
        for seed in range(given.seeds):
            exact = gradients("autograd", torch.float64, seed, given, steps)
            for backend in BACKENDS:
                found = gradients(backend, torch.float32, seed, given, steps)
                pairs = zip(found, exact, strict=True)
                errors[backend].append([float((each - true).norm() / true.norm()) for each, true in pairs])
        for backend, rows in errors.items():
            columns = list(zip(*rows, strict=True))
            told = " | ".join(f"{statistics.mean(each):.1e}, {statistics.median(each):.1e}" for each in columns)
            print(f"{steps:>3} {backend:>9} | {told}", flush=True)


if __name__ == "__main__":
    main()
