"""Copies of everything that an update changes, in memory and in a checkpoint."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from torch import Tensor

from pydistill.errors import MismatchError
from pydistill.synthesis.averaging import CodeAverage


@dataclass(frozen=True)
class Snapshot:
    """Everything that an update changes, after an iteration.

    Attributes:
        iteration: 0 before the first one.
        leaves: the learned tensors.
        moments: those of the optimiser.
        average: the average of the codes and its number of updates, or None.
    """

    iteration: int
    leaves: dict[str, Tensor]
    moments: dict[str, Tensor]
    average: tuple[dict[str, Tensor], int] | None

    @classmethod
    def of(
        cls, iteration: int, leaves: Mapping[str, Tensor], moments: Mapping[str, Tensor], average: CodeAverage | None
    ) -> Snapshot:
        """Copy the tensors."""
        averaged = None if average is None else (copied(average.codes), average.updates)
        return cls(iteration, copied(leaves), copied(moments), averaged)

    def state(self, prefix: str) -> tuple[dict[str, Any], dict[str, Tensor]]:
        """Return the counts, JSON-able, and the tensors, whose names begin with `prefix`."""
        counts: dict[str, Any] = {"iteration": self.iteration}
        tensors = {f"{prefix}{name}": leaf for name, leaf in self.leaves.items()}
        tensors |= {f"{prefix}moment.{name}": moment for name, moment in self.moments.items()}
        if self.average is not None:
            codes, counts["average_updates"] = self.average
            tensors |= {f"{prefix}average.{name}": code for name, code in codes.items()}
        return counts, tensors

    def loaded(self, prefix: str, counts: Mapping[str, Any], tensors: Mapping[str, Tensor]) -> Snapshot:
        """Return the snapshot of another state, on the devices of this one.

        Raises:
            MismatchError: a tensor has another shape than this snapshot's.
            KeyError: the state lacks a part.
        """
        average = None
        if self.average is not None:
            average = loaded(f"{prefix}average.", tensors, self.average[0]), int(counts["average_updates"])
        return Snapshot(
            int(counts["iteration"]),
            loaded(prefix, tensors, self.leaves),
            loaded(f"{prefix}moment.", tensors, self.moments),
            average,
        )


def copied(tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Copy tensors, without their graphs."""
    return {name: tensor.detach().clone() for name, tensor in tensors.items()}


def loaded(prefix: str, tensors: Mapping[str, Tensor], like: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Return the tensors of a checkpoint in place of those of `like`, with their dtypes and devices.

    Raises:
        MismatchError: a shape differs.
        KeyError: a tensor is missing.
    """
    result = {}
    for name, expected in like.items():
        tensor = tensors[f"{prefix}{name}"]
        if tensor.shape != expected.shape:
            raise MismatchError(
                f"the checkpoint's {prefix}{name} have shape {list(tensor.shape)}, this run's {list(expected.shape)}"
            )
        result[name] = tensor.to(expected.detach())
    return result
