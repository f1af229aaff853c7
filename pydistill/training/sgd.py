"""The optimiser of experts and evaluations: PyTorch's SGD by its functional form.

`torch.optim.SGD` loads PyTorch's compiler (`torch._dynamo`, some 900 modules, about two seconds) when it is first made;
`torch.optim.sgd.sgd`, the arithmetic behind it, does not.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import Tensor, nn
from torch.optim.sgd import sgd

WORTH_ALL_THREADS = 2**17  # numbers


def _takes_fused(parameters: Sequence[Tensor]) -> bool:
    """Whether PyTorch's fused kernel takes them, and is worth it: on a CPU it starts every thread for any size.

    On a busy machine threads wait for each other for longer than a small network's step takes. The two ways may differ
    in a number's last bit; which is taken depends on the sizes alone.
    """
    kinds = {each.device.type for each in parameters}
    small = kinds == {"cpu"} and sum(each.numel() for each in parameters) < WORTH_ALL_THREADS
    return kinds <= {"cpu", "cuda"} and all(each.is_floating_point() for each in parameters) and not small


class Sgd:
    """SGD with momentum, in place, as `torch.optim.SGD`:

        g ← ∂L/∂θ + λ θ,    v ← μ v + g,    θ ← θ − α v

    Args:
        parameters: θ, on one device; one without a gradient is left alone.
        momentum: μ.
        weight_decay: λ.
        lr_in_memory: α is a number in the device's memory, so that a step captured as a CUDA graph follows `set_lr`;
            for parameters in float32 only, as which PyTorch's kernel for GPUs reads it.

    Raises:
        ValueError: `lr_in_memory`, and the parameters are of another dtype.
    """

    def __init__(
        self, parameters: Sequence[nn.Parameter], momentum: float, weight_decay: float, *, lr_in_memory: bool = False
    ) -> None:
        self._parameters = list(parameters)
        self._momentum, self._weight_decay = momentum, self._within_numbers(weight_decay)
        # From zero the first step gives v = g, as PyTorch's first does (but for the sign of a zero).
        self._velocities = [torch.zeros_like(each) for each in self._parameters] if momentum else []
        self._fused = _takes_fused(self._parameters)
        self._lr: float | Tensor = 0.0
        if lr_in_memory:
            if any(each.dtype != torch.float32 for each in self._parameters):
                raise ValueError("a learning rate in memory needs parameters in float32; use lr_in_memory=False")
            self._lr = torch.zeros((), device=self._parameters[0].device)

    def set_lr(self, lr: float) -> None:
        """Let α be `lr` from the next step on."""
        lr = self._within_numbers(lr)
        if isinstance(self._lr, Tensor):
            self._lr.fill_(lr)
        else:
            self._lr = lr

    def _within_numbers(self, value: float) -> float:
        """Infinity for what is beyond the parameters' numbers and refused by PyTorch: training diverges so."""
        return value if all(value <= torch.finfo(each.dtype).max for each in self._parameters) else math.inf

    @torch.no_grad()
    def step(self) -> None:
        """Move the parameters that have a gradient."""
        moved = [number for number, each in enumerate(self._parameters) if each.grad is not None]
        parameters: list[Tensor] = [self._parameters[number] for number in moved]
        velocities: list[Tensor | None] = [self._velocities[number] if self._momentum else None for number in moved]
        sgd(
            parameters,
            [each.grad for each in parameters if each.grad is not None],
            velocities,
            fused=self._fused,
            momentum=self._momentum,
            weight_decay=self._weight_decay,
            lr=self._lr,
            dampening=0.0,
            nesterov=False,
            maximize=False,
        )
