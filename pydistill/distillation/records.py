"""Records of an outer iteration: its segments, losses and metrics lines."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

from pydistill.distillation.guard import GuardEvent
from pydistill.synthesis.overlap import Redraw


@dataclass(frozen=True)
class Segment:
    """One segment of an expert's trajectory, and the result of matching a student to it.

    Attributes:
        expert: number of the expert in the store.
        start, target: epochs.
        loss: L of this segment.
        step: K, the chosen student step.
        distances: d(θ_k, θ*) for k = 0 … N.
        matched: the share of the parameters that took part in the loss; None for all.
    """

    expert: int
    start: float
    target: float
    loss: float
    step: int
    distances: tuple[float, ...]
    matched: float | None = None

    def distances_record(self, iteration: int) -> dict[str, Any]:
        """Make the metrics record of d(θ_k, θ*); non-finite values become null."""
        distances = [value if math.isfinite(value) else None for value in self.distances]
        return {"event": "distances", "iteration": iteration, "distances": distances, "step": self.step}


@dataclass(frozen=True)
class IterationReport:
    """The result of one outer iteration.

    Attributes:
        iteration: 1, 2, …
        segments: the matched segments, `experts_per_step` of them.
        lr: the student's learning rate after the update.
        guard: the guard's event if the update was not applied.
        redrawn: the images that real ones replaced before the update, as they overlapped with others.
        seconds: wall time of the iteration.
    """

    iteration: int
    segments: tuple[Segment, ...]
    lr: float
    guard: GuardEvent | None = None
    seconds: float = 0.0
    redrawn: tuple[Redraw, ...] = ()

    @property
    def rejected(self) -> str | None:
        """Why the update was not applied, or None."""
        return None if self.guard is None else self.guard.refusal.reason

    @property
    def loss(self) -> float:
        """L before the update, averaged over the segments."""
        return math.fsum(segment.loss for segment in self.segments) / len(self.segments)

    @property
    def steps(self) -> list[int]:
        """K of every segment, the chosen student step."""
        return [segment.step for segment in self.segments]

    def redraw_record(self) -> dict[str, Any]:
        """Make the metrics record of the replaced images, a list for each field of `Redraw`."""
        record: dict[str, Any] = {"event": "redraw", "iteration": self.iteration}
        return record | {
            name: [getattr(redraw, name) for redraw in self.redrawn] for name in ("image", "like", "similarity", "real")
        }

    def as_record(self) -> dict[str, Any]:
        """Make the metrics record of this iteration; a non-finite loss becomes null.

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
            "seconds": self.seconds,
        }
        record |= {name: of_segments(name) for name in ("expert", "start", "target")}
        if any(segment.matched is not None for segment in self.segments):
            record["matched"] = of_segments("matched")
        return record if self.rejected is None else record | {"rejected": self.rejected}
