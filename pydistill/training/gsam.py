"""GSAM: the gradient of training that seeks flat minima, from two passes on the same batch."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from pydistill._util.settings import Settings, setting
from pydistill.training.gradients import GradientBackend

_EPS = 1e-12


@dataclass(frozen=True)
class SharpnessSettings(Settings):
    """Sharpness-aware training by GSAM; the defaults are those of FTD's and DATM's experts."""

    rho: float = setting(0.01, "ρ, length of the perturbation of the parameters; 0 for plain SGD", at_least=0)
    alpha: float = setting(
        0.3, "α, how much of the gradient's part orthogonal to the perturbed one is subtracted; 0 for ASAM", at_least=0
    )
    adaptive: bool = setting(True, "perturb every parameter in proportion to its square (ASAM), or all alike (SAM)")


class GsamGradients:
    """Gradients of GSAM, for any backend; SGD along them is the training of FTD's and DATM's experts.

        g  = ∇L(θ)
        e  = ρ θ∘θ∘g / (‖|θ|∘g‖ + ε)      adaptive, as in ASAM;      ρ g / (‖g‖ + ε)   otherwise, as in SAM
        g′ = ∇L(θ + e)                     on the same batch, augmented alike
        v  = g − c ‖g‖ g′ / (‖g′‖ + ε),    c = ⟨g, g′⟩ / (‖g‖ ‖g′‖ + ε)
        g′ − α v                           is the gradient of the step

    Norms and products are over all parameters together, Euclidean; ε = 10⁻¹². v is the part of g orthogonal to g′, so
    the step lowers the perturbed loss and, by α, its gap to the loss. Loss and logits are those at θ. Running
    statistics of batch norm are those of the first pass. A module that draws random numbers draws again in the second.

    Args:
        passes: the backend that computes g and g′.
        model: its network.
        settings: ρ above 0, α and the kind of perturbation.

    Sources: Zhuang et al., "Surrogate gap minimization improves sharpness-aware training", ICLR 2022; Kwon et al.,
    "ASAM", ICML 2021; Foret et al., "Sharpness-aware minimization", ICLR 2021.
    """

    def __init__(self, passes: GradientBackend, model: nn.Module, settings: SharpnessSettings) -> None:
        self._passes, self._model, self._settings = passes, model, settings
        self.parameters = passes.parameters

    def gradient(self, images: Tensor, labels: Tensor) -> tuple[Tensor, Tensor]:
        """Return the mean loss [] and the logits [B, K] at θ; write g′ − α v to the parameters' `grad`."""
        loss, logits = self._passes.gradient(images.clone(), labels)  # a network may overwrite its input
        first = self._gradients()
        parameters = [parameter.detach().clone() for parameter in self.parameters]
        statistics = [buffer.clone() for buffer in self._model.buffers()]
        self._perturb(first)
        self._passes.gradient(images, labels)
        with torch.no_grad():
            for parameter, value in zip(self.parameters, parameters, strict=True):
                parameter.copy_(value)
            for buffer, value in zip(self._model.buffers(), statistics, strict=True):
                buffer.copy_(value)
            self._subtract_orthogonal_part(first)
        return loss, logits

    def to_model(self) -> None:
        """Copy the parameters to the network."""
        self._passes.to_model()

    def from_model(self) -> None:
        """Copy the parameters from the network."""
        self._passes.from_model()

    def _gradients(self) -> list[Tensor]:
        """Return the gradients of all parameters; zeros for one without."""
        return [torch.zeros_like(theta) if theta.grad is None else theta.grad for theta in self.parameters]

    @torch.no_grad()
    def _perturb(self, gradients: Sequence[Tensor]) -> None:
        """Add e to the parameters."""
        adaptive = self._settings.adaptive
        weighted = [theta.abs() * g if adaptive else g for theta, g in zip(self.parameters, gradients, strict=True)]
        scale = self._settings.rho / (_norm(weighted) + _EPS)
        for theta, direction in zip(self.parameters, weighted, strict=True):
            theta.add_((theta.abs() * direction if adaptive else direction) * scale)

    def _subtract_orthogonal_part(self, first: Sequence[Tensor]) -> None:
        """Replace the gradients g′ by g′ − α v."""
        second = self._gradients()
        norm, norm_of_second = _norm(first), _norm(second)
        product = torch.stack([torch.sum(g * g_prime) for g, g_prime in zip(first, second, strict=True)]).sum()
        cosine = product / (norm * norm_of_second + _EPS)
        projection = cosine * norm / (norm_of_second + _EPS)
        for theta, g, g_prime in zip(self.parameters, first, second, strict=True):
            if theta.grad is not None:
                theta.grad = g_prime - self._settings.alpha * (g - projection * g_prime)


def sharpness_aware(
    passes: GradientBackend, model: nn.Module, settings: SharpnessSettings | None
) -> GradientBackend | GsamGradients:
    """Return the gradients for these settings: those of `passes` themselves without settings or with ρ = 0."""
    return passes if settings is None or settings.rho == 0 else GsamGradients(passes, model, settings)


def _norm(tensors: Sequence[Tensor]) -> Tensor:
    """Return the Euclidean norm of all tensors together."""
    norms = torch.stack([torch.linalg.vector_norm(tensor) for tensor in tensors])
    norm: Tensor = torch.linalg.vector_norm(norms)
    return norm
