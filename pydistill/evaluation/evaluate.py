"""Evaluate a distilled set: the test accuracy of fresh networks trained on it."""

from __future__ import annotations

import math
import statistics
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor

from pydistill._util.checks import SEEDS_BELOW
from pydistill._util.format import accuracy_of
from pydistill._util.format import networks as networks_text
from pydistill._util.progress import Bar
from pydistill._util.settings import Settings, setting
from pydistill.data import Dataset, Pictures
from pydistill.data.dsa import DsaSettings
from pydistill.errors import InputError
from pydistill.nn import Network, architecture_of, build, name_of, parse
from pydistill.training.train import TrainingSettings, accuracy, derive_seed, train_all

_AT_ONCE_ON_A_GPU = 4

# The papers' protocol.
_TRAINING = TrainingSettings(
    epochs=1000, batch_size=256, momentum=0.9, weight_decay=5e-4, schedule="halfway", dsa=DsaSettings()
)


@dataclass(frozen=True)
class EvaluationSettings(Settings):
    """The protocol of an evaluation: fresh networks are trained on the distilled set and tested.

    The learning rate of `training` is replaced by the set's own. No result depends on `at_once`.

    Raises:
        SettingError: a value is outside its limits.
        InputError: there is no network of one of the names.
    """

    models: tuple[str, ...] = setting(
        (), "networks by short name, such as [convnet3, alexnet]; empty for the student's own"
    )
    repeats: int = setting(5, "fresh networks of each kind", at_least=1, usually_at_most=1_000)
    seed: int = setting(0, "network r of a kind depends on (seed, r) alone", at_least=0, below=SEEDS_BELOW)
    training: TrainingSettings = setting(_TRAINING, "how each network is trained")
    at_once: int | None = setting(
        None, "networks trained side by side, on a GPU on separate streams; null: 4 on a GPU, else 1", at_least=1
    )

    def _check(self) -> None:
        for name in self.models:
            parse(name)

    def networks_at_once(self, device: torch.device) -> int:
        """Return how many networks train side by side on this device."""
        if self.at_once is not None:
            return self.at_once
        return _AT_ONCE_ON_A_GPU if device.type == "cuda" else 1


@dataclass(frozen=True)
class Evaluation:
    """Test accuracies of fresh networks of one kind.

    Attributes:
        model: name of the network.
        accuracies: in [0, 1], one per network; a diverged network is tested with its last parameters (about chance).
        seconds: wall-clock time of all training and testing.
        diverged: number of networks whose training diverged.
    """

    model: str
    accuracies: tuple[float, ...]
    seconds: float
    diverged: int = 0

    def __repr__(self) -> str:
        return f"Evaluation({self.model}: {self.text} on {networks_text(len(self.accuracies))})"

    @property
    def mean(self) -> float:
        """Mean over the networks."""
        return statistics.fmean(self.accuracies)

    @property
    def std(self) -> float:
        """Standard deviation over the networks (ddof 0, as the papers report it)."""
        return statistics.pstdev(self.accuracies)

    @property
    def text(self) -> str:
        """Mean and standard deviation in percent, such as 60.0 ± 10.0 %."""
        return accuracy_of(self.mean, self.std, len(self.accuracies))

    def as_record(self) -> dict[str, Any]:
        """Convert to JSON-able values; `from_record` reverses it."""
        record = {"model": self.model, "seconds": self.seconds, "diverged": self.diverged}
        return record | accuracy_record(self.accuracies)

    @classmethod
    def from_record(cls, record: Mapping[str, Any]) -> Evaluation:
        """Make an evaluation from what `as_record` returned."""
        return cls(record["model"], tuple(record["runs"]), record["seconds"], record["diverged"])


def accuracy_record(accuracies: Sequence[float]) -> dict[str, Any]:
    """Return mean, std (over the runs, ddof 0) and the single runs as JSON-able values."""
    values = [float(value) for value in accuracies]
    return {"mean": statistics.fmean(values), "std": statistics.pstdev(values), "runs": values}


def evaluate(
    images: Tensor | Pictures,
    labels: Tensor,
    lr: float,
    dataset: Dataset,
    model: Network,
    settings: EvaluationSettings,
    *,
    on_network: Callable[[int, float], None] | None = None,
    on_epoch: Callable[[], None] | None = None,
) -> Evaluation:
    """Train `settings.repeats` fresh networks on a distilled set and test each on the real test images.

    A network whose training diverges is counted in `Evaluation.diverged` and tested as it is.

    Args:
        images: [n, C, H, W] float32, preprocessed as the data set's are, or pictures on its device.
        labels: [n] int64, or [n, K] class probabilities.
        lr: the learned learning rate, above 0.
        dataset: provides the test images; training happens on its device.
        model: the network; `settings.models` is ignored.
        settings: the protocol.
        on_network: called with (r, accuracy) after each network.
        on_epoch: called after each epoch of each network. An exception from it ends the evaluation and propagates. It
            must not draw from PyTorch's global generator: dropout draws from it too, so the networks would train with
            other random numbers.

    Raises:
        InputError: the distilled set does not fit the data set, holds numbers that are not finite, or lr ≤ 0.

    Equivalent to, for each r:
        network = build(model, C, K, (H, W), seed=derive_seed("evaluation", settings.seed, r))
        train(network, images, labels, replace(settings.training, lr=lr), generator=…)
        accuracy(network, dataset.test_pictures, dataset.test_labels)
    """
    lr = float(lr)
    _check(images, labels, lr, dataset)
    device = dataset.device
    pictures = images if isinstance(images, Pictures) else Pictures(images.detach().to(device, torch.float32))
    labels = labels.detach().to(device, torch.float32 if labels.is_floating_point() else labels.dtype)
    training = replace(settings.training, lr=lr)
    start = time.perf_counter()
    accuracies: list[float] = []
    diverged = 0
    at_once = settings.networks_at_once(device)
    for first in range(0, settings.repeats, at_once):
        repeats = range(first, min(first + at_once, settings.repeats))
        seeds = [derive_seed("evaluation", settings.seed, repeat) for repeat in repeats]
        networks = [build(model, *dataset.sizes, seed=seed).to(device) for seed in seeds]
        diverged += train_all(networks, seeds, pictures, labels, training, on_epoch)
        for repeat, network in enumerate(networks, start=first):
            accuracies.append(accuracy(network, dataset.test_pictures, dataset.test_labels))
            if on_network is not None:
                on_network(repeat, accuracies[-1])
    return Evaluation(name_of(model), tuple(accuracies), time.perf_counter() - start, diverged)


def evaluate_networks(
    images: Tensor | Pictures,
    labels: Tensor,
    lr: float,
    dataset: Dataset,
    networks: Sequence[Network],
    settings: EvaluationSettings,
    *,
    progress: bool = False,
    on_evaluation: Callable[[Evaluation], None] | None = None,
) -> list[Evaluation]:
    """Run `evaluate` for each network; all are checked before the first is trained.

    Args:
        images, labels, lr, dataset, settings: as for `evaluate`.
        progress: show a bar over the epochs of all networks.
        on_evaluation: called with the evaluation of each kind of network when it is complete.

    Raises:
        InputError: as `evaluate`, or a network that does not exist or cannot take such images.
    """
    for network in networks:
        architecture_of(network, *dataset.sizes, device=dataset.device)
    rows: list[Evaluation] = []
    repeats, epochs = settings.repeats, settings.training.epochs
    with Bar("networks' epochs", len(networks) * repeats * epochs, quiet=not progress) as bar:
        for network in networks:
            name = name_of(network)

            def report(repeat: int, value: float, name: str = name, before: int = len(rows) * repeats) -> None:
                skipped = max(0, (before + repeat + 1) * epochs - bar.done)  # of one that diverged
                bar.step(skipped, network=f"{name} {repeat + 1}/{repeats}", test=f"{100 * value:.1f}%")

            rows.append(
                evaluate(images, labels, lr, dataset, network, settings, on_network=report, on_epoch=lambda: bar.step())
            )
            if on_evaluation is not None:
                on_evaluation(rows[-1])
    return rows


def table(rows: Sequence[Evaluation]) -> str:
    """Format evaluations as a table: network, accuracy (mean ± standard deviation) in percent, networks, seconds."""
    width = max([len("network"), *(len(row.model) for row in rows)])
    lines = [f"{'network':<{width}}  {'test accuracy':>15}  networks  seconds"]
    for row in rows:
        spread = f" ± {100 * row.std:>4.1f} %" if len(row.accuracies) > 1 else " %"
        line = f"{row.model:<{width}}  {f'{100 * row.mean:>6.1f}{spread}':<15}  "
        line += f"{len(row.accuracies):>8}  {row.seconds:>7.1f}"
        lines.append(line + (f"  ({row.diverged} diverged)" if row.diverged else ""))
    return "\n".join(lines)


def _check(images: Tensor | Pictures, labels: Tensor, lr: float, dataset: Dataset) -> None:
    if not (math.isfinite(lr) and lr > 0):
        raise InputError(f"the learned lr must be a finite number above 0, not {lr}")
    expected = (dataset.in_channels, *dataset.image_size)
    if images.ndim != 4 or tuple(images.shape[1:]) != expected:
        raise InputError(
            f"distilled images of {list(images.shape)} do not fit {dataset.name}, whose images are {list(expected)}"
        )
    if isinstance(images, Tensor) and not bool(torch.isfinite(images).all()):
        raise InputError("the distilled images hold pixels that are not finite")
    classes = dataset.num_classes
    if labels.ndim == 2 and labels.shape[1] != classes:
        raise InputError(
            f"distilled labels over {labels.shape[1]} classes do not fit {dataset.name}, which has {classes}"
        )
    if labels.ndim == 1 and labels.numel() and (int(labels.min()) < 0 or int(labels.max()) >= classes):
        raise InputError(
            f"distilled labels must be from 0 to {classes - 1}, the classes of {dataset.name}, "
            f"not from {labels.min()} to {labels.max()}"
        )
    if labels.is_floating_point() and not bool(torch.isfinite(labels).all()):
        raise InputError("the distilled labels hold numbers that are not finite")
