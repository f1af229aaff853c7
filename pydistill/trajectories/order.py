"""The order in which a distillation visits its experts: shuffled passes over all of them."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch

from pydistill.errors import FormatError, InputError, MismatchError


class ExpertOrder:
    """Shuffled passes over 0 … count − 1, which can be saved and resumed in the middle of a pass."""

    def __init__(self, count: int) -> None:
        """Start before the first pass over `count` experts.

        Raises:
            InputError: count is below 1.
        """
        if count < 1:
            raise InputError(f"count = {count} must be 1 or more: there are no experts to visit")
        self._count = count
        self._order: list[int] = []
        self._position = 0

    def next(self, generator: torch.Generator) -> int:
        """Return the next expert; uses the CPU generator only at the start of a pass."""
        if self._position == len(self._order):
            self._order = torch.randperm(self._count, generator=generator).tolist()
            self._position = 0
        expert = self._order[self._position]
        self._position += 1
        return expert

    def state(self) -> dict[str, Any]:
        """Return the current pass and the position in it, JSON-able."""
        return {"count": self._count, "order": list(self._order), "position": self._position}

    def load_state(self, state: Mapping[str, Any]) -> None:
        """Resume from the point at which `state()` was called.

        Raises:
            FormatError: `state` is not the state of an expert order.
            MismatchError: it belongs to another number of experts.
        """
        count, order, position = state.get("count"), state.get("order"), state.get("position")
        if not isinstance(count, int) or not isinstance(order, list) or not isinstance(position, int):
            raise FormatError("the state of the expert order lacks 'count', 'order' or 'position'")
        if count != self._count:
            raise MismatchError(f"the stored expert order is over {count} experts and this run has {self._count}")
        complete = all(isinstance(expert, int) for expert in order) and sorted(order) in ([], list(range(count)))
        if not complete or not 0 <= position <= len(order):
            raise FormatError(f"the state of the expert order is damaged: it is not a pass over {count} experts")
        self._order, self._position = list(order), position
