"""The training steps of an epoch: one body of work that finds its batch by a counter in device memory.

Everything that differs from step to step (images, augmentation, learning rate) lies in tables on the device, and the
body allocates nothing that outlives it; so a GPU replays it as a CUDA graph, and no step waits for Python.
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
from pydistill.training.sgd import Sgd

STEPS_WORTH_A_CAPTURE = 30


class TrainStep:
    """What a step does: make the batch, compute the gradient, move the parameters, count.

    Attributes:
        loss: the sum of the losses of all images since it was last set to 0, a 0-dim tensor.
        right: likewise how many were classified rightly, if that is counted.
    """

    def __init__(
        self,
        passes: GradientBackend,
        optimiser: Sgd,
        pictures: Pictures,
        labels: Tensor,
        *,
        count_right: bool,
    ) -> None:
        self.passes, self.optimiser = passes, optimiser
        self.pictures, self.labels = pictures, labels
        self.loss = torch.zeros((), device=labels.device)
        self.right = torch.zeros((), device=labels.device) if count_right else None

    def step(self, index: Tensor, operations: Tensor | None, parameters: Tensor | None) -> None:
        """One step of SGD on the images at `index` [B], augmented by a row of the draws' tables if there is one."""
        target = self.labels.index_select(0, index)
        loss, logits = self.passes.gradient(self._batch(index, operations, parameters), target)
        self.optimiser.step()
        self.loss += loss * len(index)
        if self.right is not None:
            self.right += count_correct(logits, target)

    def _batch(self, index: Tensor, operations: Tensor | None, parameters: Tensor | None) -> Tensor:
        if operations is None or parameters is None:
            return self.pictures.batch(index)
        if self.pictures.are_bytes:
            return augment(self.pictures.batch(index), operations, parameters)
        return augment(self.pictures.pixels, operations, parameters, index)


@dataclass(frozen=True)
class EpochDraws:
    """What chance decided for some steps on batches of one size, one row for each; in the CPU's memory.

    Args:
        index: [steps, size] int64.
        augmentation: the tables of their operations [steps, L] and parameters [steps, rows, width], or None.
    """

    index: Tensor
    augmentation: tuple[Tensor, Tensor] | None


class StepRunner:
    """The `count` steps of an epoch on batches of `size` images each, for `epochs` epochs at a time.

    Their tables (see EpochDraws) lie in memory that stays; `number` [1] is the step that comes next.
    """

    def __init__(
        self, work: TrainStep, size: int, count: int, epochs: int, dsa: DsaSettings | None, *, capture: bool
    ) -> None:
        device, dtype = work.pictures.device, work.pictures.dtype
        self.size, self.count = size, count
        self._work, self._dsa = work, dsa
        self._number = torch.zeros(1, dtype=torch.int64, device=device)
        self._index = torch.empty(epochs * count, size, dtype=torch.int64, device=device)
        self._augmentation: tuple[Tensor, Tensor] | None = None
        if dsa is not None and dsa.parts:
            widths = [COLUMNS[part] for part in dsa.parts]
            length, width = (len(widths), sum(widths)) if dsa.mode == "M" else (1, max(widths))
            rows = 1 if dsa.shared else size
            operations = torch.empty(epochs * count, length, dtype=torch.int64, device=device)
            self._augmentation = operations, torch.zeros(epochs * count, rows, width, dtype=dtype, device=device)
        self._one = CudaGraphStep(self._step, device, capture=capture)

    def draws(self, generator: torch.Generator) -> list[DsaDraw]:
        """An augmentation for each step of an epoch."""
        if self._dsa is None:
            return []
        height, width = self._work.pictures.shape[2:]
        return [self._dsa.draw(self.size, height, width, generator) for _ in range(self.count)]

    def drawn(self, orders: Sequence[Tensor], draws: Sequence[DsaDraw]) -> EpochDraws:
        """The tables of some epochs: of each the images in their order [count · size], and of all the augmentations."""
        index = torch.cat(list(orders)).view(-1, self.size)
        if self._augmentation is None:
            return EpochDraws(index, None)
        return EpochDraws(index, draw_tables(draws, "cpu", self._augmentation[1].dtype))

    def begin(self, drawn: EpochDraws) -> None:
        """Take these steps as the next ones."""
        _fill(self._index[: len(drawn.index)], drawn.index)
        if self._augmentation is not None and drawn.augmentation is not None:  # both, or neither
            own, given = self._augmentation, drawn.augmentation
            steps, _, width = given[1].shape
            _fill(own[0][:steps], given[0])
            _fill(own[1][:steps, :, :width], given[1])
        self._number.zero_()

    def run(self) -> None:
        """The next `count` steps."""
        for _ in range(self.count):
            self._one()

    def forget(self, *, capture: bool) -> None:
        """Drop what was captured."""
        self._one.forget(capture=capture)

    def _step(self) -> None:
        index, *augmentation = (
            table.index_select(0, self._number)[0] for table in (self._index, *(self._augmentation or ()))
        )
        operations, parameters = augmentation or (None, None)
        self._work.step(index, operations, parameters)
        self._number += 1


class EpochRunner:
    """`epochs` passes over all images in batches of `batch_size`, the last of each of what is left.

    Args:
        work: what a step does.
        at_a_time: epochs that are drawn, and written into the tables, together.
        capture: whether steps may be captured; they are where there are enough of them.
    """

    def __init__(
        self,
        work: TrainStep,
        batch_size: int,
        epochs: int,
        dsa: DsaSettings | None,
        *,
        at_a_time: int = 1,
        capture: bool,
    ) -> None:
        full, left = divmod(len(work.pictures), batch_size)
        self._images, self._epochs, self._at_a_time = len(work.pictures), epochs, at_a_time
        self._parts = [
            StepRunner(work, size, count, at_a_time, dsa, capture=capture and count * epochs >= STEPS_WORTH_A_CAPTURE)
            for size, count in ((batch_size, full), (left, 1))
            if size and count
        ]
        self._begun = 0
        self._done = 0
        self._ahead: list[EpochDraws] = []  # of each part, or nothing

    def run(self, generator: torch.Generator) -> None:
        """The next epoch; nothing waits for the device."""
        if self._done == self._begun:
            self.draw_ahead(generator)
            for part, drawn in zip(self._parts, self._ahead, strict=True):
                part.begin(drawn)
            self._begun += self._together()
            self._ahead = []
        for part in self._parts:
            part.run()
        self._done += 1

    def draw_ahead(self, generator: torch.Generator) -> None:
        """Draw the epochs that come after those in the tables, unless they have been: of each a new order, and an
        augmentation for each of its batches."""
        if self._ahead or self._begun == self._epochs:
            return
        orders: list[list[Tensor]] = [[] for _ in self._parts]
        draws: list[list[DsaDraw]] = [[] for _ in self._parts]
        for _ in range(self._together()):
            order = torch.randperm(self._images, generator=generator)
            pieces = torch.split(order, [part.size * part.count for part in self._parts])
            for number, part in enumerate(self._parts):
                orders[number].append(pieces[number])
                draws[number] += part.draws(generator)
        self._ahead = [part.drawn(orders[number], draws[number]) for number, part in enumerate(self._parts)]

    def forget(self, *, capture: bool) -> None:
        """The network is no longer computed as it was: capture the steps anew, or never again if they may not be."""
        for part in self._parts:
            part.forget(capture=capture)

    def _together(self) -> int:
        """How many epochs the next ones are."""
        return min(self._at_a_time, self._epochs - self._begun)


def count_correct(logits: Tensor, target: Tensor) -> Tensor:
    """How many rows of the logits have their largest entry where the target is."""
    wanted = target if target.ndim == 1 else target.argmax(1)
    return (logits.argmax(1) == wanted).sum()


def _fill(table: Tensor, values: Tensor) -> None:
    """Copy from the CPU without waiting for the table's device."""
    if table.device.type == "cuda":
        table.copy_(values.pin_memory(), non_blocking=True)
    else:
        table.copy_(values)
