"""Baselines that a distilled set is compared with: networks trained on real images by the same protocol."""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, replace
from functools import cache, partial
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from pydistill._util.layout import BASELINES_NAME
from pydistill._util.progress import Bar
from pydistill.data import Dataset, Pictures
from pydistill.evaluation.evaluate import Evaluation, Row, evaluate
from pydistill.evaluation.evaluations_file import add_evaluations, read_evaluations
from pydistill.evaluation.settings import EvaluationSettings
from pydistill.nn import Network, architecture_of, build
from pydistill.synthesis.kmeans import features, kmeans_choice
from pydistill.training.train import derive_seed

Choose = Callable[[int], tuple[Tensor, Tensor]]
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

        def choose(repeat: int) -> tuple[Tensor, Tensor]:
            generator = torch.Generator().manual_seed(self._seed("random real", repeat))
            images, classes = self.dataset.sample_per_class(ipc, generator)
            return images, classes if label is None else label(images, classes)

        name = f"{ipc * self.dataset.num_classes:,} random real images" + (f", {labels}" if labels else "")
        return self._chosen(name, "random real", choose, rates, depends_on)

    def kmeans_real(self, ipc: int, rates: Sequence[float]) -> Row:
        """Evaluate networks on `ipc` representative real images per class, with new first centroids for every network.

        Of each class the images nearest to the centroids of k-means with `ipc` clusters are taken, no image twice, in
        the features of a network with random parameters (`pydistill.synthesis.kmeans`). Rates as in `random_real`.
        """

        @cache
        def chosen() -> list[Tensor]:
            """Return the indices of the images for every network; features are computed once, a class at a time."""
            network = build(self.network, *self.dataset.sizes, seed=self._seed("k-means features", 0))
            network = network.to(self.dataset.device)
            seeds = [self._seed("k-means real", repeat) for repeat in range(self.settings.repeats)]
            generators = [torch.Generator().manual_seed(seed) for seed in seeds]
            parts: list[list[Tensor]] = [[] for _ in generators]
            for label in range(self.dataset.num_classes):
                index = self.dataset.class_indices(label)
                points = features(network, self.dataset.train_pictures.batch(index))
                for part, generator in zip(parts, generators, strict=True):
                    part.append(index[kmeans_choice(points, ipc, generator)])
            return [torch.cat(part) for part in parts]

        def choose(repeat: int) -> tuple[Tensor, Tensor]:
            index = chosen()[repeat]
            return self.dataset.train_pictures.batch(index), self.dataset.train_labels[index]

        name = f"{ipc * self.dataset.num_classes:,} k-means real images"
        return self._chosen(name, "k-means real", choose, rates, {})

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
        self, name: str, seeded_by: str, choose: Choose, rates: Sequence[float], depends_on: dict[str, Any]
    ) -> Row:
        """Evaluate networks on the images and labels that `choose` returns for each, at the best of the rates."""

        def compute(lr: float) -> Evaluation:
            parts = []
            for repeat in range(self.settings.repeats):
                one = replace(self.settings, repeats=1, seed=self._seed(seeded_by, repeat))
                parts.append(self._trained(*choose(repeat), lr, one))
            return replace(
                parts[0],
                accuracies=tuple(accuracy for part in parts for accuracy in part.accuracies),
                seconds=sum(part.seconds for part in parts),
                diverged=sum(part.diverged for part in parts),
            )

        tried = [self._stored(name, lr, depends_on, partial(compute, lr)) for lr in dict.fromkeys(rates)]
        return name, max(tried, key=lambda evaluation: evaluation.mean)

    def _seed(self, name: str, repeat: int) -> int:
        return derive_seed(name, self.settings.seed, repeat)

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


def read_baselines(run: str | os.PathLike[str]) -> list[Row]:
    """Read baselines.json: of rows that differ in the learning rate alone, the best; oldest first.

    Raises:
        FormatError: the file is damaged.
    """
    best: dict[str, Row] = {}
    for record in read_evaluations(Path(run), BASELINES_NAME):
        row = (record["trained_on"], Evaluation.from_record(record))
        key = json.dumps([row[0], row[1].model, record["about"] | {"lr": None}], sort_keys=True)
        if key not in best or row[1].mean > best[key][1].mean:
            best[key] = row
    return list(best.values())


def _step_of(bar: Bar) -> Callable[[], None]:
    return lambda: bar.step()
