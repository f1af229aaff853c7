"""The optimiser of experts and evaluations: PyTorch's SGD by its functional form.

The first `torch.optim.SGD` object loads PyTorch's compiler (`torch._dynamo`, some 900 modules, about two seconds).
`torch.optim.sgd.sgd`, the same arithmetic, does not.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import Tensor, nn
from torch.optim.sgd import sgd

WORTH_ALL_THREADS = 2**17  # numbers


def _takes_fused(parameters: Sequence[Tensor]) -> bool:
    """Return True if PyTorch's fused kernel can and should update these: on a CPU it starts every thread for any size.

    On a busy machine, waiting for those threads takes longer than a small network's step. The two kernels may differ in
    the last bit; the choice depends on the sizes alone.
    """
    device_types = {parameter.device.type for parameter in parameters}
    small = device_types == {"cpu"} and sum(parameter.numel() for parameter in parameters) < WORTH_ALL_THREADS
    floating = all(parameter.is_floating_point() for parameter in parameters)
    return device_types <= {"cpu", "cuda"} and floating and not small


class Sgd:
    """SGD with momentum, in place, as `torch.optim.SGD`:

        g ← ∂L/∂θ + λ θ,    v ← μ v + g,    θ ← θ − α v

    Args:
        parameters: θ, on one device; one without a gradient is not changed.
        momentum: μ.
        weight_decay: λ.
        lr_in_memory: store α in device memory, so that a step captured as a CUDA graph follows `set_lr`; for float32
            parameters only, since PyTorch's GPU kernel reads it in float32.

    Raises:
        ValueError: `lr_in_memory` with parameters of another dtype.
    """

    def __init__(
        self, parameters: Sequence[nn.Parameter], momentum: float, weight_decay: float, *, lr_in_memory: bool = False
    ) -> None:
        self._parameters = list(parameters)
        self._momentum, self._weight_decay = momentum, self._within_numbers(weight_decay)
        # From zero the first step gives v = g, as PyTorch's first does (but for the sign of a zero).
        self._velocities = [torch.zeros_like(parameter) for parameter in self._parameters] if momentum else []
        self._fused = _takes_fused(self._parameters)
        self._lr: float | Tensor = 0.0
        if lr_in_memory:
            if any(parameter.dtype != torch.float32 for parameter in self._parameters):
                raise ValueError("a learning rate in memory needs float32 parameters; use lr_in_memory=False")
            self._lr = torch.zeros((), device=self._parameters[0].device)

    def set_lr(self, lr: float) -> None:
        """Set α from the next step on."""
        lr = self._within_numbers(lr)
        if isinstance(self._lr, Tensor):
            self._lr.fill_(lr)
        else:
            self._lr = lr

    def _within_numbers(self, value: float) -> float:
        """Replace a value beyond the parameters' dtype by infinity: PyTorch refuses it, and training diverges."""
        return value if all(value <= torch.finfo(theta.dtype).max for theta in self._parameters) else math.inf

    @torch.no_grad()
    def step(self) -> None:
        """Update the parameters that have a gradient."""
        moved = [number for number, parameter in enumerate(self._parameters) if parameter.grad is not None]
        parameters: list[Tensor] = [self._parameters[number] for number in moved]
        velocities: list[Tensor | None] = [self._velocities[number] if self._momentum else None for number in moved]
        sgd(
            parameters,
            [parameter.grad for parameter in parameters if parameter.grad is not None],
            velocities,
            fused=self._fused,
            momentum=self._momentum,
            weight_decay=self._weight_decay,
            lr=self._lr,
            dampening=0.0,
            nesterov=False,
            maximize=False,
        )
