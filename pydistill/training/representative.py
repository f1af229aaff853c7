"""Train on the images that represent each class best at the moment, chosen again every few epochs."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import torch
from torch import nn

from pydistill.data import Dataset, Pictures
from pydistill.synthesis.real_images import representative_images
from pydistill.training.train import TrainingSettings, derive_seed, train


def train_on_representatives(
    network: nn.Module,
    dataset: Dataset,
    settings: TrainingSettings,
    *,
    count: int,
    every: int,
    seed: int,
    on_epoch: Callable[[int, float, float], None],
) -> None:
    """Train the network in place on `count` images of each class, as many images per epoch as the data set has.

    Before epochs 1, 1 + every, 1 + 2 every, … the images are chosen by k-means on the network's own features
    (`representative_images`). An epoch makes ⌊images of the data set / chosen images⌉ passes over them, so that it has
    about as many steps as an epoch on all images.

    Args:
        settings: with a constant rate and no momentum, which would not outlast an epoch.
        seed: of the choices, orders and augmentations.
        on_epoch: called after epoch 1 … epochs with the epoch, and its passes' mean loss and accuracy.

    Raises:
        InputError: a class has fewer images, or the network has no linear layer.
        DivergedError: as `train`.

    Source: the choice is that of DREAM (Liu et al., ICCV 2023) for real batches in gradient matching; to train experts
    so is our combination.
    """
    passes = max(1, round(len(dataset.train_labels) / (count * dataset.num_classes)))
    of_epoch = replace(settings, epochs=passes)
    for epoch in range(1, settings.epochs + 1):
        generator = torch.Generator().manual_seed(derive_seed("representative", seed, epoch))
        if (epoch - 1) % every == 0:
            chosen = representative_images(dataset, count, network, generator)
            pictures = Pictures(dataset.train_pictures.pixels[chosen], dataset.train_pictures.preprocessing)
            labels = dataset.train_labels[chosen]
        done: list[tuple[float, float]] = []
        train(
            network,
            pictures,
            labels,
            of_epoch,
            generator=generator,
            on_epoch=lambda _, loss, accuracy, done=done: done.append((loss, accuracy)),  # type: ignore[misc]
        )
        loss, accuracy = (sum(values) / passes for values in zip(*done, strict=True))
        on_epoch(epoch, loss, accuracy)
