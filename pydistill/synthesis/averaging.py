"""The moving average of the images' codes."""

from __future__ import annotations

from collections.abc import Mapping

from torch import Tensor

from pydistill.errors import InputError


class CodeAverage:
    """Exponential moving average of the codes (for pixels, of the images), as ATT and FTD evaluate them.

        a ← δ a + (1 − δ) z,    δ = min(decay, (1 + t) / (10 + t)) at update t;    δ = decay without `warmup`

    The bound on δ keeps the first images from dominating a short run. Without it, as FTD published, they have weight
    decayᵗ after t updates.
    """

    def __init__(self, codes: Mapping[str, Tensor], decay: float, *, warmup: bool = True) -> None:
        if not 0 <= decay < 1:
            raise InputError(f"ema must lie in [0, 1), not {decay}")
        self.decay = decay
        self.warmup = warmup
        self.updates = 0
        self.codes = {name: code.detach().clone() for name, code in codes.items()}

    def update(self, codes: Mapping[str, Tensor]) -> None:
        """Add the codes after one iteration."""
        self.updates += 1
        decay = min(self.decay, (1 + self.updates) / (10 + self.updates)) if self.warmup else self.decay
        for name, average in self.codes.items():
            average.lerp_(codes[name].detach(), 1 - decay)
