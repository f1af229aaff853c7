"""Sample the student's start on an expert's trajectory and its target."""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch

from pydistill._util.settings import Settings, setting
from pydistill.errors import InputError, SettingError


@dataclass(frozen=True)
class StartSettings(Settings):
    """The range of starts in epochs.

    Integer starts are min_start … max_start − 1; real starts (`continuous`) are in [min_start, max_start).
    """

    max_start: float = setting(2.0, "upper end T⁺, exclusive", at_least=0)
    min_start: float = setting(0.0, "lower end T⁻, inclusive", at_least=0)
    continuous: bool = setting(False, "draw real starts (convexified experts) instead of integer epochs")
    growing: bool = setting(
        False, "let the upper end grow linearly from grow_from at iteration 0 to max_start at grow_iterations"
    )
    grow_from: float = setting(0.5, "upper end at iteration 0", at_least=0)
    grow_iterations: int = setting(0, "iterations until the upper end reaches max_start; needed if growing", at_least=0)

    def _check(self) -> None:
        lower, upper = self.min_start, self.max_start
        if not self.continuous:
            for name, value in (("min_start", lower), ("max_start", upper)):
                if value != int(value):
                    raise SettingError(name, value, "an integer unless starts are continuous")
        least = lower if self.continuous else lower + 1
        if upper < least:
            beyond = "" if self.continuous else ", as integer starts are below max_start"
            raise SettingError("max_start", upper, f"at least {least:g} for min_start = {lower:g}{beyond}")
        if self.growing:
            if self.grow_iterations < 1:
                raise SettingError("grow_iterations", self.grow_iterations, "at least 1 for a growing range")
            if not lower <= self.grow_from <= upper:
                allowed = f"between min_start = {lower:g} and max_start = {upper:g}"
                raise SettingError("grow_from", self.grow_from, allowed)


class StartSampler:
    """Draws a start t ~ U[T⁻, T⁺(iteration)) and the target t + M in every iteration.

        fixed (MTT, ATT)                             T⁺(i) = max_start
        growing (DATM; MCT's floating upper bound)   T⁺(i) = g + (max_start − g) · min(1, i / grow_iterations),
                                                     g = grow_from

    Integer starts use max(⌊T⁺(i)⌋, T⁻ + 1), so that the range is never empty.
    """

    def __init__(self, settings: StartSettings) -> None:
        self.settings = settings

    @property
    def latest(self) -> float:
        """The upper bound of all starts: max_start − 1 for integer starts, max_start for real ones."""
        return self.settings.max_start if self.settings.continuous else self.settings.max_start - 1

    def upper(self, iteration: int) -> float:
        """Return T⁺ at an iteration, exclusive."""
        settings = self.settings
        bound = settings.max_start
        if settings.growing:
            grown = (
                settings.grow_from + (settings.max_start - settings.grow_from) * iteration / settings.grow_iterations
            )
            bound = min(bound, grown)
        return bound if settings.continuous else max(float(math.floor(bound)), settings.min_start + 1)

    def check(self, trajectory_end: float, length: float, *, continuous: bool = True) -> None:
        """Check that no start of any iteration, nor its target, is outside a trajectory.

        Args:
            trajectory_end: T of the trajectory.
            length: M, the epochs from start to target.
            continuous: false for recorded experts, which have points at integer epochs only.

        Raises:
            InputError: M is not positive; the last start plus M exceeds T; real times on recorded experts.
        """
        if self.settings.continuous and not continuous:
            raise InputError(
                "continuous starts need convexified experts, and these are recorded at integer epochs only"
            )
        if not continuous and math.isfinite(length) and length != int(length):
            raise SettingError("expert_epochs", length, "an integer for experts recorded at integer epochs")
        if not (math.isfinite(length) and length > 0):
            raise SettingError("expert_epochs", length, "a finite number above 0")
        if self.latest + length > trajectory_end:
            furthest = trajectory_end - length + (0 if self.settings.continuous else 1)
            longest = trajectory_end - self.settings.min_start
            if length > longest > 0:
                raise SettingError(
                    "expert_epochs",
                    length,
                    f"at most {longest:g}",
                    f"the expert trajectories end at epoch {trajectory_end:g}; lower it, or train experts for more "
                    "epochs",
                )
            raise SettingError(
                "max_start",
                self.settings.max_start,
                f"at most {furthest:g} for expert_epochs = {length:g}",
                f"the expert trajectories end at epoch {trajectory_end:g}; lower it or expert_epochs, or train experts "
                "for more epochs",
            )

    def draw(
        self,
        iteration: int,
        generator: torch.Generator,
        trajectory_end: float,
        length: float,
        part: tuple[int, int] = (0, 1),
    ) -> tuple[float, float]:
        """Draw (start, target) for an iteration, 0 <= start < target <= trajectory_end.

        Args:
            iteration: 0, 1, …; used by a growing range only.
            generator: a CPU generator; one number is drawn from it.
            trajectory_end: T of the trajectory.
            length: M.
            part: (e, E): draw from part e = 0 … E − 1 of E equal parts of the range. One draw from each part spreads E
                starts evenly; they are, taken together, distributed like independent ones. Integer starts are rounded
                down, ⌊T⁻ + (T⁺ − T⁻)(e + u) / E⌋ for u ~ U[0, 1).

        Raises:
            InputError: as `check`; or the iteration is below 0.
        """
        if iteration < 0:
            raise SettingError("iteration", iteration, "at least 0")
        self.check(trajectory_end, length)
        lower, upper = self.settings.min_start, self.upper(iteration)
        number, parts = part
        if self.settings.continuous or parts > 1:
            share = (number + float(torch.rand((), generator=generator, dtype=torch.float64))) / parts
            start = min(lower + (upper - lower) * share, upper)  # rounding must not pass the bound
            if not self.settings.continuous:
                start = min(float(math.floor(start)), upper - 1)
        else:
            start = float(torch.randint(int(lower), int(upper), (), generator=generator))
        return start, start + length
