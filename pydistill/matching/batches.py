"""The batches of the student's steps: explicit pairs, or a recipe that makes batch k when it is needed."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from pydistill._util.checks import check_generator, check_instance, check_integer, check_tensor
from pydistill.data.dsa import DsaDraw, DsaSettings, augment, draw_tables
from pydistill.errors import InputError, shown


class DrawTable(tuple[DsaDraw, ...]):
    """The augmentation draws of N steps as views of two tables, each copied to the device in one go.

    Attributes:
        operations: [N, L] int64, parameters: [N, rows, width] float32, as `pydistill.data.dsa.draw_tables` makes them.
    """

    operations: Tensor
    parameters: Tensor

    @classmethod
    def of(cls, draws: Sequence[DsaDraw], device: torch.device) -> DrawTable:
        """Copy draws on the CPU to `device`."""
        operations, parameters = (_to_device(table, device) for table in draw_tables(draws, "cpu", torch.float32))
        table = cls(
            replace(draw, parameters=row[: draw.parameters.shape[0], : draw.parameters.shape[1]])
            for draw, row in zip(draws, parameters.unbind(), strict=True)
        )
        table.operations, table.parameters = operations, parameters
        return table


def _to_device(value: Tensor, device: torch.device) -> Tensor:
    """Copy a tensor from the CPU without waiting for the copy."""
    return value.pin_memory().to(device, non_blocking=True) if device.type == "cuda" else value.to(device)


@dataclass(frozen=True)
class Batches:
    """A recipe for N batches: row k of `index` lists the synthetic images of step k, `draws[k]` is their augmentation.

        X_k = augment(images[index[k]], draws[k]),    Y_k = labels[index[k]]

    No tensor [N, B, C, H, W] is ever made: a batch exists while its step runs, and gradients are accumulated directly
    in the images.

    Args:
        images: [n, C, H, W], floating.
        labels: class numbers [n] (int64), or rows [n, K] (floating).
        index: [N, B] int64, values in [0, n).
        draws: N augmentation draws, or None for no augmentation.
    """

    images: Tensor
    labels: Tensor
    index: Tensor
    draws: Sequence[DsaDraw] | None = None

    def __post_init__(self) -> None:
        check_tensor("images", self.images, "a tensor [n, C, H, W]")
        check_tensor("labels", self.labels, "a tensor [n] or [n, K]")
        check_tensor("index", self.index, "an int64 table [N, B]")
        if self.index.dtype != torch.int64 or self.index.ndim != 2:
            raise InputError(
                f"index must be an int64 table [N, B], not {self.index.dtype} of shape {list(self.index.shape)}"
            )
        if self.index.shape[0] and not self.index.shape[1]:
            raise InputError(f"index must name at least one image for each step, not shape {list(self.index.shape)}")
        count = self.images.shape[0] if self.images.ndim else 0
        if self.labels.ndim == 0 or self.labels.shape[0] != count:
            raise InputError(f"images and labels must agree in number: {count} and {list(self.labels.shape)}")
        if self.index.device.type == "cpu" and self.index.numel():
            low, high = int(self.index.min()), int(self.index.max())
            if low < 0 or high >= count:
                raise InputError(f"index must lie in [0, {count - 1}] for {count} images, not in [{low}, {high}]")
        if self.index.device != self.images.device:
            raise InputError(f"index is on {self.index.device} and images are on {self.images.device}; move one")
        if self.draws is not None and (
            not isinstance(self.draws, Sequence) or not all(isinstance(draw, DsaDraw) for draw in self.draws)
        ):
            raise InputError(
                f"draws must be DsaDraws, one for each step, as DsaSettings.draw makes them, not {shown(self.draws)}"
            )
        if self.draws is not None and len(self.draws) != self.index.shape[0]:
            raise InputError(f"draws must hold one draw for each of {self.index.shape[0]} steps, not {len(self.draws)}")

    def __len__(self) -> int:
        return int(self.index.shape[0])

    def __getitem__(self, step: int) -> tuple[Tensor, Tensor]:
        """Make (X_k, Y_k) of step k, differentiable in images and labels."""
        rows = self.index[step]
        images = self.images.index_select(0, rows)
        if self.draws is not None:
            images = augment(images, self.draws[step])
        return images, self.labels.index_select(0, rows)

    @classmethod
    def draw(
        cls,
        images: Tensor,
        labels: Tensor,
        *,
        steps: int,
        batch_size: int,
        generator: torch.Generator,
        dsa: DsaSettings | None = None,
    ) -> Batches:
        """Draw a recipe: shuffled passes over all images, cut into `steps` batches; augmentation from `dsa`.

        A batch that reaches the end of a pass continues with the next one, so the numbers of times that two images are
        used differ by at most one.

        Args:
            steps: N ≥ 1.
            batch_size: B ≥ 1; more than there are images means all of them.
            generator: a CPU generator, the only source of randomness.

        Raises:
            InputError: an argument has the wrong type or is outside its limits.
        """
        check_tensor("images", images, "a tensor [n, C, H, W]")
        check_integer("steps", steps, 1)
        check_integer("batch_size", batch_size, 1)
        check_generator(generator)
        if dsa is not None:
            check_instance("dsa", dsa, DsaSettings, "a DsaSettings, or None for no augmentation")
            if images.ndim != 4:
                raise InputError(f"images must be [n, C, H, W] to be augmented, not {list(images.shape)}")
        count = images.shape[0] if images.ndim else 0
        if count < 1:
            raise InputError("there are no synthetic images to draw batches from")
        size = min(batch_size, count)
        passes = -(-steps * size // count)
        order = torch.cat([torch.randperm(count, generator=generator) for _ in range(passes)])
        index = _to_device(order[: steps * size].view(steps, size), images.device)
        draws = None
        if dsa is not None:
            height, width = images.shape[-2:]
            draws = DrawTable.of([dsa.draw(size, height, width, generator) for _ in range(steps)], images.device)
        return cls(images, labels, index, draws)


@dataclass(frozen=True)
class StepSource:
    """The batch of one step: numbers of its source tensors in the plan, the rows taken from them, the augmentation."""

    images: int
    labels: int
    index: Tensor | None
    draw: DsaDraw | None


@dataclass(frozen=True)
class BatchPlan:
    """Both kinds of batches in one form: the distinct source tensors, and how each step's batch is taken from them.

    Gradients flow to `sources`; a tensor used by several steps is one source. `index` [N, B] and `draws` are those of
    a recipe, and None for pairs.
    """

    sources: tuple[Tensor, ...]
    steps: tuple[StepSource, ...]
    index: Tensor | None = None
    draws: Sequence[DsaDraw] | None = None

    def __len__(self) -> int:
        return len(self.steps)

    def batch_size(self, step: int) -> int:
        """B of step k."""
        at = self.steps[step]
        return len(self.sources[at.images]) if at.index is None else len(at.index)

    def rows(self, sources: Sequence[Tensor], step: int) -> tuple[Tensor, Tensor]:
        """Take the images (before augmentation) and labels of step k from `sources`; differentiable."""
        at = self.steps[step]
        images, labels = sources[at.images], sources[at.labels]
        if at.index is not None:
            images, labels = images.index_select(0, at.index), labels.index_select(0, at.index)
        return images, labels

    def augmented(self, images: Tensor, step: int) -> Tensor:
        """Augment the images of step k."""
        draw = self.steps[step].draw
        return images if draw is None else augment(images, draw)

    def add(self, gradients: list[Tensor | None], source: int, step: int, gradient: Tensor) -> None:
        """Add the gradient of step k's rows to the gradient of their source."""
        index = self.steps[step].index
        total = gradients[source]
        if index is not None:
            if total is None:
                total = gradients[source] = torch.zeros_like(self.sources[source])
            total.index_add_(0, index, gradient)
        elif total is None:
            gradients[source] = gradient
        else:
            gradients[source] = total + gradient


def plan_of(batches: Batches | Sequence[tuple[Tensor, Tensor]], label_logits: bool) -> BatchPlan:
    """Turn `match`'s batches into a plan; with `label_logits`, floating labels pass through their softmax first."""
    if isinstance(batches, Batches):
        if label_logits:
            batches = replace(batches, labels=_softmax(batches.labels))
        draws: Sequence[DsaDraw | None] = batches.draws if batches.draws is not None else [None] * len(batches)
        rows = batches.index.unbind()
        steps = [StepSource(0, 1, row, draw) for row, draw in zip(rows, draws, strict=True)]
        return BatchPlan((batches.images, batches.labels), tuple(steps), batches.index, batches.draws)

    sources: list[Tensor] = []
    # The values hold the tensors too: an id is unique only while its tensor exists.
    places: dict[tuple[int, bool], tuple[int, Tensor]] = {}

    def place(tensor: Tensor, is_label: bool) -> int:
        key = (id(tensor), is_label)
        if key not in places:
            places[key] = len(sources), tensor
            sources.append(_softmax(tensor) if is_label and label_logits else tensor)
        return places[key][0]

    if isinstance(batches, Tensor) or not isinstance(batches, Iterable):
        raise InputError(
            f"batches must be pairs (images, labels), one for each step, or a Batches recipe, not {shown(batches)}"
        )
    steps = []
    for number, pair in enumerate(batches):
        if not isinstance(pair, (tuple, list)) or len(pair) != 2:
            raise InputError(f"batches[{number}] must be a pair (images, labels), not {type(pair).__name__}")
        check_tensor(f"images of step {number}", pair[0], "a tensor [B, …]")
        check_tensor(f"labels of step {number}", pair[1], "a tensor [B] or [B, K]")
        steps.append(StepSource(place(pair[0], False), place(pair[1], True), None, None))
    return BatchPlan(tuple(sources), tuple(steps))


def _softmax(labels: Tensor) -> Tensor:
    if not labels.is_floating_point():
        raise InputError(f"label_logits needs floating-point label rows [B, K], not labels of {labels.dtype}")
    return labels.softmax(dim=-1)
