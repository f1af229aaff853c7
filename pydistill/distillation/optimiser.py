"""The outer optimiser: SGD with momentum on pixels, label logits and the student's learning rate."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor

LrForm = Literal["plain", "clamped", "log"]


@dataclass(frozen=True)
class OuterOptimiser:
    """SGD with momentum, with a separate rate for every kind of leaf:

        v ← μ v + g,    x ← x − η v

    The student's learning rate α is updated in one of three forms:

        plain    α ← α − η v,                      g = ∂L/∂α          (as published; can become ≤ 0)
        clamped  α ← max(α − η v, lr_min),         g = ∂L/∂α
        log      a ← a − η v, α = e^a,             g = ∂L/∂a = α ∂L/∂α

    The step of the logarithm is relative: near α₀, η = η_plain / α₀² gives the step of `plain`.

    Attributes:
        code_rate: η of the codes of the images (for pixels, of the images).
        rates: η by the name of the other leaves (lr, label_logits).
        momentum: μ.
        momentum_label: μ of label_logits; None for `momentum`.
        lr_form: how α is updated.
        lr_min: the least α of `clamped`.
        clip_gradient: the largest Euclidean norm of the pixels' gradient (over all images); a longer gradient is scaled
            down to it. None for no limit.
    """

    code_rate: float
    rates: Mapping[str, float]
    momentum: float
    lr_form: LrForm = "plain"
    lr_min: float = 1e-6
    clip_gradient: float | None = None
    momentum_label: float | None = None

    def __call__(
        self, leaves: Mapping[str, Tensor], velocities: Mapping[str, Tensor], gradients: Mapping[str, Tensor]
    ) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
        """Return the velocities and the leaves' values after the update, as new tensors; nothing changes in place."""
        new_velocities: dict[str, Tensor] = {}
        values: dict[str, Tensor] = {}
        for name, leaf in leaves.items():
            gradient = self._gradient(name, leaf, gradients[name])
            own = self.momentum_label if name == "label_logits" else None
            momentum = self.momentum if own is None else own
            new_velocities[name] = momentum * velocities[name] + gradient
            values[name] = self._value(name, leaf, new_velocities[name])
        return new_velocities, values

    def _gradient(self, name: str, leaf: Tensor, gradient: Tensor) -> Tensor:
        if name == "images" and self.clip_gradient is not None:
            # In double precision: the squares of a long gradient would overflow float32.
            norm = torch.linalg.vector_norm(gradient, dtype=torch.float64)
            scale = torch.clamp_max(self.clip_gradient / norm, 1.0)
            return gradient * scale.to(gradient.dtype)
        if name == "lr" and self.lr_form == "log":
            return leaf * gradient
        return gradient

    def _value(self, name: str, leaf: Tensor, velocity: Tensor) -> Tensor:
        step = velocity * self.rates.get(name, self.code_rate)
        if name != "lr" or self.lr_form == "plain":
            return leaf - step
        if self.lr_form == "clamped":
            return (leaf - step).clamp_min(self.lr_min)
        return leaf * torch.exp(-step)
