"""Where on an expert's trajectory the student starts, and which point it must reach."""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch

from pydistill.errors import InputError
from pydistill.trajectories.trajectory import Span


@dataclass(frozen=True)
class StartSettings:
    """The range that starts are drawn from, in epochs.

    Attributes:
        max_start: upper end T⁺, exclusive: whole starts are min_start … max_start − 1, real ones lie in
            [min_start, max_start).
        min_start: lower end T⁻, inclusive.
        continuous: draw real starts (convexified experts), not whole epochs.
        growing: let the upper end grow linearly, from grow_from at iteration 0 to max_start at
            grow_iterations.
        grow_from: upper end at iteration 0.
        grow_iterations: iterations until the upper end reaches max_start; needed with `growing`.
    """

    max_start: float
    min_start: float = 0.0
    continuous: bool = False
    growing: bool = False
    grow_from: float = 0.5
    grow_iterations: int = 0


class StartSampler:
    """Draws the start and the target of each iteration: t ~ U[T⁻, T⁺(iteration)), target t + M.

        fixed (MTT, ATT)                             T⁺(i) = max_start
        growing (DATM; MCT's floating upper bound)   T⁺(i) = g + (max_start − g) · min(1, i / grow_iterations),
                                                     g = grow_from

    Whole starts use ⌊T⁺(i)⌋, and at least T⁻ + 1, so that there is always one epoch to draw.
    """

    def __init__(self, settings: StartSettings) -> None:
        """Check the settings by themselves.

        Raises:
            InputError: a setting is outside its limits.
        """
        lower, upper = settings.min_start, settings.max_start
        if not (math.isfinite(lower) and lower >= 0):
            raise InputError(f"min_start = {lower} must be 0 or more")
        if not math.isfinite(upper):
            raise InputError(f"max_start = {upper} must be a finite number of epochs")
        if settings.continuous:
            if upper < lower:
                raise InputError(f"max_start = {upper} must be at least min_start = {lower}")
        else:
            for name, value in (("min_start", lower), ("max_start", upper)):
                if value != int(value):
                    raise InputError(f"{name} = {value} must be a whole epoch unless starts are continuous")
            if upper < lower + 1:
                raise InputError(
                    f"max_start = {upper:g} must be at least {lower + 1:g}: "
                    f"whole starts run from min_start = {lower:g} up to, but not with, max_start"
                )
        if settings.growing:
            if settings.grow_iterations < 1:
                raise InputError(f"grow_iterations = {settings.grow_iterations} must be 1 or more for a growing range")
            if not lower <= settings.grow_from <= upper:
                raise InputError(
                    f"grow_from = {settings.grow_from} must lie between min_start = {lower} and max_start = {upper}"
                )
        self.settings = settings

    @property
    def latest(self) -> float:
        """The bound that no start exceeds: max_start − 1 for whole starts, max_start for real ones."""
        return self.settings.max_start if self.settings.continuous else self.settings.max_start - 1

    def upper(self, iteration: int) -> float:
        """T⁺ at an iteration, exclusive."""
        settings = self.settings
        bound = settings.max_start
        if settings.growing:
            grown = (
                settings.grow_from + (settings.max_start - settings.grow_from) * iteration / settings.grow_iterations
            )
            bound = min(bound, grown)
        return bound if settings.continuous else max(float(math.floor(bound)), settings.min_start + 1)

    def check(self, trajectory: Span, length: float) -> None:
        """Refuse, before the first step, a range that could ever leave the trajectory.

        Args:
            trajectory: a trajectory, or a store of them (its shortest counts).
            length: M, the epochs from start to target.

        Raises:
            InputError: M is not positive; the last start plus M exceeds T; real times on recorded experts.
        """
        if self.settings.continuous and not trajectory.continuous:
            raise InputError("continuous starts need convexified experts, and these are recorded at whole epochs only")
        if not trajectory.continuous and length != int(length):
            raise InputError(
                f"length M = {length} must be a whole number of epochs for experts recorded at whole epochs"
            )
        self.check_reach(trajectory.end, length)

    def check_reach(self, trajectory_end: float, length: float) -> None:
        """What `check` refuses of real times: trajectories that are still to be convexified can be checked by their T.

        Raises:
            InputError: M is not positive; the last start plus M exceeds T.
        """
        if not (math.isfinite(length) and length > 0):
            raise InputError(f"length M = {length} must be a positive number of epochs")
        if self.latest + length > trajectory_end:
            raise InputError(
                f"max_start = {self.settings.max_start:g} and length M = {length:g} reach up to "
                f"epoch {self.latest + length:g}, "
                f"but the expert trajectories end at epoch {trajectory_end:g}; lower distill.max_start or "
                "distill.expert_epochs, or train experts for more epochs"
            )

    def draw(
        self, iteration: int, generator: torch.Generator, trajectory_end: float, length: float
    ) -> tuple[float, float]:
        """(start, target) of an iteration, 0 <= start < target <= trajectory_end.

        Args:
            iteration: 0, 1, …; it matters only to a growing range.
            generator: a CPU generator; one number is drawn from it.
            trajectory_end: T of the trajectory at hand.
            length: M.

        Raises:
            InputError: as `check` would have; iteration below 0.
        """
        if iteration < 0:
            raise InputError(f"iteration = {iteration} must be 0 or more")
        self.check_reach(trajectory_end, length)
        lower, upper = self.settings.min_start, self.upper(iteration)
        if self.settings.continuous:
            share = float(torch.rand((), generator=generator, dtype=torch.float64))
            start = min(lower + (upper - lower) * share, upper)  # rounding must not pass the bound
        else:
            start = float(torch.randint(int(lower), int(upper), (), generator=generator))
        return start, start + length
