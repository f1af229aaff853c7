"""The label-robust and the augmentation-robust score of a distilled set.

Source: Li et al., "DD-Ranking: Rethinking the Evaluation of Dataset Distillation", arXiv 2505.13300, 2025.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any

from pydistill.evaluation.evaluate import Row, records, table

WEIGHT = 0.5
NOTE = (
    "Scores are of accuracies as fractions: 0.269 is no gain, 1 the most. DD-Ranking's own code puts per cent into the "
    "exponents; its numbers are others."
)
_SCALE = math.e - math.exp(-1)


@dataclass(frozen=True)
class Uncertain:
    """A value with the standard deviation that it inherits from the cells it is computed from."""

    value: float
    std: float

    def text(self, digits: int, *, spread: bool = True) -> str:
        """Format the value, with its spread if that is known."""
        return f"{self.value:.{digits}f}" + (f" ± {self.std:.{digits}f}" if spread else "")


def robust_score(exponent: Uncertain) -> Uncertain:
    """Map α or β in [−1, 1] to a score in [0, 1]:

        s(x) = (e^x − e^−1) / (e − e^−1),    σ_s = e^x σ_x / (e − e^−1)

    A set that gains nothing has x = 0 and s = 0.269. The formulas take accuracies as fractions. DD-Ranking's own code
    puts per cent into the exponent, so its numbers are others.
    """
    power = math.exp(exponent.value)
    return Uncertain((power - math.exp(-1)) / _SCALE, power * exponent.std / _SCALE)


@dataclass(frozen=True)
class Scores:
    """The scores of a distilled set, and the accuracies that they are computed from.

        HLR = real_hard − distilled_hard                    what hard labels lose against all real data
        IOR = distilled − random                            what the set gains on random real images
        α   = w IOR − (1 − w) HLR,                          LRS = s(α)
        β   = γ (distilled_augmented − random_augmented)
              + (1 − γ) (distilled_plain − random_plain),   ARS = s(β)

    with w = γ = ½ and s of `robust_score`. A spread is that of the cells over their networks, to first order.

    Attributes:
        cells: what networks were trained on and their accuracies, by these names: real_hard, distilled_hard, distilled,
            random; and, unless the data are a table, distilled_augmented, random_augmented, distilled_plain and
            random_plain. One measurement in several cells, such as distilled and distilled_hard of a set with hard
            labels, is one object, whose weights are added.
    """

    cells: Mapping[str, Row]

    @property
    def hlr(self) -> Uncertain:
        """HLR, in [−1, 1]: what the set with hard labels lacks to all real data."""
        return self._combined({"real_hard": 1.0, "distilled_hard": -1.0})

    @property
    def ior(self) -> Uncertain:
        """IOR, in [−1, 1]: the improvement over random real images."""
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
        """Add the mean accuracies with weights w_i, and their spreads over networks s_i as independent errors:

            x = Σ_i w_i a_i,    σ² = Σ_i w_i² s_i²

        over the measurements i, whose weights are the sums over the cells that they are in.
        """
        merged: dict[int, float] = {}
        measured = {id(self.cells[name][1]): self.cells[name][1] for name in weights}
        for name, weight in weights.items():
            one = id(self.cells[name][1])
            merged[one] = merged.get(one, 0.0) + weight
        value = sum(weight * measured[one].mean for one, weight in merged.items())
        return Uncertain(value, math.sqrt(sum((weight * measured[one].std) ** 2 for one, weight in merged.items())))

    def as_record(self) -> dict[str, Any]:
        """Convert to JSON-able values: scores with spreads (a table has neither beta nor ARS: null), and cells."""
        scores = {"HLR": self.hlr, "IOR": self.ior, "alpha": self.alpha, "beta": self.beta}
        scores |= {"LRS": self.lrs, "ARS": self.ars}
        record = {name: None if score is None else asdict(score) for name, score in scores.items()}
        return record | {"cells": {name: records([row])[0] for name, row in self.cells.items()}}

    def __str__(self) -> str:
        """Format the cells as a table, and the scores below it."""
        rows = {id(row[1]): row for row in self.cells.values()}
        spread = len(self.cells["distilled"][1].accuracies) > 1  # one network has none

        def percent(score: Uncertain) -> str:
            return f"{Uncertain(100 * score.value, 100 * score.std).text(1, spread=spread)} %"

        lines = [
            f"HLR = {percent(self.hlr)}, all real images − distilled images, both with hard labels",
            f"IOR = {percent(self.ior)}, distilled images − random real images",
            f"α   = {self.alpha.text(3, spread=spread)}",
            f"LRS = {self.lrs.text(3, spread=spread)}, the label-robust score",
        ]
        if self.beta is not None and self.ars is not None:
            lines.append(f"β   = {self.beta.text(3, spread=spread)}")
            lines.append(f"ARS = {self.ars.text(3, spread=spread)}, the augmentation-robust score")
        return "\n".join([table(list(rows.values())), "", *lines, "", NOTE])
