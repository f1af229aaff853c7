"""The training steps of an epoch, written so that a GPU can replay one step as a CUDA graph.

Everything that differs between steps (images, augmentation, learning rate) is read from tables on the device at a
counter in device memory, and a step allocates nothing that outlives it. No step waits for Python.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from pydistill.data.dsa import DsaDraw, DsaSettings, draw_tables
from pydistill.data.pictures import Pictures
from pydistill.engine.cuda_graph import CudaGraphStep
from pydistill.ops import augment
from pydistill.reference.augment import COLUMNS
from pydistill.training.gradients import GradientBackend
from pydistill.training.gsam import GsamGradients
from pydistill.training.sgd import Sgd

_STEPS_WORTH_A_CAPTURE = 30


class TrainStep:
    """One training step: make the batch, compute the gradient, update the parameters, add up the loss.

    Attributes:
        loss: sum of the losses of all images since it was last set to 0, a 0-dim tensor.
        correct: number of images classified correctly, likewise; None if it is not counted.
    """

    def __init__(
        self,
        gradients: GradientBackend | GsamGradients,
        optimiser: Sgd,
        pictures: Pictures,
        labels: Tensor,
        *,
        counts_correct: bool,
    ) -> None:
        self.gradients, self.optimiser = gradients, optimiser
        self.pictures, self.labels = pictures, labels
        self.loss = torch.zeros((), device=labels.device)
        self.correct = torch.zeros((), device=labels.device) if counts_correct else None

    def step(self, index: Tensor, operations: Tensor | None, parameters: Tensor | None) -> None:
        """Take one step of SGD on the images at `index` [B], augmented by `operations` if there are any."""
        target = self.labels.index_select(0, index)
        loss, logits = self.gradients.gradient(self._batch(index, operations, parameters), target)
        self.optimiser.step()
        self.loss += loss * len(index)
        if self.correct is not None:
            self.correct += count_correct(logits, target)

    def _batch(self, index: Tensor, operations: Tensor | None, parameters: Tensor | None) -> Tensor:
        if operations is None or parameters is None:
            return self.pictures.batch(index)
        if self.pictures.are_bytes:
            return augment(self.pictures.batch(index), operations, parameters)
        return augment(self.pictures.pixels, operations, parameters, index)


@dataclass(frozen=True)
class EpochDraws:
    """Pre-drawn indices [steps, size] and augmentations (or None) of several steps, a row per step, on the CPU."""

    index: Tensor
    augmentation: tuple[Tensor, Tensor] | None


class StepRunner:
    """Runs the `count` steps of an epoch whose batches have `size` images; its tables hold `epochs` epochs.

    The tables (see EpochDraws) are allocated once; `_number` [1] is the row of the next step.
    """

    def __init__(
        self, train_step: TrainStep, size: int, count: int, epochs: int, dsa: DsaSettings | None, *, capture: bool
    ) -> None:
        device, dtype = train_step.pictures.device, train_step.pictures.dtype
        self.size, self.count = size, count
        self._train_step, self._dsa = train_step, dsa
        self._number = torch.zeros(1, dtype=torch.int64, device=device)
        self._index = torch.empty(epochs * count, size, dtype=torch.int64, device=device)
        self._augmentation: tuple[Tensor, Tensor] | None = None
        if dsa is not None and dsa.parts:
            widths = [COLUMNS[part] for part in dsa.parts]
            length, width = (len(widths), sum(widths)) if dsa.mode == "M" else (1, max(widths))
            rows = 1 if dsa.shared else size
            operations = torch.empty(epochs * count, length, dtype=torch.int64, device=device)
            self._augmentation = operations, torch.zeros(epochs * count, rows, width, dtype=dtype, device=device)
        self._run_step = CudaGraphStep(self._step, device, capture=capture)

    def draw_augmentations(self, generator: torch.Generator) -> list[DsaDraw]:
        """Draw an augmentation for every step of an epoch."""
        if self._dsa is None:
            return []
        height, width = self._train_step.pictures.shape[2:]
        return [self._dsa.draw(self.size, height, width, generator) for _ in range(self.count)]

    def tables(self, orders: Sequence[Tensor], draws: Sequence[DsaDraw]) -> EpochDraws:
        """Make the tables of several epochs from the order of images [count · size] of each, and all augmentations."""
        index = torch.cat(list(orders)).view(-1, self.size)
        if self._augmentation is None:
            return EpochDraws(index, None)
        return EpochDraws(index, draw_tables(draws, "cpu", self._augmentation[1].dtype))

    def load(self, draws: EpochDraws) -> None:
        """Copy the draws into the tables and start at their first step."""
        _fill(self._index[: len(draws.index)], draws.index)
        if self._augmentation is not None and draws.augmentation is not None:  # both, or neither
            operations, parameters = draws.augmentation
            steps, _, width = parameters.shape
            _fill(self._augmentation[0][:steps], operations)
            _fill(self._augmentation[1][:steps, :, :width], parameters)
        self._number.zero_()

    def run(self) -> None:
        """Run the next `count` steps."""
        for _ in range(self.count):
            self._run_step()

    def invalidate(self, *, capture: bool) -> None:
        """Drop the captured graph; capture again only if `capture`."""
        self._run_step.invalidate(capture=capture)

    def _step(self) -> None:
        index, *augmentation = (
            table.index_select(0, self._number)[0] for table in (self._index, *(self._augmentation or ()))
        )
        operations, parameters = augmentation or (None, None)
        self._train_step.step(index, operations, parameters)
        self._number += 1


class EpochRunner:
    """Runs `epochs` passes over all images in batches of `batch_size`; the last batch of a pass holds the remainder.

    Args:
        train_step: the step to run.
        epochs_per_draw: number of epochs that are drawn, and copied into the tables, at once.
        capture: whether steps may be captured; they are if there are enough of them.
    """

    def __init__(
        self,
        train_step: TrainStep,
        batch_size: int,
        epochs: int,
        dsa: DsaSettings | None,
        *,
        epochs_per_draw: int = 1,
        capture: bool,
    ) -> None:
        full, remainder = divmod(len(train_step.pictures), batch_size)
        self._images, self._epochs, self._epochs_per_draw = len(train_step.pictures), epochs, epochs_per_draw
        self._parts = [
            StepRunner(
                train_step,
                size,
                count,
                epochs_per_draw,
                dsa,
                capture=capture and count * epochs >= _STEPS_WORTH_A_CAPTURE,
            )
            for size, count in ((batch_size, full), (remainder, 1))
            if size and count
        ]
        self._loaded = 0  # epochs copied into the tables so far
        self._done = 0
        self._ahead: list[EpochDraws] = []  # the next draws, one of each part, or none

    def run(self, generator: torch.Generator) -> None:
        """Run the next epoch without waiting for the device."""
        if self._done == self._loaded:
            self.draw_ahead(generator)
            for part, draws in zip(self._parts, self._ahead, strict=True):
                part.load(draws)
            self._loaded += self._epochs_of_next_draw()
            self._ahead = []
        for part in self._parts:
            part.run()
        self._done += 1

    def draw_ahead(self, generator: torch.Generator) -> None:
        """Draw the epochs after those in the tables, unless that is done: their orders and augmentations."""
        if self._ahead or self._loaded == self._epochs:
            return
        orders: list[list[Tensor]] = [[] for _ in self._parts]
        augmentations: list[list[DsaDraw]] = [[] for _ in self._parts]
        for _ in range(self._epochs_of_next_draw()):
            order = torch.randperm(self._images, generator=generator)
            pieces = torch.split(order, [part.size * part.count for part in self._parts])
            for number, part in enumerate(self._parts):
                orders[number].append(pieces[number])
                augmentations[number] += part.draw_augmentations(generator)
        self._ahead = [part.tables(orders[number], augmentations[number]) for number, part in enumerate(self._parts)]

    def invalidate(self, *, capture: bool) -> None:
        """Drop the captured steps, as the network is no longer computed the same way; capture again if `capture`."""
        for part in self._parts:
            part.invalidate(capture=capture)

    def _epochs_of_next_draw(self) -> int:
        return min(self._epochs_per_draw, self._epochs - self._loaded)


def count_correct(logits: Tensor, target: Tensor) -> Tensor:
    """Count the rows whose largest logit is at the target, a class number or the largest entry of a label row."""
    classes = target if target.ndim == 1 else target.argmax(1)
    return (logits.argmax(1) == classes).sum()


def _fill(table: Tensor, values: Tensor) -> None:
    """Copy from the CPU without waiting for the table's device."""
    if table.device.type == "cuda":
        table.copy_(values.pin_memory(), non_blocking=True)
    else:
        table.copy_(values)
