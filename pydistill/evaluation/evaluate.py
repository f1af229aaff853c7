"""Evaluate a distilled set: the test accuracy of fresh networks trained on it."""

from __future__ import annotations

import math
import statistics
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor, nn

from pydistill._util.format import accuracy_of
from pydistill._util.format import networks as networks_text
from pydistill._util.progress import Bar
from pydistill.data import Dataset, Pictures
from pydistill.errors import InputError
from pydistill.evaluation.protocols import protocol_of
from pydistill.evaluation.settings import EvaluationSettings
from pydistill.nn import Network, architecture_of, build, name_of
from pydistill.training.train import accuracy, derive_seed, train_all

__all__ = [
    "Evaluation",
    "EvaluationSettings",
    "Row",
    "accuracy_record",
    "evaluate",
    "evaluate_networks",
    "records",
    "table",
]


@dataclass(frozen=True)
class Evaluation:
    """Test accuracies of fresh networks of one kind.

    Attributes:
        model: name of the network.
        accuracies: in [0, 1], one per network; a diverged network is tested with its last parameters (about chance).
        seconds: wall-clock time of all training and testing.
        diverged: number of networks whose training diverged.
        lr: the learning rate of every training.
        epochs: of every training.
        protocol: how they were trained and which accuracy counts, in words (`protocols.protocol_of`).
    """

    model: str
    accuracies: tuple[float, ...]
    seconds: float
    diverged: int = 0
    lr: float = 0.0
    epochs: int = 0
    protocol: str = ""

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
        return (
            record
            | {"lr": self.lr, "epochs": self.epochs, "protocol": self.protocol}
            | accuracy_record(self.accuracies)
        )

    @classmethod
    def from_record(cls, record: Mapping[str, Any]) -> Evaluation:
        """Make an evaluation from what `as_record` returned."""
        names = ("seconds", "diverged", "lr", "epochs", "protocol")
        return cls(record["model"], tuple(record["runs"]), *(record[name] for name in names))


Row = tuple[str, Evaluation]
"""The name of a training set, and the accuracies of networks trained on it."""


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

    A network whose training diverges is counted in `Evaluation.diverged` and tested as it is. With
    `settings.best_every` = e the accuracy of a network is the best of those after epochs e, 2 e, … and the last.

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
        best = _BestAccuracies(networks, dataset, settings.best_every)
        looks = None if settings.best_every is None else best.after_epoch
        diverged += train_all(networks, seeds, pictures, labels, training, on_epoch, looks)
        for repeat, network in enumerate(networks, start=first):
            last = accuracy(network, dataset.test_pictures, dataset.test_labels)
            accuracies.append(max(last, best.values[repeat - first]))
            if on_network is not None:
                on_network(repeat, accuracies[-1])
    seconds = time.perf_counter() - start
    return Evaluation(name_of(model), tuple(accuracies), seconds, diverged, lr, training.epochs, protocol_of(settings))


class _BestAccuracies:
    """The best test accuracy of every network so far, of those after epochs `every`, 2 `every`, …; 0 before."""

    def __init__(self, networks: Sequence[nn.Module], dataset: Dataset, every: int | None) -> None:
        self._networks, self._dataset, self._every = networks, dataset, every
        self.values = [0.0] * len(networks)

    def after_epoch(self, number: int, epoch: int) -> None:
        """Test network `number` if it is due."""
        if self._every is not None and epoch % self._every == 0:
            tested = accuracy(self._networks[number], self._dataset.test_pictures, self._dataset.test_labels)
            self.values[number] = max(self.values[number], tested)


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


def table(rows: Sequence[Row]) -> str:
    """Format evaluations as a table, of what every one was trained on: accuracies (mean ± std) are in percent."""
    heads = ("trained on", "network", "test accuracy", "networks", "lr", "epochs", "seconds", "protocol")
    cells = [heads, *(_cells(name, row) for name, row in rows)]
    widths = [max(len(row[column]) for row in cells) for column in range(len(heads))]
    aligned = "<<<>>>><"
    return "\n".join(
        "  ".join(f"{cell:{side}{width}}" for cell, side, width in zip(row, aligned, widths, strict=True)).rstrip()
        for row in cells
    )


def records(rows: Sequence[Row]) -> list[dict[str, Any]]:
    """Return the rows of `table` as JSON-able values."""
    return [{"trained_on": name} | row.as_record() for name, row in rows]


def _cells(name: str, row: Evaluation) -> tuple[str, ...]:
    """Return the cells of a row of the table; what is not known, as with experts, is empty."""
    diverged = f" ({row.diverged} diverged)" if row.diverged else ""
    return (
        name,
        row.model,
        f"{100 * row.mean:>5.1f}" + (f" ± {100 * row.std:>4.1f} %" if len(row.accuracies) > 1 else " %"),
        str(len(row.accuracies)),
        f"{row.lr:.3g}" if row.lr else "",
        str(row.epochs),
        f"{row.seconds:.1f}" if row.seconds else "",
        row.protocol + diverged,
    )


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
