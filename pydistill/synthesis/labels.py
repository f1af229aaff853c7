"""The rules for labels, and the rows that they start from."""

from __future__ import annotations

import logging
from collections.abc import Iterable
from typing import Literal

import torch
from torch import Tensor, nn

from pydistill.errors import InputError
from pydistill.synthesis.logits import logits

_log = logging.getLogger("pydistill")

Labels = Literal["hard", "teacher", "learned"]
LabelStart = Literal["probabilities", "correct_logits", "one_expert"]


def teacher_probabilities(teachers: Iterable[nn.Module], images: Tensor) -> Tensor:
    """Average softmax(logits) over the teachers, [n, K]: the soft labels that MCT and TESLA offer."""
    probabilities = [logits(teacher, images).softmax(dim=1) for teacher in teachers]
    if not probabilities:
        raise InputError("soft labels need at least one expert as a teacher")
    return torch.stack(probabilities).mean(dim=0)


def correct_logits(teachers: Iterable[nn.Module], images: Tensor, classes: Tensor) -> Tensor:
    """Average the logits of the teachers that classify an image right, [n, K].

        y_i = mean of f_e(x_i) over the teachers e with argmax f_e(x_i) = class_i

    The label of an image that no teacher classifies right is the mean over all of them; a warning counts these images.

    Source: Guo et al., "Towards lossless dataset distillation via difficulty-aligned trajectory matching", ICLR 2024,
    which starts from images that a teacher classifies right (`initialisation: correct`).
    """
    sums: list[Tensor] = []  # over all teachers and over those that are right: of the logits, and of the teachers
    for teacher in teachers:
        rows = logits(teacher, images)
        right = (rows.argmax(dim=1) == classes).to(rows)[:, None]
        terms = [rows, torch.ones_like(right), right * rows, right]
        sums = [one + other for one, other in zip(sums, terms, strict=True)] if sums else terms
    if not sums:
        raise InputError("soft labels need at least one expert as a teacher")
    all_logits, all_teachers, right_logits, right_teachers = sums
    unknown = right_teachers == 0
    if bool(unknown.any()):
        _log.warning(
            "%d of %d initial images are classified right by no expert; their labels start at the mean logits of all "
            "experts (initialisation correct chooses images that an expert classifies right)",
            *(int(unknown.sum()), len(images)),
        )
    return torch.where(unknown, all_logits / all_teachers, right_logits / right_teachers.clamp_min(1))


def initial_label_rows(
    labels: Labels,
    images: Tensor,
    classes: Tensor,
    teachers: Iterable[nn.Module],
    start: LabelStart = "probabilities",
) -> Tensor | None:
    """Return the label rows at the start: probabilities [n, K], logits [n, K] as a leaf, or None for hard labels.

    Learned logits start by one of three rules:

        probabilities   the logarithm of the mean of the teachers' probabilities, so that their softmax equals it
        correct_logits  the mean of the logits of the teachers that classify the image right
        one_expert      the logits of the first teacher, right or wrong

    Raises:
        InputError: soft labels without a teacher.
    """
    if labels == "hard":
        return None
    if labels == "learned" and start == "correct_logits":
        return correct_logits(teachers, images, classes).requires_grad_()
    if labels == "learned" and start == "one_expert":
        first = next(iter(teachers), None)
        if first is None:
            raise InputError("soft labels need at least one expert as a teacher")
        return logits(first, images).requires_grad_()
    rows = teacher_probabilities(teachers, images)
    return rows if labels == "teacher" else logarithms(rows).requires_grad_()


def logarithms(probabilities: Tensor) -> Tensor:
    """Return logits whose softmax equals the probabilities, up to rounding."""
    return probabilities.clamp_min(torch.finfo(probabilities.dtype).tiny).log()
