"""Distillation: the outer loop that moves synthetic pixels so that a student trained on them follows the experts."""

from __future__ import annotations

import logging
import math
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor, nn

from pydistill.data import Dataset, DsaSettings
from pydistill.errors import DivergedError, InputError, MismatchError
from pydistill.kinds import check_fields, check_instance
from pydistill.matching import Backend, Batches, Distance, Gradient, Match, Selection, choose_backend, match_many
from pydistill.methods import Labels, Method, Trajectories, method_named
from pydistill.nn import flatten
from pydistill.nn.fused import Activations
from pydistill.synthetic import ImageAverage, Initialisation, SyntheticSet, initial_set
from pydistill.training import seeded_modules
from pydistill.trajectories import ExpertOrder, FractionRule, Smoothing, StartSampler, StartSettings, TrajectoryStore

_log = logging.getLogger("pydistill")


@dataclass(frozen=True)
class DistillSettings:
    """One distillation; what is null is as the method has it.

    Args:
        method: att, mct, mtt or tesla.
        ipc: images per class.
        iterations: outer iterations, each one update of the pixels.
        steps: N, student steps per iteration.
        expert_epochs: M, epochs of the expert from start to target; real for convexified experts.
        min_start: T⁻, first epoch that a student may start at.
        max_start: T⁺, end of the range of starts (whole starts are below it).
        growing: let the range's end grow from grow_from to max_start over grow_iterations.
        grow_from: the range's end at the first iteration.
        grow_iterations: iterations until it reaches max_start; null means half of all.
        continuous: draw starts from the real numbers (convexified experts only).
        trajectories: recorded or convexified.
        waypoints: w, or their epochs, when recorded experts are convexified on the way; null means 4.
        smoothing: how these waypoints are smoothed; null means as published (neighbours).
        fractions: how far along a segment each epoch is; null means by path length.
        selection: last or nearest, the student step that is compared with the target.
        distance: l1 or l2, the distance of `nearest`.
        gradient: exact or truncated.
        labels: hard, teacher or learned.
        lr_image: learning rate of the pixels.
        lr_lr: learning rate of the student's learning rate.
        lr_label: learning rate of learned label logits.
        lr_init: α₀, the student's learning rate at first.
        momentum: of the pixels', the labels' and the learning rate's SGD.
        batch_size: B, synthetic images per student step; null means all of them.
        experts_per_step: E, segments of experts per iteration, each matched on batches of its own; the update takes the
            mean of their gradients.
        initialisation: real (random training images) or noise.
        ema: decay of the image average, 0 for none; null: 0.999 if the method averages, else none.
        dsa: differentiable Siamese augmentation of the student's batches ({} for the published one), or null for none.
        evaluate_every: iterations between evaluations; 0 evaluates at the end only.
        checkpoint_every: iterations between checkpoints.
        max_rejections: how many iterations may be rejected (not finite, lr ≤ 0) before the run stops.
        backend: auto, fused, torch or autograd.
        activations: float32, or bfloat16 for the planes between the student's layers (backend fused alone);
            docs/fused.md says what that does to the gradient.
        seed: of everything random in the distillation.
    """

    method: str = "att"
    ipc: int = 1
    iterations: int = 1000
    steps: int = 30
    expert_epochs: float = 2.0
    min_start: float = 0.0
    max_start: float = 2.0
    growing: bool | None = None
    grow_from: float = 0.5
    grow_iterations: int | None = None
    continuous: bool | None = None
    trajectories: Trajectories | None = None
    waypoints: int | list[int] | None = None
    smoothing: Smoothing | None = None
    fractions: FractionRule | None = None
    selection: Selection | None = None
    distance: Distance = "l1"
    gradient: Gradient | None = None
    labels: Labels | None = None
    lr_image: float = 100.0
    lr_lr: float = 1e-7
    lr_label: float = 1.0
    lr_init: float = 0.01
    momentum: float = 0.5
    batch_size: int | None = None
    experts_per_step: int = 1
    initialisation: Initialisation = "real"
    ema: float | None = None
    dsa: DsaSettings | None = None
    evaluate_every: int = 0
    checkpoint_every: int = 100
    max_rejections: int = 10
    backend: Backend = "auto"
    activations: Activations = "float32"
    seed: int = 0

    def resolved_method(self) -> Method:
        """The named method with this run's own choices put in.

        Raises:
            InputError: no such method, or real starts on recorded experts.
        """
        chosen: dict[str, Any] = {
            "trajectories": self.trajectories,
            "continuous": self.continuous,
            "growing": self.growing,
            "selection": self.selection,
            "gradient": self.gradient,
            "labels": self.labels,
        }
        method = replace(
            method_named(self.method), **{name: value for name, value in chosen.items() if value is not None}
        )
        if method.continuous and method.trajectories == "recorded":
            raise InputError(
                "continuous starts need trajectories = convexified; recorded experts exist at whole epochs only"
            )
        return method

    def start_settings(self) -> StartSettings:
        """The range of starts."""
        method = self.resolved_method()
        grow_iterations = max(1, self.iterations // 2) if self.grow_iterations is None else self.grow_iterations
        return StartSettings(
            max_start=self.max_start,
            min_start=self.min_start,
            continuous=method.continuous,
            growing=method.growing,
            grow_from=self.grow_from,
            grow_iterations=grow_iterations,
        )

    def ema_decay(self) -> float:
        """Decay of the image average, 0 for none."""
        if self.ema is not None:
            return self.ema
        return 0.999 if self.resolved_method().ema else 0.0

    def check(self) -> None:
        """Refuse settings outside their limits, before anything is loaded; InputError names the setting."""
        check_fields(self)
        self.resolved_method()
        for name in ("ipc", "iterations", "steps", "checkpoint_every", "experts_per_step"):
            if getattr(self, name) < 1:
                raise InputError(f"{name} must be at least 1, not {getattr(self, name)}")
        for name in ("evaluate_every", "max_rejections"):
            if getattr(self, name) < 0:
                raise InputError(f"{name} must be at least 0, not {getattr(self, name)}")
        if self.activations == "bfloat16" and self.backend in ("torch", "autograd"):
            raise InputError(f"activations = bfloat16 needs backend fused (or auto), not {self.backend}")
        if not 0 <= self.seed < 2**63:
            raise InputError(f"seed must be at least 0 and below 2^63, not {self.seed}")
        for name in ("lr_image", "lr_lr", "lr_label"):
            if not (math.isfinite(getattr(self, name)) and getattr(self, name) >= 0):
                raise InputError(f"{name} must be a finite number of at least 0, not {getattr(self, name)}")
        for name in ("lr_init", "expert_epochs"):
            if not (math.isfinite(getattr(self, name)) and getattr(self, name) > 0):
                raise InputError(f"{name} must be a finite number above 0, not {getattr(self, name)}")
        for name in ("momentum", "ema"):
            value = getattr(self, name)
            if value is not None and not 0 <= value < 1:
                raise InputError(f"{name} must lie in [0, 1), not {value}")
        if self.batch_size is not None and self.batch_size < 1:
            raise InputError(f"batch_size must be at least 1 (or null for all images), not {self.batch_size}")


@dataclass(frozen=True)
class Segment:
    """A segment of an expert's trajectory, and the student's training that was compared with it.

    Attributes:
        expert: number of the expert in the store.
        start, target: epochs.
        loss: L of this segment.
        step: K, the chosen student step.
        distances: d(θ_k, θ*) for k = 0 … N.
    """

    expert: int
    start: float
    target: float
    loss: float
    step: int
    distances: tuple[float, ...]


@dataclass(frozen=True)
class IterationReport:
    """What one outer iteration did.

    Attributes:
        iteration: 1, 2, …
        segments: what was matched, `experts_per_step` of them.
        lr: the student's learning rate after the update.
        rejected: why the update was not applied, or None.
    """

    iteration: int
    segments: tuple[Segment, ...]
    lr: float
    rejected: str | None

    @property
    def loss(self) -> float:
        """L before the update, the mean over the segments."""
        return math.fsum(segment.loss for segment in self.segments) / len(self.segments)

    @property
    def expert(self) -> int:
        """The first segment's; with one expert per step, the only one's. Likewise below."""
        return self.segments[0].expert

    @property
    def start(self) -> float:
        """Epoch at which the student started."""
        return self.segments[0].start

    @property
    def target(self) -> float:
        """Epoch that the student was to reach."""
        return self.segments[0].target

    @property
    def step(self) -> int:
        """K, the chosen student step."""
        return self.segments[0].step

    @property
    def distances(self) -> tuple[float, ...]:
        """d(θ_k, θ*) for k = 0 … N."""
        return self.segments[0].distances

    @property
    def steps(self) -> list[int]:
        """K of every segment."""
        return [segment.step for segment in self.segments]

    def as_record(self) -> dict[str, Any]:
        """The metrics line of this iteration; what is not finite becomes null.

        With more than one expert per step, step, expert, start and target are lists.
        """

        def of_segments(name: str) -> Any:
            values = [getattr(segment, name) for segment in self.segments]
            return values[0] if len(values) == 1 else values

        record = {
            "event": "iteration",
            "iteration": self.iteration,
            "loss": self.loss if math.isfinite(self.loss) else None,
            "step": of_segments("step"),
            "lr": self.lr,
        }
        record |= {name: of_segments(name) for name in ("expert", "start", "target")}
        return record if self.rejected is None else record | {"rejected": self.rejected}


@dataclass(frozen=True)
class _Draw:
    """What chance decided for one segment: the expert, the epochs and with them the points, and the batches."""

    expert: int
    epochs: tuple[float, float]
    points: tuple[Tensor, Tensor]
    batches: Batches


class Distiller:
    """The state of one distillation and its outer iteration.

    An iteration draws an expert and a segment of its trajectory (or several), trains the student on the synthetic set
    from the segment's start, and takes one SGD step on pixels (and learning rate, and label logits) down the gradient
    of the matching loss. An update that would leave the finite numbers or make the learning rate ≤ 0 is not applied.

    Raises:
        InputError: settings outside their limits, or a segment that leaves the trajectories.
        MismatchError: the store's kind or parameter count does not fit the method or the student.
    """

    def __init__(
        self,
        settings: DistillSettings,
        dataset: Dataset,
        store: TrajectoryStore,
        student: nn.Module,
        *,
        teachers: Iterable[nn.Module] = (),
    ) -> None:
        check_instance("settings", settings, DistillSettings, "DistillSettings")
        check_instance("dataset", dataset, Dataset, "a Dataset; pydistill.data.from_tensors makes one of arrays")
        check_instance("store", store, TrajectoryStore, "a TrajectoryStore; TrajectoryStore.open(path) opens one")
        check_instance("student", student, nn.Module, "a torch.nn.Module")
        settings.check()
        self.settings = settings
        self.method = settings.resolved_method()
        if store.kind != self.method.trajectories:
            raise MismatchError(
                f"method {settings.method} uses {self.method.trajectories} trajectories "
                f"and the store holds {store.kind} ones; give the others, or set distill.trajectories"
            )
        self.store = store
        self.student = student
        self.sampler = StartSampler(settings.start_settings())
        self.sampler.check(store, settings.expert_epochs)
        _check_student(student, store)
        self.generator = torch.Generator().manual_seed(settings.seed)
        self.order = ExpertOrder(len(store))
        self.iteration = 0
        self.rejections = 0
        self.synthetic: SyntheticSet = initial_set(
            dataset,
            ipc=settings.ipc,
            initialisation=settings.initialisation,
            labels=self.method.labels,
            lr=settings.lr_init,
            teachers=teachers,
            generator=self.generator,
        )
        self.initial_images = self.synthetic.images.detach().clone()
        decay = settings.ema_decay()
        self.average = ImageAverage(self.synthetic.images, decay) if decay > 0 else None
        self.velocities = {name: torch.zeros_like(leaf) for name, leaf in self.synthetic.learned().items()}

    @property
    def images(self) -> Tensor:
        """The images to evaluate and save: the average if there is one, else the pixels themselves."""
        return self.synthetic.images.detach().clone() if self.average is None else self.average.average.clone()

    @property
    def lr(self) -> float:
        """α now."""
        return float(self.synthetic.lr.detach())

    def iterate(self) -> IterationReport:
        """One outer iteration.

        Raises:
            DivergedError: more updates were rejected than `max_rejections` allows.
        """
        draws = [self._draw() for _ in range(self.settings.experts_per_step)]
        leaves = self.synthetic.learned()
        total: dict[str, Tensor] = {}
        segments = []
        for group, outcomes in self._matches(draws):
            for draw, outcome in zip(group, outcomes, strict=True):
                distances = tuple(outcome.distances.tolist())
                loss = float(outcome.loss.detach())
                segments.append(Segment(draw.expert, *draw.epochs, loss, outcome.step, distances))
            if all(math.isfinite(segment.loss) for segment in segments):
                found = torch.autograd.grad([each.loss for each in outcomes], list(leaves.values()))
                for name, gradient in zip(leaves, found, strict=True):
                    total[name] = total[name] + gradient if name in total else gradient
            del outcomes, outcome  # the next group is made when this one's memory is free
        if all(math.isfinite(segment.loss) for segment in segments):
            rejected = self._update(leaves, {name: gradient / len(segments) for name, gradient in total.items()})
        else:
            rejected = "the matching loss is not finite"
        self.iteration += 1
        if rejected is None:
            if self.average is not None:
                self.average.update(self.synthetic.images)
        else:
            self._reject(rejected)
        return IterationReport(self.iteration, tuple(segments), self.lr, rejected)

    def _draw(self) -> _Draw:
        """Draw an expert, a segment of its trajectory, and the batches that the student trains on."""
        settings, images = self.settings, self.synthetic.images
        expert = self.order.next(self.generator)
        trajectory = self.store[expert]
        start, target = self.sampler.draw(self.iteration, self.generator, trajectory.end, settings.expert_epochs)
        batches = Batches.draw(
            images,
            self.synthetic.labels,
            steps=settings.steps,
            batch_size=settings.batch_size or images.shape[0],
            generator=self.generator,
            dsa=settings.dsa,
        )
        points = (trajectory.point(start).to(images), trajectory.point(target).to(images))
        return _Draw(expert, (start, target), points, batches)

    def _matches(self, draws: Sequence[_Draw]) -> Iterator[tuple[Sequence[_Draw], list[Match]]]:
        """The draws in groups, each with its matches, which are made when they are asked for.

        On a GPU the fused backend matches all side by side; elsewhere one's memory is enough for any number.
        """
        images = self.synthetic.images
        together = len(draws) > 1 and images.device.type == "cuda"
        together = together and choose_backend(self.settings.backend, self.student, images)[0] == "fused"
        size = len(draws) if together else 1
        for first in range(0, len(draws), size):
            group = draws[first : first + size]
            yield group, self._match(group, first)

    def _match(self, draws: Sequence[_Draw], first: int) -> list[Match]:
        """The matches of draws `first`, … of this iteration."""
        settings = self.settings
        parts = (settings.seed, self.iteration, *((first,) if first else ()))
        with seeded_modules(self.synthetic.images.device, "distillation", *parts):
            return match_many(
                self.student,
                [draw.points[0] for draw in draws],
                [draw.points[1] for draw in draws],
                [draw.batches for draw in draws],
                self.synthetic.lr,
                selection=self.method.selection,
                distance=settings.distance,
                gradient=self.method.gradient,
                label_logits=self.synthetic.kind == "learned",
                backend=settings.backend,
                activations=settings.activations,
            )

    @torch.no_grad()
    def _update(self, leaves: dict[str, Tensor], gradients: dict[str, Tensor]) -> str | None:
        """SGD with momentum, v ← μ v + g, x ← x − η v; returns why it was not applied, or None."""
        rates = {
            "images": self.settings.lr_image,
            "lr": self.settings.lr_lr,
            "label_logits": self.settings.lr_label,
        }
        velocities, values = {}, {}
        for name, leaf in leaves.items():
            velocities[name] = self.settings.momentum * self.velocities[name] + gradients[name]
            values[name] = leaf - rates[name] * velocities[name]
            if not bool(torch.isfinite(values[name]).all()):
                return f"the gradient of the {name} is not finite"
        if float(values["lr"]) <= 0:
            return f"the student's learning rate would become {float(values['lr']):.3g}"
        self.velocities = velocities
        for name, leaf in leaves.items():
            leaf.copy_(values[name])
        return None

    def _reject(self, reason: str) -> None:
        self.rejections += 1
        knob = "lr_lr" if "learning rate" in reason else "lr_image (or lr_init)"
        _log.warning(
            "iteration %d: %s; the update was not applied (%d of at most %d); lower %s if this goes on",
            *(self.iteration, reason, self.rejections, self.settings.max_rejections, knob),
        )
        if self.rejections > self.settings.max_rejections:
            raise DivergedError(
                f"{self.rejections} updates had to be rejected, the last because {reason}; lower {knob} and run again "
                f"(the limit is max_rejections = {self.settings.max_rejections})"
            )

    def state(self) -> tuple[dict[str, Any], dict[str, Tensor]]:
        """Everything that the next iteration depends on: JSON-able values and tensors."""
        tensors = {name: leaf.detach().clone() for name, leaf in self.synthetic.learned().items()}
        tensors |= {f"velocity.{name}": value for name, value in self.velocities.items()}
        tensors |= {"generator": self.generator.get_state(), "initial_images": self.initial_images}
        tensors["classes"] = self.synthetic.classes
        if self.synthetic.kind == "teacher" and self.synthetic.label_rows is not None:
            tensors["label_probabilities"] = self.synthetic.label_rows
        values: dict[str, Any] = {
            "iteration": self.iteration,
            "rejections": self.rejections,
            "order": self.order.state(),
        }
        if self.average is not None:
            tensors["average"] = self.average.average
            values["average_updates"] = self.average.updates
        return values, tensors

    @torch.no_grad()
    def load_state(self, values: dict[str, Any], tensors: dict[str, Tensor]) -> None:
        """Continue from what `state` returned, bit for bit.

        Raises:
            MismatchError: the state is of a set of another shape.
        """
        for name, leaf in self.synthetic.learned().items():
            if tensors[name].shape != leaf.shape:
                raise MismatchError(
                    f"the checkpoint's {name} have shape {list(tensors[name].shape)}, this run's {list(leaf.shape)}"
                )
            leaf.copy_(tensors[name])
            self.velocities[name] = tensors[f"velocity.{name}"].to(leaf)
        self.generator.set_state(tensors["generator"])
        self.initial_images = tensors["initial_images"].to(self.synthetic.images)
        self.synthetic.classes = tensors["classes"].to(self.synthetic.classes)
        if self.synthetic.kind == "teacher":
            self.synthetic.label_rows = tensors["label_probabilities"].to(self.synthetic.images)
        if self.average is not None:
            self.average.average = tensors["average"].to(self.synthetic.images)
            self.average.updates = int(values["average_updates"])
        self.iteration, self.rejections = int(values["iteration"]), int(values["rejections"])
        self.order.load_state(values["order"])


def _check_student(student: nn.Module, store: TrajectoryStore) -> None:
    found, expected = flatten(student).numel(), sum(store.record.sizes)
    if found != expected:
        raise MismatchError(
            f"the student has {found} parameters and the experts ({store.record.architecture}) have {expected}"
        )
