"""The parameters that take part in the matching loss: rules for its weights, which are zeros and ones."""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial
from typing import Literal

import torch
from torch import Tensor

from pydistill._util.settings import Settings, setting
from pydistill.errors import MismatchError, SettingError
from pydistill.matching import Weights

Rule = Literal["all", "depth", "rank", "paced"]

_NUMBERS: dict[str, tuple[str, ...]] = {
    "all": (),
    "depth": ("leave_out",),
    "rank": ("leave_out",),
    "paced": ("threshold", "growth"),
}


@dataclass(frozen=True)
class MatchedParameters(Settings):
    """Which of the P parameters take part in the matching loss.

        all     w_i = 1
        depth   w_i = 0 for the first ⌊αP⌋ parameters, those of shallow layers
        rank    w_i = 0 for the ⌊αP⌋ parameters with the least (θ_K − θ*)_i²
        paced   w_i = 1 once (θ_K − θ*)_i² < b γ^⌊it / growth_every⌋ at the end of a student's training

    Source of depth: Li et al., *Prioritize Alignment in Dataset Distillation*, 2024 (PAD). rank: PAD's own code, and
    Wang et al., *Emphasizing Discriminative Features for Dataset Distillation in Complex Scenarios*, CVPR 2025 (EDF).
    paced: Dong et al., *High-Order Progressive Trajectory Matching for Medical Image Dataset Distillation*, MICCAI 2025
    (HoP-TM).
    """

    rule: Rule = setting("all", "all, depth, rank or paced")
    leave_out: float | None = setting(
        None, "α of depth and rank, the share of the parameters without weight", at_least=0, below=1
    )
    threshold: float | None = setting(None, "b of paced, the squared error below which a parameter joins", above=0)
    growth: float | None = setting(None, "γ of paced, the growth of this threshold", at_least=1)
    growth_every: int = setting(500, "iterations between two growths of paced's threshold", at_least=1)

    def _check(self) -> None:
        for name in ("leave_out", "threshold", "growth"):
            value, is_used = getattr(self, name), name in _NUMBERS[self.rule]
            if is_used and value is None:
                raise SettingError(name, value, f"a number with rule {self.rule}")
            if not is_used and value is not None:
                rules = " or ".join(rule for rule, numbers in _NUMBERS.items() if name in numbers)
                raise SettingError(name, value, f"null with rule {self.rule}", f"or set rule to {rules}")


class ParameterMask:
    """The weights of a run's matching losses, by iteration.

    With rule `paced`, a match takes the parameters that joined in earlier iterations or at the end of its own student's
    training; all parameters, while none that has joined moves between the segment's start and target.

    Args:
        settings: the rule.
        like: a vector [P] of the student's dtype and on its device.

    Attributes:
        joined: `paced`: the parameters that have joined, bool [P]; None for other rules.
    """

    def __init__(self, settings: MatchedParameters, like: Tensor) -> None:
        self._settings = settings
        self._out = 0 if settings.leave_out is None else int(settings.leave_out * like.numel())
        self.joined = torch.zeros_like(like, dtype=torch.bool) if settings.rule == "paced" else None
        self._joining = self.joined  # after the iteration
        self._depth: Tensor | None = None
        if settings.rule == "depth":
            self._depth = torch.ones_like(like)
            self._depth[: self._out] = 0

    def weights(self, iteration: int) -> Weights | None:
        """Return w, or the rule that makes it, for the matches after `iteration` iterations; None for w = 1."""
        match self._settings.rule:
            case "rank":
                return self._ranked
            case "paced":
                return partial(self._paced, self._threshold(iteration))
            case _:
                return self._depth

    def end_iteration(self) -> None:
        """Let the parameters join that were below the threshold in one of the iteration's matches."""
        self.joined = self._joining

    def state(self) -> dict[str, Tensor]:
        """Return what the weights of the next iteration depend on."""
        return {} if self.joined is None else {"joined_parameters": self.joined}

    def load_state(self, tensors: dict[str, Tensor]) -> None:
        """Continue from what `state` returned.

        Raises:
            KeyError: it lacks the mask.
            MismatchError: the mask is of another network.
        """
        if self.joined is None:
            return
        joined = tensors["joined_parameters"]
        if joined.shape != self.joined.shape:
            raise MismatchError(
                f"the checkpoint's mask is of {joined.numel()} parameters, and the student has {self.joined.numel()}"
            )
        self.joined = self._joining = joined.to(self.joined)

    def _threshold(self, iteration: int) -> float:
        growths = iteration // self._settings.growth_every
        assert self._settings.threshold is not None
        assert self._settings.growth is not None
        return self._settings.threshold * float(torch.tensor(self._settings.growth, dtype=torch.float64) ** growths)

    def _ranked(self, arrival: Tensor, start: Tensor, target: Tensor) -> Tensor:
        order = (arrival - target).square().argsort(stable=True)
        return torch.ones_like(start).index_fill_(0, order[: self._out], 0)

    def _paced(self, threshold: float, arrival: Tensor, start: Tensor, target: Tensor) -> Tensor:
        assert self.joined is not None
        assert self._joining is not None
        below = (arrival - target).square() < threshold
        self._joining = self._joining | below
        mask = self.joined | below
        counts = (mask & (start != target)).any()
        return torch.where(counts, mask, True).to(start.dtype)
