"""The outer optimiser: SGD with momentum, or Adam for the codes of the images, of everything that is learned."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor

LrForm = Literal["plain", "clamped", "log"]
OptimiserName = Literal["sgd", "adam"]
_BETAS, _EPSILON = (0.9, 0.999), 1e-8


@dataclass(frozen=True)
class OuterOptimiser:
    """SGD with momentum, with a separate rate for every kind of leaf:

        v ← μ v + g,    x ← x − η v

    The codes of the images are updated by Adam (Kingma, Ba, ICLR 2015) if `codes_by` says so, with the usual constants:

        v ← 0.9 v + 0.1 g,    s ← 0.999 s + 0.001 g²,    x ← x − η v̂ / (√ŝ + 1e-8),    v̂, ŝ = v, s over 1 − βᵗ

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
        clip_gradient: the largest Euclidean norm of the gradient of the codes (for pixels, over all images); a longer
            gradient is scaled down to it. None for no limit.
        codes_by: sgd or adam.
    """

    code_rate: float
    rates: Mapping[str, float]
    momentum: float
    lr_form: LrForm = "plain"
    lr_min: float = 1e-6
    clip_gradient: float | None = None
    momentum_label: float | None = None
    codes_by: OptimiserName = "sgd"

    def initial_moments(self, leaves: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """Return the moments before the first update: v by the leaf's name, and Adam's s and t."""
        moments = {name: torch.zeros_like(leaf) for name, leaf in leaves.items()}
        for name in [name for name in leaves if self._is_by_adam(name)]:
            moments |= {f"{name}.squares": moments[name].clone(), f"{name}.updates": torch.zeros_like(leaves["lr"])}
        return moments

    def __call__(
        self, leaves: Mapping[str, Tensor], moments: Mapping[str, Tensor], gradients: Mapping[str, Tensor]
    ) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
        """Return the moments and the leaves' values after the update, as new tensors; nothing changes in place."""
        new_moments: dict[str, Tensor] = {}
        values: dict[str, Tensor] = {}
        for name, leaf in leaves.items():
            gradient = self._gradient(name, leaf, gradients[name])
            if self._is_by_adam(name):
                of_leaf, values[name] = self._by_adam(name, leaf, moments, gradient)
                new_moments |= of_leaf
                continue
            own = self.momentum_label if name == "label_logits" else None
            momentum = self.momentum if own is None else own
            new_moments[name] = momentum * moments[name] + gradient
            values[name] = self._value(name, leaf, new_moments[name])
        return new_moments, values

    def _is_by_adam(self, name: str) -> bool:
        return self.codes_by == "adam" and name not in self.rates

    def _by_adam(
        self, name: str, leaf: Tensor, moments: Mapping[str, Tensor], gradient: Tensor
    ) -> tuple[dict[str, Tensor], Tensor]:
        """Return the leaf's moments and its value after the update."""
        first, second = _BETAS
        updates = moments[f"{name}.updates"] + 1
        mean = torch.lerp(moments[name], gradient, 1 - first)
        squares = torch.lerp(moments[f"{name}.squares"], gradient.square(), 1 - second)
        root = (squares / (1 - second**updates)).sqrt() + _EPSILON
        value = leaf - self.code_rate / (1 - first**updates) * mean / root
        return {name: mean, f"{name}.squares": squares, f"{name}.updates": updates}, value

    def _gradient(self, name: str, leaf: Tensor, gradient: Tensor) -> Tensor:
        if name not in self.rates and self.clip_gradient is not None:
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
