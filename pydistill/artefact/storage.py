"""The size of a distilled set as it is stored, by which sets are compared."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

from torch import Tensor

from pydistill._util.format import size


@dataclass(frozen=True)
class Storage:
    """The size of a set's images as they are stored, or of the codes and constants that they are decoded from.

    Attributes:
        numbers: how many numbers.
        bytes: how many bytes they take.
        label_numbers, label_bytes: the same of the labels, which are counted apart.
    """

    numbers: int
    bytes: int
    label_numbers: int
    label_bytes: int

    @classmethod
    def of(cls, stored: Iterable[Tensor], labels: Tensor) -> Storage:
        """Count the numbers and the bytes of tensors."""
        tensors = list(stored)
        return cls(
            sum(tensor.numel() for tensor in tensors),
            sum(tensor.numel() * tensor.element_size() for tensor in tensors),
            labels.numel(),
            labels.numel() * labels.element_size(),
        )

    def __str__(self) -> str:
        """Return the size of the images in words: "640 numbers, 2.5 KB"."""
        return f"{self.numbers:,} numbers, {size(self.bytes)}"
