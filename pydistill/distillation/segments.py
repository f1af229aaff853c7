"""Draw what an iteration matches: segments of the experts' trajectories, and the student's batches."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from pydistill.distillation.settings import DistillSettings
from pydistill.errors import InputError
from pydistill.matching import Batches
from pydistill.synthesis.set import MatchedSet
from pydistill.trajectories import ExpertOrder, StartSampler, TrajectoryStore

MAX_DRAWS = 100
"""Segments without movement that are passed over before the run ends."""


@dataclass(frozen=True)
class SegmentDraw:
    """The random choices for one segment: the expert, the epochs with their points, and the batches."""

    expert: int
    epochs: tuple[float, float]
    points: tuple[Tensor, Tensor]
    batches: Batches


class SegmentSampler:
    """Draws experts in a shuffled order, segments of their trajectories, and batches of the synthetic set.

    Args:
        settings: steps, batches and augmentation; the range of starts; M.
        store: the experts.
        generator: of all draws, on the CPU.

    Attributes:
        order: the order of the experts, a part of the checkpoint.
        starts: the sampler of starts.

    Raises:
        InputError: a segment leaves the trajectories.
    """

    def __init__(self, settings: DistillSettings, store: TrajectoryStore, generator: torch.Generator) -> None:
        self._settings, self._store, self._generator = settings, store, generator
        self.starts = StartSampler(settings.start_settings)
        self.starts.check(store.end, settings.expert_epochs, continuous=store.continuous)
        self.order = ExpertOrder(len(store))

    def draw(self, iteration: int, matched: MatchedSet, number: int = 0) -> SegmentDraw:
        """Draw an expert, a segment of its trajectory (the iteration's `number`-th), and the student's batches.

        Raises:
            InputError: the experts stand still in all segments drawn.
        """
        settings, images = self._settings, matched.images
        part = (number, settings.experts_per_step) if settings.spread_starts else (0, 1)
        expert, epochs, points = self._segment(iteration, part)
        batches = Batches.draw(
            images,
            matched.labels,
            steps=settings.steps,
            batch_size=settings.batch_size or images.shape[0],
            generator=self._generator,
            dsa=settings.dsa,
        )
        return SegmentDraw(expert, epochs, (points[0].to(images), points[1].to(images)), batches)

    def _segment(self, iteration: int, part: tuple[int, int]) -> tuple[int, tuple[float, float], tuple[Tensor, Tensor]]:
        """Draw an expert, two epochs and the points there; again if the expert does not move between them."""
        length = self._settings.expert_epochs_at(iteration)
        for _ in range(MAX_DRAWS):
            expert = self.order.next(self._generator)
            trajectory = self._store[expert]
            epochs = self.starts.draw(iteration, self._generator, trajectory.end, length, part)
            points = (trajectory.point(epochs[0]), trajectory.point(epochs[1]))
            if not torch.equal(*points):
                return expert, epochs, points
        raise InputError(
            f"expert {self._store.experts[expert]} in {self._store.path} does not move between epochs {epochs[0]:g} "
            f"and {epochs[1]:g}, nor do the {MAX_DRAWS - 1} segments drawn before; train other experts, or start at "
            "other epochs"
        )
