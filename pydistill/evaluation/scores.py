"""The label-robust and the augmentation-robust score of a distilled set.

Source: Li et al., "DD-Ranking: Rethinking the Evaluation of Dataset Distillation", arXiv 2505.13300, 2025.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from pydistill.evaluation.evaluate import Evaluation

WEIGHT = 0.5
_SCALE = math.e - math.exp(-1)


@dataclass(frozen=True)
class Uncertain:
    """A value with the standard deviation that it inherits from the cells it is computed from."""

    value: float
    std: float


def robust_score(exponent: Uncertain) -> Uncertain:
    """Map α or β in [−1, 1] to a score in [0, 1]:

        s(x) = (e^x − e^−1) / (e − e^−1),    σ_s = e^x σ_x / (e − e^−1)

    A set that gains nothing has x = 0 and s = 0.269. The formulas take accuracies as fractions. DD-Ranking's own code
    puts per cent into the exponent, so its numbers are others.
    """
    power = math.exp(exponent.value)
    return Uncertain((power - math.exp(-1)) / _SCALE, power * exponent.std / _SCALE)


def combined(weights: Mapping[str, float], cells: Mapping[str, Evaluation]) -> Uncertain:
    """Add the cells' mean accuracies with weights w_i; their spreads over networks s_i as independent errors:

        x = Σ_i w_i a_i,    σ² = Σ_i w_i² s_i²
    """
    value = sum(weight * cells[name].mean for name, weight in weights.items())
    return Uncertain(value, math.sqrt(sum((weight * cells[name].std) ** 2 for name, weight in weights.items())))


@dataclass(frozen=True)
class Scores:
    """The scores of a distilled set, and the accuracies that they are computed from.

        HLR = real_hard − distilled_hard                    what hard labels lose against all real data
        IOR = distilled − random                            what the set gains on random real images
        α   = w IOR − (1 − w) HLR,                          LRS = s(α)
        β   = γ (distilled_augmented − random_augmented)
              + (1 − γ) (distilled_plain − random_plain),   ARS = s(β)

    with w = γ = ½ and s of `robust_score`. A spread is that of the cells over their networks, propagated to first order;
    a cell that occurs twice, such as distilled = distilled_hard for a set with hard labels, counts with the sum of its
    weights.

    Args:
        cells: the accuracies by these names: real_hard, distilled_hard, distilled, random; and, unless the set is not
            of pictures, distilled_augmented, random_augmented, distilled_plain, random_plain. Cells that are the same
            measurement are the same object.
        names: the name of the training set of every cell.
    """

    cells: Mapping[str, Evaluation]
    names: Mapping[str, str]

    @property
    def hlr(self) -> Uncertain:
        """HLR, the hard-label recovery."""
        return self._combined({"real_hard": 1.0, "distilled_hard": -1.0})

    @property
    def ior(self) -> Uncertain:
        """IOR, the improvement over random."""
        return self._combined({"distilled": 1.0, "random": -1.0})

    @property
    def alpha(self) -> Uncertain:
        """α, the exponent of the label-robust score."""
        w = WEIGHT
        return self._combined({"distilled": w, "random": -w, "real_hard": w - 1, "distilled_hard": 1 - w})

    @property
    def lrs(self) -> Uncertain:
        """LRS, the label-robust score."""
        return robust_score(self.alpha)

    @property
    def beta(self) -> Uncertain | None:
        """β, the exponent of the augmentation-robust score; None for a table, whose rows are not augmented."""
        if "distilled_augmented" not in self.cells:
            return None
        augmented, plain = WEIGHT, 1 - WEIGHT
        weights = {"distilled_augmented": augmented, "random_augmented": -augmented}
        return self._combined(weights | {"distilled_plain": plain, "random_plain": -plain})

    @property
    def ars(self) -> Uncertain | None:
        """ARS, the augmentation-robust score; None for a table."""
        return None if self.beta is None else robust_score(self.beta)

    def _combined(self, weights: Mapping[str, float]) -> Uncertain:
        """Combine the cells after adding the weights of those that are one measurement."""
        first: dict[int, str] = {}
        merged: dict[str, float] = {}
        for name, weight in weights.items():
            one = first.setdefault(id(self.cells[name]), name)
            merged[one] = merged.get(one, 0.0) + weight
        return combined(merged, self.cells)

    def as_record(self) -> dict[str, Any]:
        """Convert to JSON-able values: the scores with their spreads, and the cells."""
        scores = {"HLR": self.hlr, "IOR": self.ior, "alpha": self.alpha, "LRS": self.lrs}
        record: dict[str, Any] = {name: {"value": score.value, "std": score.std} for name, score in scores.items()}
        for name, score in {"beta": self.beta, "ARS": self.ars}.items():
            record[name] = None if score is None else {"value": score.value, "std": score.std}
        cells = {name: {"trained_on": self.names[name]} | cell.as_record() for name, cell in self.cells.items()}
        return record | {"cells": cells}
