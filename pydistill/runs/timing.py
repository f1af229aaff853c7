"""Estimate the seconds of one expert, one outer iteration and one evaluation from a few short steps."""

from __future__ import annotations

import math
import statistics
from dataclasses import dataclass, replace
from itertools import pairwise
from time import perf_counter

import torch
from torch import Tensor, nn

from pydistill.data import Dataset
from pydistill.distillation.distiller import Distiller
from pydistill.distillation.settings import DistillSettings
from pydistill.evaluation.evaluate import evaluate
from pydistill.nn import Network, build
from pydistill.recipes.recipe import Recipe
from pydistill.synthesis.decoders import DecoderSettings, make_decoder
from pydistill.training.train import TrainingSettings, accuracy, train
from pydistill.trajectories import TrajectoryStore

BUDGET = 1.5  # seconds that one measurement may take, unless its shortest form takes longer
REPEATS = 3
MAX_ITERATIONS = 25
FITTED = 16  # images
TINY_LR = 1e-5  # keeps every network of a measurement finite: NaN would cost another time


@dataclass(frozen=True)
class CostProbe:
    """Times the parts of a recipe.

    Attributes:
        dataset: the data to measure on, which may be fewer images than the recipe's own.
        train_images, test_images: how many images the recipe's own data have.
    """

    recipe: Recipe
    network: Network
    dataset: Dataset
    train_images: int
    test_images: int

    def now(self) -> float:
        """Return the time in seconds, after the device has finished its work."""
        if self.dataset.device.type == "cuda":
            torch.cuda.synchronize(self.dataset.device)
        return perf_counter()

    def expert(self) -> float:
        """Return the seconds of one expert: its epochs, and the tests before the first and after each."""
        training = self.recipe.expert.training
        tested = (training.epochs + 1) * self.test_images + self.train_images
        return training.epochs * self.epoch(training) + tested * self._test_of_one_image()

    def all_real(self) -> float:
        """Return the seconds of one network of the baseline `full`: its training on all real images, and its test."""
        settings = self.recipe.evaluation
        training = replace(settings.training, batch_size=settings.full_batch_size)
        return settings.full_epochs * self.epoch(training) + self.test_images * self._test_of_one_image()

    def epoch(self, training: TrainingSettings) -> float:
        """Return the seconds of an epoch on all training images."""
        pictures, labels = self.dataset.train_pictures, self.dataset.train_labels
        count = min(4 * training.batch_size, len(pictures))
        ends: list[float] = []

        def on_epoch(epoch: int, loss: float, train_accuracy: float) -> None:
            ends.append(self.now())

        short = replace(training, epochs=REPEATS + 1, lr=TINY_LR)
        generator = torch.Generator().manual_seed(0)
        train(
            self._fresh_network(),
            pictures.rows(0, count),
            labels[:count],
            short,
            generator=generator,
            on_epoch=on_epoch,
        )
        epoch = statistics.median(end - start for start, end in pairwise(ends))  # the first epoch warms up
        return epoch * self.train_images / count

    def _test_of_one_image(self) -> float:
        """Return the seconds of a test, per image."""
        network, pictures, labels = self._fresh_network(), self.dataset.test_pictures, self.dataset.test_labels
        count = min(1024, len(pictures))
        times = []
        for _ in range(REPEATS):
            start = self.now()
            accuracy(network, pictures.rows(0, count), labels[:count])
            times.append(self.now() - start)
        return min(times) / count

    def iteration(self, store: TrajectoryStore, *, dummy: bool) -> tuple[float, Distiller]:
        """Return the seconds of one outer iteration, and the distiller it was measured with.

        The learned tensors do not move, so that every iteration costs what the first one does.

        Args:
            store: the experts.
            dummy: they are random. Then the last student step is matched, which costs most, and a long student is
                measured at its first steps and scaled.
        """
        settings = replace(
            self.recipe.distill.without_start(),  # there may be no experts or set yet
            lr_image=0.0,
            lr_lr=0.0,
            lr_label=0.0,
            skip_loss_above=None,
            max_rejections=10**6,
        )
        steps = settings.steps
        if dummy:
            short = replace(settings, selection="last", steps=min(2, steps))
            distiller = self._distiller(short, store)
            distiller.iterate()  # warms up
            start = self.now()
            distiller.iterate()
            per_step = (self.now() - start) / short.steps
            settings = replace(short, steps=min(steps, max(2, int(BUDGET / REPEATS / per_step))))
        distiller = self._distiller(settings, store)
        for _ in range(5 if self.dataset.device.type == "cuda" else 1):
            distiller.iterate()
        times: list[float] = []
        while len(times) < REPEATS or (len(times) < MAX_ITERATIONS and sum(times) < 2 * BUDGET):
            start = self.now()
            distiller.iterate()
            times.append(self.now() - start)
        return statistics.fmean(times) * steps / settings.steps, distiller

    def fit(self, settings: DecoderSettings, images: Tensor) -> float:
        """Return the seconds of fitting the codes to all images of the set, measured on a few."""
        few, shape = images[:FITTED], (images.shape[1], images.shape[2], images.shape[3])
        times = []
        for steps in (1, 1 + REPEATS):
            decoder = make_decoder(replace(settings, fit_steps=steps), shape, self.recipe.distill.ipc)
            start = self.now()
            decoder.encode(few, torch.zeros(len(few), dtype=torch.int64), torch.Generator().manual_seed(0))
            times.append(self.now() - start)
        return settings.fit_steps * max(0.0, times[1] - times[0]) / REPEATS * len(images) / len(few)

    def evaluation(self, images: Tensor, labels: Tensor) -> float:
        """Return the seconds of one evaluation of a set: training of all networks, and tests on all test images."""
        settings = self.recipe.evaluation
        together = min(settings.repeats, settings.networks_at_once(self.dataset.device))
        total = settings.training.epochs

        def train_together(epochs: int) -> float:
            shorter = replace(settings, repeats=together, training=replace(settings.training, epochs=epochs))
            start = self.now()
            evaluate(images, labels, TINY_LR, self.dataset, self.network, shorter)
            return self.now() - start

        few = min(5, total)
        train_together(few)  # warms up
        seconds = first = train_together(few)
        epochs = min(total, max(2 * few, int(few * 2 * BUDGET / first)))
        if epochs > few:
            seconds = train_together(epochs)
            seconds += (total - epochs) * max(0.0, seconds - first) / (epochs - few)
        untested = together * (self.test_images - len(self.dataset.test_pictures))
        return math.ceil(settings.repeats / together) * (seconds + untested * self._test_of_one_image())

    def _fresh_network(self) -> nn.Module:
        return build(self.network, *self.dataset.sizes, seed=0).to(self.dataset.device)

    def _distiller(self, settings: DistillSettings, store: TrajectoryStore) -> Distiller:
        return Distiller(settings, self.dataset, store, self._fresh_network(), teachers=[self._fresh_network()])
