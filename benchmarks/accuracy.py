"""Error of the float32 gradient of each backend against the float64 oracle, over seeds.

    python -m benchmarks.accuracy --width 128 --batch 10 --steps 1,5 --seeds 20
    python -m benchmarks.accuracy --width 32 --batch 10 --steps 10 --seeds 20 --expert-epochs 5

Every seed has its own network, images and target. They are random, or with --expert-epochs a network after so many
epochs of training (on the digits, or as --data, --path and --images say), the same two epochs later, and real images.
ReLU has kinks: after a few steps a difference of rounding flips single units, and any two correct implementations in
float32 then differ by far more than rounding. So single seeds say little; means and medians over seeds are compared,
and the median and least cosine of the angle between a gradient in the images and the exact one.
"""

from __future__ import annotations

import argparse
import re
import statistics
from dataclasses import dataclass
from functools import cache

import torch
from torch import Tensor

from pydistill.data import Dataset, DataSettings, load
from pydistill.matching import Batches, match
from pydistill.nn import ConvNet, flatten
from pydistill.training.train import TrainingSettings, train

CONTESTANTS = ("autograd", "torch", "fused")
EPOCHS_TO_TARGET = 2
BATCH_OF_EXPERTS = 64


@dataclass(frozen=True)
class Case:
    """A matching problem: the student's settings, its start, the target and the images."""

    model: ConvNet
    start: Tensor
    target: Tensor
    images: Tensor
    labels: Tensor


@cache
def dataset(name: str, path: str | None) -> Dataset:
    """Load a data set, standardised."""
    return load(DataSettings(name=name, path=path))


def random_case(seed: int, options: argparse.Namespace) -> Case:
    """Make a problem from a fresh network, a target near it and images of noise."""
    torch.manual_seed(seed)
    model = ConvNet(3, 10, options.size, width=options.width, depth=3)
    start = flatten(model)
    target = start + 0.01 * torch.randn_like(start)
    images = torch.randn(options.batch, 3, options.size, options.size)
    return Case(model, start, target, images, torch.arange(options.batch) % 10)


def expert_case(seed: int, options: argparse.Namespace) -> Case:
    """Make a problem from a segment of an expert's trajectory, with equally many images of each class."""
    data = dataset(options.data, options.path)
    chosen = torch.randperm(len(data.train_labels), generator=torch.Generator().manual_seed(seed))[: options.images]
    images, labels = data.train_images[chosen], data.train_labels[chosen]
    classes = data.num_classes
    torch.manual_seed(seed)
    model = ConvNet(data.in_channels, classes, data.image_size, width=options.width, depth=3)
    points = {0: flatten(model).clone()}
    last = options.expert_epochs + EPOCHS_TO_TARGET
    train(
        model,
        images,
        labels,
        TrainingSettings(epochs=last, lr=0.01, batch_size=BATCH_OF_EXPERTS, dsa=None),
        generator=torch.Generator().manual_seed(seed),
        on_epoch=lambda epoch, *_: points.update({epoch: flatten(model).clone()}),
    )
    rows = torch.stack(
        [(labels == number % classes).nonzero()[number // classes, 0] for number in range(options.batch)]
    )
    return Case(model, points[options.expert_epochs], points[last], images[rows], labels[rows])


def gradients(case: Case, contestant: str, dtype: torch.dtype, options: argparse.Namespace, steps: int) -> list[Tensor]:
    """Compute ∂L/∂images and ∂L/∂lr with a contestant in `dtype`; return them in float64."""
    images = case.images.to(dtype, copy=True).requires_grad_()
    lr = torch.tensor(options.lr, dtype=dtype, requires_grad=True)
    index = torch.arange(len(images)).repeat(steps, 1)
    outcome = match(
        case.model.to(dtype),
        case.start.to(dtype),
        case.target.to(dtype),
        Batches(images, case.labels, index),
        lr,
        backend=contestant,
    )
    return [value.double() for value in torch.autograd.grad(outcome.loss, [images, lr])]


def main() -> None:
    """Print a table: N, contestant, relative errors of both gradients, cosine of that in the images."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--width", type=int, default=128)
    parser.add_argument("--size", type=int, default=32, help="of random images")
    parser.add_argument("--batch", type=int, default=10)
    parser.add_argument("--steps", default="1,5")
    parser.add_argument("--seeds", type=int, default=20)
    parser.add_argument("--lr", type=float, default=0.01)
    parser.add_argument("--expert-epochs", type=int, default=None)
    parser.add_argument("--data", default="digits")
    parser.add_argument("--path", default=None)
    parser.add_argument("--images", type=int, default=None, help="training images per expert; all by default")
    options = parser.parse_args()
    if min(options.width, options.batch, options.seeds) < 1 or not re.fullmatch(r"[1-9]\d*(,[1-9]\d*)*", options.steps):
        parser.error("--width, --batch and --seeds must be at least 1, --steps such numbers with commas between")
    if options.size < 8:
        parser.error(f"--size must be at least 8 for three poolings, not {options.size}")
    if options.expert_epochs is not None and options.expert_epochs < 0:
        parser.error(f"--expert-epochs must be at least 0, not {options.expert_epochs}")
    make, what = random_case, f"{options.size}×{options.size}"
    if options.expert_epochs is not None:
        last = options.expert_epochs + EPOCHS_TO_TARGET
        make, what = expert_case, f"experts on {options.data}, epochs {options.expert_epochs} → {last}"
    print(f"ConvNetD3, width {options.width}, {what}, batch {options.batch}, {options.seeds} seeds")
    print(f"{'N':>3} {'backend':>9} | images: mean, median | lr: mean, median | cosine in images: median, least")
    for steps in map(int, options.steps.split(",")):
        errors: dict[str, list[list[float]]] = {contestant: [] for contestant in CONTESTANTS}
        for seed in range(options.seeds):
            case = make(seed, options)
            exact = gradients(case, "autograd", torch.float64, options, steps)
            for contestant, rows in errors.items():
                result = gradients(case, contestant, torch.float32, options, steps)
                row = [float((value - true).norm() / true.norm()) for value, true in zip(result, exact, strict=True)]
                cosine = torch.dot(result[0].flatten(), exact[0].flatten()) / (result[0].norm() * exact[0].norm())
                rows.append([*row, float(cosine)])
        for contestant, rows in errors.items():
            *columns, cosines = zip(*rows, strict=True)
            cells = " | ".join(f"{statistics.mean(value):.1e}, {statistics.median(value):.1e}" for value in columns)
            cells += f" | {statistics.median(cosines):.4f}, {min(cosines):.4f}"
            print(f"{steps:>3} {contestant:>9} | {cells}", flush=True)


if __name__ == "__main__":
    main()
