"""The outer loop: update synthetic pixels so that a student trained on them follows the experts."""

from __future__ import annotations

import math
import time
from collections.abc import Iterator, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from pydistill._util.checks import check_instance
from pydistill._util.format import first_line
from pydistill._util.settings import in_group
from pydistill.data import Dataset
from pydistill.distillation.guard import Guard, GuardEvent, Refusal, data_scale
from pydistill.distillation.records import IterationReport, Segment
from pydistill.distillation.segments import SegmentDraw, SegmentSampler
from pydistill.distillation.settings import DistillSettings
from pydistill.distillation.snapshot import Snapshot, copied, loaded
from pydistill.distillation.weighting import ParameterMask
from pydistill.errors import DivergedError, FormatError, MismatchError, Name, SettingError
from pydistill.matching import Match, choose_backend, match_many
from pydistill.nn import flatten
from pydistill.synthesis.averaging import CodeAverage
from pydistill.synthesis.decoders import Encoded, described, make_decoder
from pydistill.synthesis.initialisation import StartingSet
from pydistill.synthesis.overlap import Redraw, put_real_images, redraws
from pydistill.synthesis.set import MatchedSet, initial_set, moving_images
from pydistill.training.train import seeded_modules
from pydistill.trajectories import TrajectoryStore

__all__ = ["DistillSettings", "Distiller", "IterationReport", "Segment"]


class Distiller:
    """The state of one distillation and its outer iteration.

    An iteration draws an expert and a segment of its trajectory (or several), trains the student on the synthetic set
    from the segment's start, and takes one step on pixels or codes (and learning rate, and label logits) along the
    gradient of the matching loss. An update that would make a value non-finite, the learning rate ≤ 0 or pixels too
    large is rejected: the set and its moments return to the last good state, a copy in memory. The random number
    generator is not reset, so the next iteration draws another segment.

    Raises:
        InputError: settings outside their limits, a segment that leaves the trajectories, or no experts in `teachers`
            for settings that need them.
        MismatchError: the store's kind or parameter count does not fit the method or the student.
    """

    def __init__(
        self,
        settings: DistillSettings,
        dataset: Dataset,
        store: TrajectoryStore,
        student: nn.Module,
        *,
        teachers: Sequence[nn.Module] = (),
        start: StartingSet | None = None,
    ) -> None:
        check_instance("settings", settings, DistillSettings, "DistillSettings")
        check_instance("dataset", dataset, Dataset, "a Dataset; pydistill.data.from_arrays makes one of arrays")
        check_instance("store", store, TrajectoryStore, "a TrajectoryStore; TrajectoryStore.open(path) opens one")
        check_instance("student", student, nn.Module, "a torch.nn.Module")
        self.settings = settings
        self.method = settings.resolved_method
        if store.kind != self.method.trajectories:
            raise MismatchError(
                f"method {settings.method} uses {self.method.trajectories} trajectories "
                f"and the store holds {store.kind} ones; use another store, or set ",
                Name("distill.trajectories"),
            )
        self.store = store
        self.student = student
        self.generator = torch.Generator().manual_seed(settings.seed)
        self.sampler = SegmentSampler(settings, store, self.generator)
        _check_student(student, store)
        self.iteration = 0
        self._dataset, self._teachers = dataset, teachers
        if settings.redraws_every and not teachers:
            raise SettingError("redraw_every", settings.redraws_every, "0 without an expert, which compares images")
        of_expert = settings.initialisation == "kmeans" and settings.kmeans_network == "expert"
        shape = (dataset.in_channels, *dataset.image_size)
        with in_group("decoder"):
            decoder = make_decoder(settings.decoder, shape, settings.ipc)
        self._description = described(settings.decoder, shape, settings.ipc)
        self.synthetic = initial_set(
            dataset,
            ipc=settings.ipc,
            initialisation=settings.initialisation,
            labels=self.method.labels,
            lr=settings.lr_init,
            teachers=teachers,
            generator=self.generator,
            decoder=decoder,
            label_start=settings.label_start,
            network=next(iter(teachers), None) if of_expert else student,
            difficulty_start=settings.difficulty_start,
            start=start,
        )
        self._moving = moving_images(self.synthetic.classes, settings.frozen)
        self.initial_codes = copied(self.synthetic.codes)
        decay = settings.ema_decay
        warmup = self.method.ema_warmup
        self.average = CodeAverage(self.synthetic.codes, decay, warmup=warmup) if decay > 0 else None
        self.update = settings.outer_optimiser()
        self.moments = self.update.initial_moments(self.synthetic.learned())
        self.guard = Guard(settings, data_scale(dataset))
        self.mask = ParameterMask(settings.match_parameters, flatten(student).to(self.initial_images))
        self._good = self._snapshot()
        self._good_iterations = 0  # since that snapshot was taken

    @property
    def images(self) -> Tensor:
        """The images to evaluate and save: those of the average if there is one, else of the codes."""
        with torch.no_grad():
            return self.synthetic.decoder.decode(self.codes).clone()

    @property
    def codes(self) -> dict[str, Tensor]:
        """The codes of these images, constants: the average if there is one."""
        return copied(self.synthetic.codes if self.average is None else self.average.codes)

    @property
    def encoded(self) -> Encoded:
        """These codes, and those before the first iteration, as they are stored."""
        decoder = self.synthetic.decoder
        codes, initial = decoder.compact(self.codes), decoder.compact(self.initial_codes)
        return Encoded(self._description, codes, decoder.buffers, initial)

    @property
    def initial_images(self) -> Tensor:
        """The images before the first iteration."""
        with torch.no_grad():
            return self.synthetic.decoder.decode(self.initial_codes).clone()

    @property
    def lr(self) -> float:
        """The current α."""
        return float(self.synthetic.lr.detach())

    @property
    def good_iteration(self) -> int:
        """The iteration of the last good state."""
        return self._good.iteration

    def iterate(self) -> IterationReport:
        """Run one outer iteration.

        Raises:
            DivergedError: more updates have been rejected than `max_rejections` allows (`guard.ended` is set after the
                last of them).
            InputError: the experts stand still in all segments drawn.
        """
        if self.guard.ended is not None:
            raise DivergedError(self.guard.ended)
        began = time.perf_counter()
        redrawn = self._redraw()
        matched = self.synthetic.matched()
        numbers = range(self.settings.experts_per_step)
        draws = [self.sampler.draw(self.iteration, matched, number) for number in numbers]
        inputs = matched.inputs
        total: dict[str, Tensor] = {}
        segments = []
        for group, outcomes in self._matches(draws, matched):
            for draw, outcome in zip(group, outcomes, strict=True):
                distances = tuple(outcome.distances.tolist())
                loss = float(outcome.loss.detach())
                segments.append(Segment(draw.expert, *draw.epochs, loss, outcome.step, distances, outcome.matched))
            if all(math.isfinite(segment.loss) for segment in segments):
                gradients = torch.autograd.grad([outcome.loss for outcome in outcomes], list(inputs.values()))
                for name, gradient in zip(inputs, gradients, strict=True):
                    total[name] = total[name] + gradient if name in total else gradient
            del outcomes, outcome  # free this group's memory before the next is matched
        self.mask.end_iteration()
        refusal = self.guard.of_losses([segment.loss for segment in segments])
        if refusal is None:
            mean = {name: gradient / len(segments) for name, gradient in total.items()}
            gradients_of_learned = matched.pull_back(mean)
            if self.settings.frozen:
                gradients_of_learned["images"] *= self._moving
            refusal = self._apply(gradients_of_learned)
        self.iteration += 1
        event = None if refusal is None else self._refuse(refusal)
        seconds = time.perf_counter() - began
        return IterationReport(self.iteration, tuple(segments), self.lr, event, seconds, redrawn)

    @torch.no_grad()
    def _redraw(self) -> tuple[Redraw, ...]:
        """Every `redraw_every` iterations, put real images in the places of synthetic ones that overlap with others.

        The good state gets the same images, so that a rejected update does not bring the old ones back.
        """
        settings, every = self.settings, self.settings.redraws_every
        if every == 0 or self.iteration == 0 or self.iteration % every:
            return ()
        codes = self.synthetic.codes["images"]
        replaced = redraws(
            self._dataset,
            codes.detach(),
            self.synthetic.classes,
            self.moments["images"].flatten(1).norm(dim=1),
            self._teachers[0],
            self.generator,
            above=settings.redraw_above,
            at_most=max(1, int(settings.redraw_share * len(codes))),
        )
        images, moments = [codes, self._good.leaves["images"]], [self.moments, self._good.moments]
        if self.average is not None and self._good.average is not None:
            images += [self.average.codes["images"], self._good.average[0]["images"]]
        put_real_images(replaced, self._dataset, images, [velocities["images"] for velocities in moments])
        return tuple(replaced)

    def _matches(
        self, draws: Sequence[SegmentDraw], matched: MatchedSet
    ) -> Iterator[tuple[Sequence[SegmentDraw], list[Match]]]:
        """Match the draws group by group; yield every group with its matches.

        On a GPU the fused backend matches all draws concurrently, in one group; elsewhere a group is one draw, which
        needs the memory of one.
        """
        images = matched.images
        concurrent = len(draws) > 1 and images.device.type == "cuda"
        concurrent = concurrent and choose_backend(self.settings.backend, self.student, images)[0] == "fused"
        size = len(draws) if concurrent else 1
        for first in range(0, len(draws), size):
            group = draws[first : first + size]
            yield group, self._match(group, first)

    def _match(self, draws: Sequence[SegmentDraw], first: int) -> list[Match]:
        """Match the draws number `first`, … of this iteration."""
        settings = self.settings
        parts = (settings.seed, self.iteration, *((first,) if first else ()))
        with seeded_modules(self.synthetic.lr.device, "distillation", *parts):
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
                memory=settings.memory,
                weights=self.mask.weights(self.iteration),
            )

    @torch.no_grad()
    def _apply(self, gradients: dict[str, Tensor]) -> Refusal | None:
        """Apply the update of the learned leaves unless the guard refuses it; return the refusal."""
        leaves = self.synthetic.learned()
        moments, values = self.update(leaves, self.moments, gradients)
        values |= self.synthetic.decoder.project({name: values[name] for name in self.synthetic.codes})
        images = self.synthetic.decoder.decode({name: values[name] for name in self.synthetic.codes})
        refusal = self.guard.of_update(gradients, values, moments, images)
        if refusal is not None:
            return refusal
        # The state before the update is a good one: its loss and its gradient were finite.
        if self._good_iterations >= self.settings.snapshot_every:
            self._good, self._good_iterations = self._snapshot(), 0
        self._good_iterations += 1
        self.moments = moments
        for name, leaf in leaves.items():
            leaf.copy_(values[name])
        if self.average is not None:
            self.average.update(self.synthetic.codes)
        return None

    def _refuse(self, refusal: Refusal) -> GuardEvent:
        if refusal.what != "skipped":
            self._restore(self._good)
            self._good_iterations = 0
        return self.guard.refuse(self.iteration, refusal, self._good.iteration)

    def _snapshot(self) -> Snapshot:
        return Snapshot.of(self.iteration, self.synthetic.learned(), self.moments, self.average)

    @torch.no_grad()
    def _restore(self, snapshot: Snapshot) -> None:
        """Set everything that an update changes to its values in the snapshot."""
        for name, leaf in self.synthetic.learned().items():
            leaf.copy_(snapshot.leaves[name])
        self.moments = copied(snapshot.moments)
        if self.average is not None and snapshot.average is not None:
            codes, self.average.updates = snapshot.average
            self.average.codes = copied(codes)

    def state(self) -> tuple[dict[str, Any], dict[str, Tensor]]:
        """Return everything that the next iteration depends on: JSON-able values and tensors."""
        tensors = {"generator": self.generator.get_state(), "classes": self.synthetic.classes}
        tensors |= {f"initial.{name}": code for name, code in self.initial_codes.items()}
        tensors |= {f"buffer.{name}": buffer for name, buffer in self.synthetic.decoder.buffers.items()}
        if self.synthetic.kind == "teacher" and self.synthetic.label_rows is not None:
            tensors["label_probabilities"] = self.synthetic.label_rows
        tensors |= self.mask.state()
        counts, current = self._snapshot().state("")
        good_counts, good = self._good.state("good.")
        values = counts | {
            "order": self.sampler.order.state(),
            "guard": self.guard.state(),
            "good": good_counts | {"since": self._good_iterations},
            "decoder": self._description,
        }
        return values, tensors | current | good

    def load_state(self, values: dict[str, Any], tensors: dict[str, Tensor]) -> None:
        """Continue from what `state` returned, bit for bit.

        Raises:
            MismatchError: the state is of a set of another shape.
            FormatError: it is damaged.
            KeyError: it lacks a part.
        """
        self._restore(self._good.loaded("", values, tensors))
        try:
            self.generator.set_state(tensors["generator"])
        except (RuntimeError, TypeError) as error:
            raise FormatError(f"the state of the random numbers is damaged ({first_line(error)})") from error
        decoder, synthetic = self.synthetic.decoder, self.synthetic
        self.initial_codes = loaded("initial.", tensors, self.initial_codes)
        decoder.load_buffers(loaded("buffer.", tensors, decoder.buffers))
        synthetic.classes = loaded("", tensors, {"classes": synthetic.classes})["classes"]
        if synthetic.kind == "teacher" and synthetic.label_rows is not None:
            rows = {"label_probabilities": synthetic.label_rows}
            synthetic.label_rows = loaded("", tensors, rows)["label_probabilities"]
        self.mask.load_state(tensors)
        self.iteration = int(values["iteration"])
        self.sampler.order.load_state(values["order"])
        self.guard.load_state(values["guard"])
        self._good = self._good.loaded("good.", values["good"], tensors)
        self._good_iterations = int(values["good"]["since"])


def _check_student(student: nn.Module, store: TrajectoryStore) -> None:
    parameters, expected = flatten(student).numel(), sum(store.record.sizes)
    if parameters != expected:
        raise MismatchError(
            f"the student has {parameters} parameters and the experts ({store.record.architecture}) have {expected}; "
            "use the experts' network as the student"
        )
