"""A real run within a time: experts on CIFAR-10, then one image per class by the ATT preset, then the accuracy.

    python -m benchmarks.gpu.real DATA OUT_DIR --seconds 500

DATA is CIFAR-10 as an image folder or an archive of one. Of the preset att/cifar10-ipc1 two things differ: experts are
trained for the six epochs that its segments reach instead of fifty (their rate is constant, so these are the first six
of the fifty), as many as three tenths of the time allow; and iterations end when only the evaluation's time is left.
Random real images are evaluated first, on one network. Everything is appended to OUT_DIR/real.jsonl as it happens.
The unpacked data and the experts stay in --work; a repeated run takes them from there.
"""

from __future__ import annotations

import argparse
import json
import sys
import time
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch

from benchmarks import harness
from benchmarks.gpu import arguments
from pydistill import data
from pydistill.data import Dataset, DataSettings, DsaSettings
from pydistill.distillation.distiller import Distiller, DistillSettings
from pydistill.errors import PydistillError
from pydistill.evaluation.evaluate import Evaluation, EvaluationSettings, evaluate
from pydistill.nn import ModelSettings, build
from pydistill.recipes.recipe import Recipe
from pydistill.training.experts import ExpertSettings, train_experts
from pydistill.training.train import TrainingSettings
from pydistill.trajectories import TrajectoryStore

FILE = "real.jsonl"
WORK = harness.ROOT / "build" / "gpu-real"
EXPERTS_SHARE = 0.3
RECORD_EVERY = 5.0  # seconds


def preset() -> Recipe:
    """att/cifar10-ipc1, in Python: reading presets needs packages that a machine with a GPU may lack."""
    augmented = DsaSettings()
    expert = TrainingSettings(epochs=50, batch_size=512, lr=0.01, dsa=augmented)
    return Recipe(
        data=DataSettings(name="cifar10", zca=True),
        model=ModelSettings("convnet", depth=3, width=128, norm="instance"),
        expert=ExpertSettings(count=100, training=expert),
        distill=DistillSettings(
            method="att",
            ipc=1,
            iterations=6000,
            steps=80,
            expert_epochs=4,
            max_start=2,
            lr_image=100,
            lr_lr=1e-7,
            lr_init=0.01,
            ema=0.9999,
            dsa=augmented,
            evaluate_every=300,
        ),
        evaluation=EvaluationSettings(),
    )


def tiny(recipe: Recipe) -> Recipe:
    """Shrink the recipe to a size that a CPU does in seconds."""
    training = replace(recipe.expert.training, batch_size=16)
    return replace(
        recipe,
        model=ModelSettings("convnet", depth=1, width=4),
        expert=replace(recipe.expert, count=2, training=training),
        distill=replace(recipe.distill, steps=3, iterations=4),
        evaluation=EvaluationSettings(repeats=2, training=replace(recipe.evaluation.training, epochs=2)),
    )


class Run:
    """A run within a time, and its record."""

    def __init__(self, recipe: Recipe, dataset: Dataset, options: argparse.Namespace, begin: float) -> None:
        self.recipe, self.dataset, self.out, self.work = recipe, dataset, options.out, options.work
        self.begin, self.deadline = begin, begin + options.seconds

    def record(self, event: str, **values: Any) -> None:
        """Append one line to the record, and print it."""
        line = json.dumps({"event": event, "at": round(time.monotonic() - self.begin, 2), **values})
        with open(self.out / FILE, "a", encoding="utf-8") as handle:
            handle.write(line + "\n")
        print(line, flush=True)

    def left(self) -> float:
        """Return the seconds until the time is over."""
        return self.deadline - time.monotonic()

    def random_real(self) -> float:
        """Evaluate random real images on one network; return its seconds."""
        settings, ipc = self.recipe.evaluation, self.recipe.distill.ipc
        images, labels = self.dataset.sample_per_class(ipc, torch.Generator().manual_seed(0))
        result = self._evaluated(images, labels, self.recipe.distill.lr_init, replace(settings, repeats=1))
        self.record("random real", **result.as_record())
        return result.seconds

    def experts(self) -> TrajectoryStore:
        """Train as many experts as the preset has or a share of the time allows, at least one."""
        distill, settings = self.recipe.distill, self.recipe.expert
        training = replace(settings.training, epochs=int(distill.max_start + distill.expert_epochs))
        until = time.monotonic() + EXPERTS_SHARE * self.left()
        took = 0.0
        for count in range(1, settings.count + 1):
            began = time.monotonic()
            of_count = replace(settings, count=count, training=training)
            store = train_experts(self.dataset, self.recipe.model, of_count, self.work / "experts")
            took = max(took, time.monotonic() - began)
            accuracy = store.accuracies(count - 1)["test"][-1]
            rate = training.epochs / took
            self.record("expert", count=count, epochs=training.epochs, test=accuracy, epochs_per_second=round(rate, 3))
            if time.monotonic() + took > until:
                break
        return store

    def distil(self, store: TrajectoryStore, reserve: float) -> Distiller:
        """Iterate until only `reserve` seconds are left, or the preset's iterations are done; at least once."""
        sizes = (self.dataset.in_channels, self.dataset.num_classes, self.dataset.image_size)
        student = build(self.recipe.model, *sizes, seed=0).to(self.dataset.device)
        distiller = Distiller(self.recipe.distill, self.dataset, store, student)
        losses: list[float] = []
        began = time.monotonic()
        while True:
            report = distiller.iterate()
            losses.append(report.loss)
            done = self.left() < reserve or report.iteration == self.recipe.distill.iterations
            if done or report.iteration == 1 or time.monotonic() - began > RECORD_EVERY:
                rate = len(losses) / (time.monotonic() - began)
                means = {"loss": sum(losses) / len(losses), "step": report.steps[0], "lr": report.lr}
                self.record("iteration", iteration=report.iteration, **means, iterations_per_second=round(rate, 3))
                losses, began = [], time.monotonic()
            if done:
                return distiller

    def evaluate_distilled(self, distiller: Distiller) -> None:
        """Evaluate the distilled set by the preset's protocol."""
        labels = distiller.synthetic.training_labels
        result = self._evaluated(distiller.images, labels, distiller.lr, self.recipe.evaluation)
        self.record("distilled", iteration=distiller.iteration, **result.as_record())

    def _evaluated(
        self, images: torch.Tensor, labels: torch.Tensor, lr: float, settings: EvaluationSettings
    ) -> Evaluation:
        return evaluate(images, labels, lr, self.dataset, self.recipe.model, settings)


def run(recipe: Recipe, options: argparse.Namespace) -> None:
    """Load, train experts, distil and evaluate, and record every step when it is done."""
    began = time.monotonic()
    read = replace(recipe.data, path=str(options.data), cache=str(options.work / "data"))
    dataset = data.load(read).to(options.device)
    one = Run(recipe, dataset, options, began)
    machine = torch.cuda.get_device_name() if options.device == "cuda" else harness.machine()
    about = {"commit": harness.commit(), "torch": torch.__version__, "device": machine}
    one.record(
        "data", train=len(dataset.train_pictures), test=len(dataset.test_pictures), seconds=options.seconds, **about
    )
    network_seconds = one.random_real()
    store = one.experts()
    distiller = one.distil(store, reserve=1.3 * recipe.evaluation.repeats * network_seconds + 5)
    one.evaluate_distilled(distiller)


def describe(file: Path) -> str:
    """Summarise the last run of a record in two sentences of Markdown; "" if there is none."""
    if not file.exists():
        return ""
    lines = [json.loads(line) for line in file.read_text(encoding="utf-8").splitlines()]
    begin = max((place for place, line in enumerate(lines) if line["event"] == "data"), default=0)
    last = {line["event"]: line for line in lines[begin:]}
    parts = []
    if expert := last.get("expert"):
        rate = f"{expert['epochs_per_second']:.3g} epochs a second, {100 * expert['test']:.1f} % at the end"
        parts.append(f"{expert['count']} experts of {expert['epochs']} epochs ({rate})")
    if iteration := last.get("iteration"):
        rate = f"{iteration['iterations_per_second']:.3g} a second at the end"
        parts.append(f"{iteration['iteration']} iterations of ATT ({rate}), loss {iteration['loss']:.4f}")
    if random := last.get("random real"):
        parts.append(f"random real images: {100 * random['mean']:.1f} % on one network")
    if distilled := last.get("distilled"):
        accuracy = f"{100 * distilled['mean']:.1f} ± {100 * distilled['std']:.1f} %"
        parts.append(f"distilled: {accuracy} on {len(distilled['runs'])} networks, by {distilled['at']:.0f} s")
    return "; ".join(parts) + "." if parts else ""


def parse(command: Sequence[str] | None) -> argparse.Namespace:
    """Parse the command line; an error is one sentence, and the exit status is 2."""
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.gpu.real", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("data", type=Path, metavar="DATA")
    parser.add_argument("out", type=Path, metavar="OUT_DIR")
    parser.add_argument("--seconds", type=harness.counted, default=500, help="for everything")
    parser.add_argument("--work", type=Path, default=WORK, help="folder for data and experts")
    parser.add_argument("--lr-image", type=float, help="learning rate of the pixels, if not the preset's")
    parser.add_argument("--device", choices=("cuda", "cpu"), default="cuda")
    parser.add_argument("--scale", choices=("full", "tiny"), default="full")
    options = parser.parse_args(command)
    arguments.check(parser, options)
    return options


def main(command: Sequence[str] | None = None) -> int:
    """Run; 1 with one sentence if the data or a training stop it."""
    options = parse(command)
    recipe = tiny(preset()) if options.scale == "tiny" else preset()
    if options.lr_image is not None:
        recipe = replace(recipe, distill=replace(recipe.distill, lr_image=options.lr_image))
    try:
        run(recipe, options)
    except PydistillError as error:
        print(error)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
