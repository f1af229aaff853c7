"""Programs of the C++ engine (`csrc/engine/program.h`): the memory that a student's training reads and writes by a step
counter, and the two bodies of work over it, one step forward and one step of the way back.

A program is made once for every training of one shape and filled for each; the last few are kept. On a GPU its bodies
are recorded as CUDA graphs and replayed, unless PYDISTILL_CUDA_GRAPHS=0.
"""

from __future__ import annotations

import logging
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from pydistill.data.dsa import DsaDraw, draw_tables
from pydistill.engine.cuda_graph import SWITCH, cuda_graphs_enabled
from pydistill.engine.student import architecture_of, being_recorded, fused_student, kept_programs, where
from pydistill.matching.batches import BatchPlan, DrawTable
from pydistill.reference.augment import COLUMNS

if TYPE_CHECKING:
    from pydistill import _C

STEPS_A_CALL = 4
"""On the CPU, so that Ctrl-C is heard."""

PRODUCT, IMAGES, LABELS, LR = 1, 2, 4, 8
"""The tensors to which a backward step adds, as in csrc/engine/program.h."""

_log = logging.getLogger("pydistill")
_told: set[tuple[str, str]] = set()


@dataclass(frozen=True)
class BatchShape:
    """The shape that the batches of some steps share.

    Attributes:
        size: B.
        labels: shape of the table that their labels are rows of: [n] for class numbers, [n, K] for label rows.
        augmentation: (L, rows, width) of the tables of operations [N, L] and parameters [N, rows, width]; or None.
    """

    size: int
    labels: tuple[int, ...]
    augmentation: tuple[int, int, int] | None


@dataclass(frozen=True)
class ProgramShape:
    """The shape of a program's tables.

    Attributes:
        images: [n, C, H, W], all that the steps make their batches of.
        batches: the kinds of batches.
        batches_of_step: for each of the N steps, which of them.
        weighted: whether the distances have weights.
    """

    images: tuple[int, ...]
    batches: tuple[BatchShape, ...]
    batches_of_step: tuple[int, ...]
    weighted: bool

    @property
    def largest_images(self) -> tuple[int, ...]:
        """[B, C, H, W] of the largest batch."""
        return max(batch.size for batch in self.batches), *self.images[1:]


@dataclass(frozen=True)
class StepTables:
    """Where the steps of one kind find their batches: rows of the tables of images and labels, both [N, B] int64, and
    how they are augmented."""

    image_index: Tensor
    label_index: Tensor
    operations: Tensor | None
    parameters: Tensor | None


class Arrangement:
    """The rows of a program's tables that hold the sources and steps of a plan.

    Sources lie one behind the other: the images in one table, class numbers in another, label rows in a third.

    Raises:
        InputError: a draw does not fit the images.
    """

    def __init__(self, plan: BatchPlan, *, weighted: bool = False) -> None:
        self.plan = plan
        self.rows: dict[int, tuple[int, int]] = {}
        tables: dict[str, tuple[int, ...]] = {}
        of_step: list[tuple[int, str]] = []
        for step, at in enumerate(plan.steps):
            kind = "hard" if plan.sources[at.labels].ndim == 1 else "soft"
            for source, table in ((at.images, "images"), (at.labels, kind)):
                if source not in self.rows:
                    count, *tail = plan.sources[source].shape
                    first = tables[table][0] if table in tables else 0
                    self.rows[source] = first, first + count
                    tables[table] = (first + count, *tail)
            of_step.append((plan.batch_size(step), kind))
        kinds = list(dict.fromkeys(of_step))
        images = plan.sources[plan.steps[0].images]
        augmentation = _augmentation(plan.draws or (), of_step[0][0], images)
        self.tables = [self._tables(of_step, kind, augmentation) for kind in kinds]
        self.label_sources = {at.labels for at in plan.steps}
        shape = None if augmentation is None else _augmentation_shape(*augmentation)
        self.shape = ProgramShape(
            tables["images"],
            tuple(BatchShape(size, tables[kind], shape) for size, kind in kinds),
            tuple(kinds.index(kind) for kind in of_step),
            weighted,
        )

    def _tables(
        self, of_step: list[tuple[int, str]], kind: tuple[int, str], augmentation: tuple[Tensor, Tensor] | None
    ) -> StepTables:
        plan = self.plan
        operations, parameters = augmentation or (None, None)
        if plan.index is not None:
            return StepTables(plan.index, plan.index, operations, parameters)
        numbers = torch.arange(max(last for _, last in self.rows.values()), device=plan.sources[0].device)

        def index(sources: list[int]) -> Tensor:
            """Return [N, B], the rows of each step's source; of steps of another kind, any."""
            firsts = [self.rows[source][0] if of == kind else 0 for source, of in zip(sources, of_step, strict=True)]
            return torch.stack([numbers.narrow(0, first, kind[0]) for first in firsts])

        of_images, of_labels = (index([getattr(at, which) for at in plan.steps]) for which in ("images", "labels"))
        return StepTables(of_images, of_labels, operations, parameters)


def _augmentation(draws: Sequence[DsaDraw], batch: int, images: Tensor) -> tuple[Tensor, Tensor] | None:
    """Return the tables of the steps' augmentation, operations [N, L] and parameters [N, rows, width], or None."""
    for draw in draws:
        draw.check_fits((batch, *images.shape[1:]), images.device)
    if not any(draw.operations for draw in draws):
        return None
    if isinstance(draws, DrawTable):
        return draws.operations, draws.parameters
    return draw_tables(draws, images.device, images.dtype)


def _augmentation_shape(operations: Tensor, parameters: Tensor) -> tuple[int, int, int]:
    """(L, rows, width); each operation has as many columns as the widest, so that draws of other ones fit as well."""
    length, (_, rows, width) = operations.shape[1], parameters.shape
    return length, rows, max(length * max(COLUMNS.values()), width)


class Program:
    """The tables of a program and the two sweeps over them. Its values are those of the last `fill`.

    Attributes:
        step: the counter k, int64 [].
        target, adjoint: [P]; lr, lr_gradient: [N].
        weights: w, [P]; None for w = 1.
        sums: (Σ w|θ_k − θ*|, Σ w(θ_k − θ*)²), float64 [N + 1, 2].
        images, image_gradients: [n, C, H, W].
        labels, label_gradients: by their number of dimensions, [n] or [n, K]; class numbers have no gradients.
        batches: the tables of each kind of batch.
        engine: the C++ program over these tables.
    """

    def __init__(self, student: _C.Student, like: Tensor, shape: ProgramShape, graphs: bool) -> None:
        from pydistill import _C

        with torch.inference_mode(False):  # ordinary tensors, which can be written to in and out of that mode
            steps, device = len(shape.batches_of_step), like.device
            integers: dict[str, Any] = {"dtype": torch.int64, "device": device}
            self.step = torch.zeros((), **integers)
            self.target, self.adjoint = (like.new_zeros(student.parameters()) for _ in range(2))
            self.weights = torch.zeros_like(self.target) if shape.weighted else None
            self.lr, self.lr_gradient = (like.new_zeros(steps) for _ in range(2))
            self.sums = like.new_zeros(steps + 1, 2, dtype=torch.float64)
            self.images, self.image_gradients = (like.new_zeros(shape.images) for _ in range(2))
            self.labels: dict[int, Tensor] = {}
            self.label_gradients: dict[int, Tensor] = {}
            self.batches: list[_C.BatchTables] = []
            for kind in shape.batches:
                dims = len(kind.labels)
                if dims == 1 and dims not in self.labels:
                    self.labels[dims] = torch.zeros(kind.labels, **integers)
                elif dims not in self.labels:
                    self.labels[dims], self.label_gradients[dims] = (like.new_zeros(kind.labels) for _ in range(2))
                operations = parameters = None
                if kind.augmentation is not None:
                    length, rows, width = kind.augmentation
                    operations = torch.full((steps, length), -1, **integers)
                    parameters = like.new_zeros(steps, rows, width)
                self.batches.append(
                    _C.BatchTables(
                        image_index=torch.zeros(steps, kind.size, **integers),
                        label_index=torch.zeros(steps, kind.size, **integers),
                        labels=self.labels[dims],
                        label_gradients=self.label_gradients.get(dims),
                        operations=operations,
                        parameters=parameters,
                    )
                )
            self.engine = _C.Program(
                student,
                step=self.step,
                target=self.target,
                lr=self.lr,
                sums=self.sums,
                images=self.images,
                image_gradients=self.image_gradients,
                adjoint=self.adjoint,
                lr_gradient=self.lr_gradient,
                batches=self.batches,
                batches_of_step=list(shape.batches_of_step),
                graphs=graphs,
                weights=self.weights,
            )
            self._switched_off = "" if graphs or device.type == "cpu" else f"{SWITCH}=0"

    def fill(self, arrangement: Arrangement, sources: Sequence[Tensor], lr: Tensor, points: Tensor) -> None:
        """Write what both sweeps read: θ_0, θ_1, … [n, P], α [] or [N], and the plan's values.

        `points` is used in place: the caller keeps it alive until the sweep has ended.
        """
        self.engine.set_points(points)
        self.lr.copy_(lr)
        for source, (first, last) in arrangement.rows.items():
            value = sources[source]
            table = self.labels[value.ndim] if source in arrangement.label_sources else self.images
            table[first:last].copy_(value)
        for tables, values in zip(self.batches, arrangement.tables, strict=True):
            tables.image_index.copy_(values.image_index)
            tables.label_index.copy_(values.label_index)
            if values.operations is not None and values.parameters is not None:
                assert tables.operations is not None
                assert tables.parameters is not None
                tables.operations.copy_(values.operations)
                tables.parameters[:, :, : values.parameters.shape[2]].copy_(values.parameters)

    def clear_gradients(self) -> None:
        """Start new sums of gradients."""
        for gradient in (self.image_gradients, self.lr_gradient, *self.label_gradients.values()):
            gradient.zero_()

    def gradient_of(self, arrangement: Arrangement, source: int) -> Tensor:
        """Return ∂L of the rows of a source: this program's memory, until it is filled again."""
        first, last = arrangement.rows[source]
        is_label = source in arrangement.label_sources
        table = self.label_gradients[arrangement.plan.sources[source].ndim] if is_label else self.image_gradients
        return table[first:last]

    def train(self, steps: int) -> None:
        """Run steps 0 … N − 1 from θ_0; write θ_1 … θ_N and their sums."""
        size = self._steps_a_call(steps)
        for first in range(0, steps, size):
            self.engine.train(first, min(first + size, steps))

    def go_back(self, needed: Sequence[int]) -> None:
        """Run the steps of `needed` backwards: move the adjoint and add to the gradients."""
        size = self._steps_a_call(len(needed))
        for last in range(len(needed), 0, -size):
            first = max(0, last - size)
            self.engine.go_back(last, first, list(needed[first:last]))

    def _steps_a_call(self, steps: int) -> int:
        return STEPS_A_CALL if self.step.device.type == "cpu" else max(1, steps)

    def tell_obstacle(self) -> None:
        """Say once if the steps are not recorded as CUDA graphs, and why."""
        obstacle, device = self._switched_off or self.engine.obstacle(), str(self.step.device)
        if obstacle and (device, obstacle) not in _told:
            _told.add((device, obstacle))
            _log.warning("student steps on %s run kernel by kernel, not as CUDA graphs: %s", device, obstacle)


def key_of(model: nn.Module, like: Tensor, shape: ProgramShape) -> tuple[Any, ...]:
    """Return all that a program depends on but the values in its tables."""
    architecture = architecture_of(model, shape.largest_images)
    return architecture, *where(like), shape, cuda_graphs_enabled(), _library_settings(like.device)


def acquire_program(model: nn.Module, like: Tensor, shape: ProgramShape) -> Program:
    """Return a program for this network, in the dtype and on the device and stream of `like`: a cached or a new one.

    It is the caller's until `release_program`.

    Raises:
        InputError: the network does not take such images.
    """
    cached: Program | None = None if being_recorded(like) else kept_programs.take(key_of(model, like, shape))
    if cached is not None:
        return cached
    return Program(fused_student(model, shape.largest_images, like), like, shape, cuda_graphs_enabled())


def release_program(model: nn.Module, like: Tensor, shape: ProgramShape, program: Program) -> None:
    """Keep the program for the next training of its shape."""
    program.tell_obstacle()
    if not being_recorded(like):
        kept_programs.keep(key_of(model, like, shape), program)


def _library_settings(device: torch.device) -> tuple[Any, ...]:
    """Return the PyTorch switches that affect an operation; a graph uses their values at recording."""
    if device.type != "cuda":
        return ()
    cudnn = torch.backends.cudnn
    return (
        (cudnn.enabled, cudnn.benchmark, cudnn.deterministic, torch.are_deterministic_algorithms_enabled()),
        (cudnn.conv.fp32_precision, torch.backends.cuda.matmul.fp32_precision),  # type: ignore[attr-defined]
        torch.backends.cuda.matmul.allow_bf16_reduced_precision_reduction,
    )
