"""The label rows at the start, against loops over images and experts."""

from __future__ import annotations

import logging

import pytest
import torch
from torch import Tensor, nn

from pydistill.errors import InputError
from pydistill.synthesis.labels import LabelStart, correct_logits, initial_label_rows, logarithms

CLASSES = torch.arange(3).repeat_interleave(4)
IMAGES = torch.randn(12, 1, 2, 2, generator=torch.Generator().manual_seed(0), dtype=torch.float64)


def experts(count: int) -> list[nn.Module]:
    made = []
    for seed in range(count):
        torch.manual_seed(seed)
        made.append(nn.Sequential(nn.Flatten(), nn.Dropout(0.5), nn.Linear(4, 3)).double())
    return made


def outputs(teachers: list[nn.Module]) -> list[list[list[float]]]:
    """Logits by image and expert, without dropout."""
    rows = []
    for image in IMAGES:
        with torch.no_grad():
            rows.append([teacher[2](image.flatten()[None])[0].tolist() for teacher in teachers])  # type: ignore[index]
    return rows


def slow_correct_logits(teachers: list[nn.Module]) -> tuple[Tensor, int]:
    """The mean logits of the right experts, of all where there are none; and the number of such images."""
    rows, unknown = [], 0
    for label, of_image in zip(CLASSES.tolist(), outputs(teachers), strict=True):
        right = [logits for logits in of_image if logits.index(max(logits)) == label]
        unknown += not right
        used = right or of_image
        rows.append([sum(values) / len(used) for values in zip(*used, strict=True)])
    return torch.tensor(rows, dtype=torch.float64), unknown


@pytest.mark.parametrize("count", [1, 2, 40])
def test_correct_logits(count: int, caplog: pytest.LogCaptureFixture) -> None:
    teachers = experts(count)
    expected, unknown = slow_correct_logits(teachers)
    with caplog.at_level(logging.WARNING, "pydistill"):
        rows = correct_logits(teachers, IMAGES, CLASSES)
    torch.testing.assert_close(rows, expected, rtol=0, atol=1e-12)
    assert (unknown > 0) == (count < 40)
    assert (f"{unknown} of 12 initial images are classified right by no expert" in caplog.text) == (unknown > 0)
    assert all(teacher.training for teacher in teachers)


def test_one_expert_s_logits() -> None:
    rows = initial_label_rows("learned", IMAGES, CLASSES, experts(3), "one_expert")
    assert rows is not None
    assert rows.requires_grad
    expected = torch.tensor([of_image[0] for of_image in outputs(experts(3))], dtype=torch.float64)
    torch.testing.assert_close(rows.detach(), expected, rtol=0, atol=1e-12)


def test_probabilities() -> None:
    teachers = experts(3)
    mean = torch.tensor(outputs(teachers), dtype=torch.float64).softmax(2).mean(1)
    learned, teacher = (initial_label_rows(kind, IMAGES, CLASSES, teachers) for kind in ("learned", "teacher"))  # type: ignore[arg-type]
    assert learned is not None
    assert teacher is not None
    torch.testing.assert_close(teacher, mean, rtol=0, atol=1e-12)
    torch.testing.assert_close(learned.detach().softmax(1), mean, rtol=0, atol=1e-12)
    assert learned.requires_grad
    assert not teacher.requires_grad
    assert initial_label_rows("hard", IMAGES, CLASSES, teachers) is None


def test_logarithms_of_a_probability_of_0_are_finite() -> None:
    rows = torch.tensor([[1.0, 0.0], [0.25, 0.75]])
    assert bool(logarithms(rows).isfinite().all())
    torch.testing.assert_close(logarithms(rows).softmax(1), rows)


@pytest.mark.parametrize("start", ["probabilities", "correct_logits", "one_expert"])
def test_soft_labels_need_an_expert(start: LabelStart) -> None:
    with pytest.raises(InputError, match="at least one expert"):
        initial_label_rows("learned", IMAGES, CLASSES, [], start)
