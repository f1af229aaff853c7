"""Baselines that a distilled set is compared with: networks trained on real images by the same protocol."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from pydistill._util.layout import BASELINES_NAME
from pydistill._util.progress import Bar
from pydistill.data import Dataset, Pictures
from pydistill.evaluation.evaluate import Evaluation, evaluate
from pydistill.evaluation.evaluations_file import add_evaluations, read_evaluations
from pydistill.evaluation.settings import EvaluationSettings
from pydistill.nn import Network, architecture_of
from pydistill.training.train import derive_seed

Row = tuple[str, Evaluation]
"""What the networks were trained on, and their accuracies."""
Choose = Callable[[int, torch.Generator], tuple[Tensor, Tensor]]
Label = Callable[[Tensor, Tensor], Tensor]


@dataclass(frozen=True)
class StoredEvaluator:
    """Evaluates training sets on fresh networks of one kind, none of them twice.

    A row of baselines.json counts as an evaluation if everything is equal that it depends on: the images, their labels
    and learning rate, the data set and its preprocessing, the network's architecture, and the protocol. Of a network of
    the user's own that is its name, not its code.

    Attributes:
        dataset: provides real images and test images, and the device.
        network: the kind of networks.
        settings: the protocol.
        run: the folder of baselines.json; None: everything is computed and nothing is written.
        bar: a step per epoch of a network.
    """

    dataset: Dataset
    network: Network
    settings: EvaluationSettings
    run: Path | None = None
    bar: Bar | None = None

    def random_real(
        self, ipc: int, rates: Sequence[float], label: Label | None = None, labels: str = "", **depends_on: Any
    ) -> Row:
        """Evaluate networks on `ipc` random real images per class, a new draw for every network.

        A distilled set learns its learning rate; for a fair comparison random images are tried at each of `rates`, and
        the best mean accuracy counts.

        Args:
            label: makes the labels to train on from images and class numbers; None: the class numbers.
            labels: the name of these labels.
            depends_on: what they depend on, JSON-able.
        """
        name = f"{ipc * self.dataset.num_classes:,} random real images" + (f", {labels}" if labels else "")
        return self._chosen(name, self.dataset.sample_per_class, "random real", ipc, rates, label, depends_on)

    def all_real(self) -> Row:
        """Evaluate networks on all training images, at the `full_…` epochs, batch size and learning rate."""
        settings, pictures = self.settings, self.dataset.train_pictures
        training = replace(settings.training, epochs=settings.full_epochs, batch_size=settings.full_batch_size)
        longer = replace(self, settings=replace(settings, training=training))
        name = f"all {len(pictures):,} real images"
        return longer.evaluate(name, pictures, self.dataset.train_labels, settings.full_lr)

    def evaluate(self, name: str, images: Tensor | Pictures, labels: Tensor, lr: float, **depends_on: Any) -> Row:
        """Evaluate networks on images and labels, as `evaluate.evaluate` does.

        Args:
            name: of the images and labels.
            depends_on: what they depend on besides their name and the data set, JSON-able.
        """
        return name, self._stored(name, lr, depends_on, lambda: self._trained(images, labels, lr, self.settings))

    def _chosen(
        self,
        name: str,
        choose: Choose,
        seeded_by: str,
        ipc: int,
        rates: Sequence[float],
        label: Label | None,
        depends_on: dict[str, Any],
    ) -> Row:
        """Evaluate networks on images that `choose` draws from a generator, for every network anew."""

        def compute(lr: float) -> Evaluation:
            parts = []
            for repeat in range(self.settings.repeats):
                seed = derive_seed(seeded_by, self.settings.seed, repeat)
                images, classes = choose(ipc, torch.Generator().manual_seed(seed))
                labels = classes if label is None else label(images, classes)
                parts.append(self._trained(images, labels, lr, replace(self.settings, repeats=1, seed=seed)))
            return replace(
                parts[0],
                accuracies=tuple(accuracy for part in parts for accuracy in part.accuracies),
                seconds=sum(part.seconds for part in parts),
                diverged=sum(part.diverged for part in parts),
            )

        tried = [self._stored(name, lr, depends_on, partial(compute, lr)) for lr in dict.fromkeys(rates)]
        return name, max(tried, key=lambda evaluation: evaluation.mean)

    def _stored(
        self, name: str, lr: float, depends_on: dict[str, Any], compute: Callable[[], Evaluation]
    ) -> Evaluation:
        settings, before = self.settings, 0 if self.bar is None else self.bar.done
        about = {
            "data": self.dataset.digest,
            "preprocessing": self.dataset.preprocessing.fingerprint,
            "architecture": architecture_of(self.network, *self.dataset.sizes, device=self.dataset.device),
            "lr": lr,
            "training": {name: value for name, value in asdict(settings.training).items() if name != "lr"},
            "best_every": settings.best_every,
            "repeats": settings.repeats,
            "seed": settings.seed,
        }
        evaluation = stored(self.run, name, about | depends_on, compute)
        if self.bar is not None:  # also over the epochs of a network that diverged, or of one that is stored
            expected = settings.repeats * settings.training.epochs
            shown = {"network": evaluation.model, "trained": f"on {name}", "test": f"{100 * evaluation.mean:.1f}%"}
            self.bar.step(max(0, before + expected - self.bar.done), **shown)
        return evaluation

    def _trained(
        self, images: Tensor | Pictures, labels: Tensor, lr: float, settings: EvaluationSettings
    ) -> Evaluation:
        on_epoch = None if self.bar is None else _step_of(self.bar)
        return evaluate(images, labels, lr, self.dataset, self.network, settings, on_epoch=on_epoch)


def stored(run: Path | None, name: str, about: dict[str, Any], compute: Callable[[], Evaluation]) -> Evaluation:
    """Return the evaluation in baselines.json with this name and `about`, or compute it and add its row.

    Raises:
        FormatError: the file is damaged.
        WriteError: it cannot be written.
    """
    about = json.loads(json.dumps(about))
    for row in [] if run is None else read_evaluations(run, BASELINES_NAME):
        if row["trained_on"] == name and row["about"] == about:
            return Evaluation.from_record(row)
    evaluation = compute()
    if run is not None:
        add_evaluations(run, [evaluation], name=BASELINES_NAME, trained_on=name, about=about)
    return evaluation


def read_baselines(run: Path) -> list[Row]:
    """Read baselines.json: of rows that differ in the learning rate alone, the best; oldest first.

    Raises:
        FormatError: the file is damaged.
    """
    best: dict[str, Row] = {}
    for record in read_evaluations(run, BASELINES_NAME):
        row = (record["trained_on"], Evaluation.from_record(record))
        key = json.dumps([row[0], row[1].model, record["about"] | {"lr": None}], sort_keys=True)
        if key not in best or row[1].mean > best[key][1].mean:
            best[key] = row
    return list(best.values())


def _step_of(bar: Bar) -> Callable[[], None]:
    return lambda: bar.step()
