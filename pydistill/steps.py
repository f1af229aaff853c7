"""The training steps of an epoch: one body of work that finds its batch by a counter in device memory.

Everything that differs from step to step (images, augmentation, learning rate) lies in tables on the device, and the
body allocates nothing that outlives it; so a GPU replays it as a CUDA graph, and no step waits for Python.
"""

from __future__ import annotations

import torch
from torch import Tensor

from pydistill.data.dsa import DsaSettings, draw_tables
from pydistill.data.pictures import Pictures
from pydistill.graphs import Replayed
from pydistill.ops import augment
from pydistill.passes import Passes
from pydistill.reference.augment import COLUMNS

STEPS_WORTH_A_CAPTURE = 30


class Work:
    """What a step does: make the batch, compute the gradient, move the parameters, count.

    Attributes:
        loss: the sum of the losses of all images since it was last set to 0, a 0-dim tensor.
        right: likewise how many were classified rightly, if that is counted.
    """

    def __init__(
        self,
        passes: Passes,
        optimiser: torch.optim.Optimizer,
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
            self.right += how_many_right(logits, target)

    def _batch(self, index: Tensor, operations: Tensor | None, parameters: Tensor | None) -> Tensor:
        if operations is None or parameters is None:
            return self.pictures.batch(index)
        if self.pictures.are_bytes:
            return augment(self.pictures.batch(index), operations, parameters)
        return augment(self.pictures.pixels, operations, parameters, index)


class Steps:
    """The `count` steps of an epoch on batches of `size` images each.

    Tables, one row for each step, in memory that stays: index [count, size], and of the draws operations [count, L] and
    parameters [count, rows, width]. `number` [1] is the step that comes next.
    """

    def __init__(self, work: Work, size: int, count: int, dsa: DsaSettings | None, *, capture: bool) -> None:
        device, dtype = work.pictures.device, work.pictures.dtype
        self.size, self.count = size, count
        self._work, self._dsa = work, dsa
        self._number = torch.zeros(1, dtype=torch.int64, device=device)
        self._index = torch.empty(count, size, dtype=torch.int64, device=device)
        self._operations: Tensor | None = None
        self._parameters: Tensor | None = None
        if dsa is not None and dsa.parts:
            widths = [COLUMNS[part] for part in dsa.parts]
            length, width = (len(widths), sum(widths)) if dsa.mode == "M" else (1, max(widths))
            rows = 1 if dsa.shared else size
            self._operations = torch.empty(count, length, dtype=torch.int64, device=device)
            self._parameters = torch.zeros(count, rows, width, dtype=dtype, device=device)
        self._one = Replayed(self._step, device, capture=capture)

    def run(self, order: Tensor, generator: torch.Generator) -> None:
        """All steps, on the images in this order [count · size], on the CPU; each augmented by a draw of its own."""
        _fill(self._index, order.view_as(self._index))
        if self._dsa is not None:
            height, width = self._work.pictures.shape[2:]
            draws = [self._dsa.draw(self.size, height, width, generator) for _ in range(self.count)]
            if self._operations is not None and self._parameters is not None:
                operations, parameters = draw_tables(draws, "cpu", self._parameters.dtype)
                _fill(self._operations, operations)
                _fill(self._parameters[..., : parameters.shape[2]], parameters)
        self._number.zero_()
        for _ in range(self.count):
            self._one()

    def forget(self, *, capture: bool) -> None:
        """Drop what was captured."""
        self._one.forget(capture=capture)

    def _step(self) -> None:
        index, operations, parameters = (
            None if table is None else table.index_select(0, self._number)[0]
            for table in (self._index, self._operations, self._parameters)
        )
        assert index is not None
        self._work.step(index, operations, parameters)
        self._number += 1


class Epochs:
    """`epochs` passes over all images in batches of `batch_size`, the last of each of what is left.

    Steps that may be captured are where there are enough of them.
    """

    def __init__(self, work: Work, batch_size: int, epochs: int, dsa: DsaSettings | None, *, capture: bool) -> None:
        full, left = divmod(len(work.pictures), batch_size)
        self._images = len(work.pictures)
        self._parts = [
            Steps(work, size, count, dsa, capture=capture and count * epochs >= STEPS_WORTH_A_CAPTURE)
            for size, count in ((batch_size, full), (left, 1))
            if size and count
        ]

    def run(self, generator: torch.Generator) -> None:
        """One epoch: a new order, and a draw for each batch; nothing waits for the device."""
        order = torch.randperm(self._images, generator=generator)
        first = 0
        for part in self._parts:
            end = first + part.size * part.count
            part.run(order[first:end], generator)
            first = end

    def forget(self, *, capture: bool) -> None:
        """The network is no longer computed as it was: capture the steps anew, or never again if they may not be."""
        for part in self._parts:
            part.forget(capture=capture)


def how_many_right(logits: Tensor, target: Tensor) -> Tensor:
    """How many rows of the logits have their largest entry where the target is."""
    wanted = target if target.ndim == 1 else target.argmax(1)
    return (logits.argmax(1) == wanted).sum()


def _fill(table: Tensor, values: Tensor) -> None:
    """Copy from the CPU without waiting for the table's device."""
    if table.device.type == "cuda":
        table.copy_(values.pin_memory(), non_blocking=True)
    else:
        table.copy_(values)
