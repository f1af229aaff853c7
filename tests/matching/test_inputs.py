"""Bad input to `match` gives one clear sentence that names the argument."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

from pydistill.errors import InputError
from pydistill.matching import Batches
from pydistill.nn import ConvNet, flatten
from tests.matching.problems import ALL, IMAGES, LABELS, make_case, run_match

ROWS = torch.eye(3, dtype=torch.float64)[:2]


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"selection": "best"}, "selection"),
        ({"distance": "l3"}, "distance"),
        ({"gradient": "half"}, "gradient"),
        ({"backend": "gpu"}, "backend"),
        ({"batches": [(IMAGES[:, :1], LABELS)]}, "ConvNet"),
        ({"batches": []}, "batches"),
        ({"batches": [IMAGES]}, r"batches\[0\]"),
        ({"batches": [(IMAGES, LABELS[:1])]}, "labels of step 0"),
        ({"batches": [(IMAGES[:0], LABELS[:0])]}, "images of step 0"),
        (
            {"batches": [(IMAGES.float(), LABELS)]},
            "images of step 0",
        ),
        ({"batches": [(IMAGES / 0, LABELS)]}, "images of step 0"),
        ({"batches": [(IMAGES, LABELS + 2)]}, "hard labels"),
        ({"batches": [(IMAGES, LABELS - 1)]}, "hard labels of step 0"),
        ({"batches": [(IMAGES, LABELS.int())]}, "must be int64 class numbers"),
        ({"batches": [(IMAGES, torch.zeros(2, 4, dtype=torch.float64))]}, "label rows"),
        ({"batches": [(IMAGES, LABELS)], "label_logits": True}, "label_logits"),
        ({"lr": torch.ones(3)}, "lr"),
        ({"lr": torch.tensor(1)}, "lr"),
        (
            {"start": torch.zeros(3, dtype=torch.float64)},
            "start",
        ),
        ({"model": nn.Flatten()}, "Flatten"),
        ({"model": "convnet3"}, "model"),
        ({"start": None}, "start"),
        ({"target": [1.0, 2.0]}, "target"),
        ({"start": np.zeros(3)}, "start"),
        ({"target": "nan"}, "target"),
        ({"batches": None}, "batches"),
        ({"batches": IMAGES}, "batches"),
        ({"batches": [(IMAGES.tolist(), LABELS)]}, "images of step 0"),
        ({"batches": [(IMAGES, [0, 1])]}, "labels of step 0"),
        ({"batches": [(IMAGES, None)]}, "labels of step 0"),
        ({"batches": [(IMAGES, -ROWS)]}, "label rows of step 0"),
        ({"batches": [(IMAGES, ROWS / 0)]}, "label rows of step 0"),
        ({"lr": "0.01"}, "lr"),
        ({"lr": None}, "lr"),
        ({"lr": True}, "lr"),
        ({"lr": [0.1, 0.1]}, "lr"),
        ({"lr": float("nan")}, "lr"),
        ({"lr": float("inf")}, "lr"),
        ({"lr": torch.tensor([0.1, float("nan")])}, "lr"),
        ({"label_logits": "no"}, "label_logits"),
    ],
)
@pytest.mark.parametrize("backend", ALL)
def test_message(changes: dict[str, Any], message: str, backend: str) -> None:
    if changes.get("target") == "nan":
        changes = {"target": make_case(steps=2).target * float("nan")}
    with pytest.raises(InputError, match=message):
        run_match(**({"backend": backend} | changes))


def test_a_network_that_fails_without_a_word() -> None:
    class NoCallback(nn.Linear):
        def forward(self, images: torch.Tensor) -> torch.Tensor:
            raise RuntimeError

    model = NoCallback(2, 3).double()
    start = flatten(model)
    with pytest.raises(InputError, match="NoCallback"):
        run_match(model=model, start=start, target=start + 1, batches=[(IMAGES, LABELS)])


@pytest.mark.parametrize("backend", ALL)
def test_start_equal_to_target(backend: str) -> None:
    case = make_case()
    with pytest.raises(InputError, match="start and target"):
        run_match(target=case.start, backend=backend)


@pytest.mark.parametrize("backend", ALL)
def test_start_and_target_of_two_dtypes(backend: str) -> None:
    case = make_case()
    with pytest.raises(InputError, match="must"):
        run_match(target=case.target.float(), backend=backend)


@pytest.mark.parametrize("backend", ALL)
def test_batch_norm_in_training_mode(backend: str) -> None:
    model = ConvNet(2, 3, 8, width=4, depth=2, norm="batch").double()
    with pytest.raises(InputError, match=r"features\.1"):
        run_match(model=model, backend=backend)


@pytest.mark.parametrize("backend", ALL)
def test_labels_in_a_recipe(backend: str) -> None:
    """Only rows that a step trains on count: a label beyond the classes matters where the index names it."""
    case = make_case(steps=2)
    labels = case.labels.clone()
    labels[5] = 7
    index = torch.tensor([[0, 1], [3, 4]])
    assert torch.isfinite(run_match(batches=Batches(case.images, labels, index), backend=backend).loss)
    with pytest.raises(InputError, match="hard labels"):
        run_match(batches=Batches(case.images, labels, index + 1), backend=backend)


def test_a_buffer_that_changes() -> None:
    class Counting(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.linear = nn.Linear(128, 3)
            self.register_buffer("calls", torch.zeros(()))

        def forward(self, images: torch.Tensor) -> torch.Tensor:
            self.calls += 1
            return self.linear(images.flatten(1))

    model = Counting().double()
    total = 128 * 3 + 3
    for backend in ("torch", "autograd"):
        with pytest.raises(InputError, match="'calls'"):
            run_match(
                model=model,
                start=torch.zeros(total, dtype=torch.float64),
                target=torch.ones(total, dtype=torch.float64),
                backend=backend,
            )


def test_a_buffer_that_is_replaced() -> None:
    class Counting(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.linear = nn.Linear(128, 3)
            self.register_buffer("calls", torch.zeros(()))

        def forward(self, images: torch.Tensor) -> torch.Tensor:
            self.calls = self.calls + 1
            return self.linear(images.flatten(1)) * self.calls

    total = 128 * 3 + 3
    start = torch.zeros(total, dtype=torch.float64)
    for backend in ("torch", "autograd"):
        with pytest.raises(InputError, match="'calls'"):
            run_match(model=Counting().double(), start=start, target=start + 1, backend=backend)


@pytest.mark.parametrize("backend", ALL)
@pytest.mark.parametrize(("dtype", "lr"), [(torch.float32, 1e6), (torch.float64, 1e200)])
def test_a_diverging_student_gives_a_loss_that_is_not_finite(dtype: torch.dtype, lr: float, backend: str) -> None:
    case = make_case("mlp-w8", steps=4, lr=lr).to(dtype)
    outcome, gradients = case.run(backend)
    assert not torch.isfinite(outcome.loss)
    assert not torch.isfinite(gradients["images"]).any()


@pytest.mark.parametrize("backend", ALL)
def test_the_nearest_step_of_a_diverging_student_is_one_before_it_diverged(backend: str) -> None:
    outcome, gradients = make_case("mlp-w8", steps=4, lr=1e6, selection="nearest").to(torch.float32).run(backend)
    assert outcome.step == 1
    assert torch.isfinite(outcome.loss)
    assert outcome.distances.isnan().tolist() == [False, False, False, True, True]
    assert torch.isfinite(gradients["images"]).all()
