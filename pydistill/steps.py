"""The training steps of an epoch: one body of work that finds its batch by a counter in device memory.

Everything that differs from step to step (images, augmentation, learning rate) lies in tables on the device, and the
body allocates nothing that outlives it; so a GPU replays it as a CUDA graph, and no step waits for Python.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from pydistill.data.dsa import DsaDraw, DsaSettings, augment
from pydistill.data.pictures import Pictures
from pydistill.graphs import Replayed
from pydistill.passes import Passes


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

    def step(self, index: Tensor, draw: DsaDraw | None) -> None:
        """One step of SGD on the images at `index` [B]."""
        batch, target = self.pictures.batch(index), self.labels.index_select(0, index)
        if draw is not None:
            batch = augment(batch, draw)
        loss, logits = self.passes.gradient(batch, target)
        self.optimiser.step()
        self.loss += loss * len(index)
        if self.right is not None:
            self.right += how_many_right(logits, target)


class Steps:
    """The `count` steps of an epoch on batches of `size` images each."""

    def __init__(self, work: Work, size: int, count: int, *, capture: bool) -> None:
        device = work.labels.device
        self.size, self.count = size, count
        self._work = work
        self._index = torch.empty(count, size, dtype=torch.int64, device=device)
        self._number = torch.zeros(1, dtype=torch.int64, device=device)
        self._one = Replayed(self._step, device, capture=capture)
        self._draws: Sequence[DsaDraw] | None = None
        self._at = 0

    def run(self, order: Tensor, draws: Sequence[DsaDraw] | None) -> None:
        """All steps, on the images in this order [count · size], augmented by these draws."""
        _fill(self._index, order.view_as(self._index))
        self._draws, self._at = draws, 0
        self._number.zero_()
        for _ in range(self.count):
            self._one()

    def forget(self) -> None:
        """Drop what was captured."""
        self._one.forget()

    def _step(self) -> None:
        index = self._index.index_select(0, self._number)[0]
        self._work.step(index, None if self._draws is None else self._draws[self._at].to(index.device))
        self._number += 1
        self._at += 1


class Epochs:
    """Epochs over all images in batches of `batch_size`, the last of each epoch of what is left."""

    def __init__(self, work: Work, batch_size: int, dsa: DsaSettings | None, *, capture: bool) -> None:
        self._work, self._dsa = work, dsa
        full, left = divmod(len(work.pictures), batch_size)
        sizes = [(batch_size, full), (left, 1)]
        self._parts = [Steps(work, size, count, capture=capture) for size, count in sizes if size and count]

    def run(self, generator: torch.Generator) -> None:
        """One epoch: a new order, and a draw for each batch; nothing waits for the device."""
        count, _, height, width = self._work.pictures.shape
        order = torch.randperm(count, generator=generator)
        first = 0
        for part in self._parts:
            end = first + part.size * part.count
            draws = None
            if self._dsa is not None:
                draws = [self._dsa.draw(part.size, height, width, generator) for _ in range(part.count)]
            part.run(order[first:end], draws)
            first = end

    def forget(self) -> None:
        """Drop what was captured: the network is no longer computed as it was."""
        for part in self._parts:
            part.forget()


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
