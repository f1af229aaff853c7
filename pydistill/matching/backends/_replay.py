"""Replay the random numbers of a student's steps."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch import Tensor


class RandomReplay:
    """Makes a module that draws random numbers (dropout) draw the same ones in both sweeps.

    Stores the states of PyTorch's global generators (the device's, and the CPU's, which modules on a GPU may use too)
    before and after every step.
    """

    def __init__(self, device: torch.device) -> None:
        self._device = device
        self._states: list[tuple[Tensor, ...]] = []

    def store(self) -> None:
        """Store the generators' states: before the first step, and after every step."""
        on_device = (torch.cuda.get_rng_state(self._device),) if self._device.type == "cuda" else ()
        self._states.append((torch.get_rng_state(), *on_device))

    @contextmanager
    def replaying(self, step: int) -> Iterator[None]:
        """Run the body with the generators in the state that step k saw, then restore them."""
        before, after = self._states[step], self._states[step + 1]
        if all(map(torch.equal, before, after)):  # the step drew nothing
            yield
            return
        with torch.random.fork_rng([self._device] if self._device.type == "cuda" else []):
            torch.set_rng_state(before[0])
            if self._device.type == "cuda":
                torch.cuda.set_rng_state(before[1], self._device)
            yield
