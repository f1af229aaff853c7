"""The rules for labels, and the rows that they start from."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Literal

import torch
from torch import Tensor, nn

from pydistill.errors import InputError

Labels = Literal["hard", "teacher", "learned"]


def teacher_probabilities(teachers: Iterable[nn.Module], images: Tensor) -> Tensor:
    """Average softmax(logits) over the teachers, [n, K]: the soft labels that MCT and TESLA offer."""
    with torch.no_grad():
        probabilities = [teacher(images).softmax(dim=1) for teacher in teachers]
    if not probabilities:
        raise InputError("soft labels need at least one expert as a teacher")
    return torch.stack(probabilities).mean(dim=0)


def initial_label_rows(labels: Labels, images: Tensor, teachers: Iterable[nn.Module]) -> Tensor | None:
    """Return the label rows at the start: probabilities [n, K], logits [n, K] as a leaf, or None for hard labels.

    Learned logits start at the logarithm of the teachers' probabilities, so their softmax equals these.

    Raises:
        InputError: soft labels without a teacher.
    """
    if labels == "hard":
        return None
    rows = teacher_probabilities(teachers, images)
    if labels == "teacher":
        return rows
    return rows.clamp_min(torch.finfo(rows.dtype).tiny).log().requires_grad_()
