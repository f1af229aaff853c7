"""Bad input to `match` gives one clear sentence that names the argument."""

from __future__ import annotations

import logging
from typing import Any

import pytest
import torch
from torch import nn

from pydistill.errors import BackendError, InputError
from pydistill.matching import Batches, match
from pydistill.matching import match as match_function
from pydistill.nn import ConvNet
from tests.matching.problems import make_case


def run(**changes: Any) -> Any:
    case = make_case(steps=2)
    arguments: dict[str, Any] = {
        "model": case.model,
        "start": case.start,
        "target": case.target,
        "batches": Batches(case.images, case.labels, case.index),
        "lr": 0.1,
    } | changes
    return match_function(**arguments)


IMAGES = torch.zeros(2, 2, 8, 8, dtype=torch.float64)
LABELS = torch.tensor([0, 1])


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"selection": "best"}, "selection must be one of 'last', 'nearest', not 'best'"),
        ({"distance": "l3"}, "distance must be one of 'l1', 'l2', not 'l3'"),
        ({"gradient": "half"}, "gradient must be one of 'exact', 'truncated', not 'half'"),
        ({"backend": "gpu"}, "backend must be one of 'auto', 'fused', 'torch', 'autograd', not 'gpu'"),
        ({"batches": [(IMAGES[:, :1], LABELS)]}, r"ConvNet cannot run on images of shape \[2, 1, 8, 8\]"),
        ({"batches": []}, "batches is empty; the student needs at least one step"),
        ({"batches": [IMAGES]}, r"batches\[0\] must be a pair"),
        ({"batches": [(IMAGES, LABELS[:1])]}, "labels of step 0 must be"),
        ({"batches": [(IMAGES[:0], LABELS[:0])]}, "images of step 0 must have shape .* with B ≥ 1"),
        (
            {"batches": [(IMAGES.float(), LABELS)]},
            "images of step 0 .* must have the dtype and device of start",
        ),
        ({"batches": [(IMAGES / 0, LABELS)]}, "images of step 0 hold pixels that are not finite"),
        ({"batches": [(IMAGES, LABELS + 2)]}, r"hard labels must lie in \[0, 2\] for 3 classes, found 3"),
        ({"batches": [(IMAGES, LABELS - 1)]}, "hard labels of step 0 must be at least 0, found -1"),
        ({"batches": [(IMAGES, LABELS.int())]}, "must be int64 class numbers"),
        ({"batches": [(IMAGES, torch.zeros(2, 4, dtype=torch.float64))]}, "label rows have 4 classes"),
        ({"batches": [(IMAGES, LABELS)], "label_logits": True}, "label_logits needs floating label rows"),
        ({"lr": torch.ones(3)}, r"lr must be a scalar or have one value per step \[2\]"),
        ({"lr": torch.tensor(1)}, "lr must be a floating tensor"),
        (
            {"start": torch.zeros(3, dtype=torch.float64)},
            r"start must be the network's \d+ parameters as one vector",
        ),
        ({"model": nn.Flatten()}, "Flatten has no parameters to train"),
    ],
)
def test_message(changes: dict[str, Any], message: str) -> None:
    with pytest.raises(InputError, match=message):
        run(**changes)


def test_start_equal_to_target() -> None:
    case = make_case()
    with pytest.raises(InputError, match="start and target are the same point"):
        run(target=case.start)


def test_start_and_target_of_two_dtypes() -> None:
    case = make_case()
    with pytest.raises(InputError, match="must have the same dtype and device"):
        run(target=case.target.float())


def test_batch_norm_in_training_mode() -> None:
    model = ConvNet(2, 3, 8, width=4, depth=2, norm="batch").double()
    with pytest.raises(InputError, match=r"module 'features.1' is a batch norm in training mode .* model.eval\(\)"):
        run(model=model)


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
        with pytest.raises(InputError, match="buffer 'calls' of Counting changed"):
            run(
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
        with pytest.raises(InputError, match="buffer 'calls' of Counting changed"):
            run(model=Counting().double(), start=start, target=start + 1, backend=backend)


def test_fused_by_name_says_which_backend_can() -> None:
    with pytest.raises(BackendError, match="backend 'torch' computes the same gradient"):
        run(backend="fused")


def test_auto_says_once_what_runs_and_why(caplog: pytest.LogCaptureFixture) -> None:
    class OnlyHere(ConvNet):
        pass

    model = OnlyHere(2, 3, 8, width=4, depth=2).double()
    with caplog.at_level(logging.INFO, logger="pydistill"):
        first = run(model=model)
        run(model=model)
    said = [record.message for record in caplog.records if "OnlyHere" in record.message]
    assert first.backend == "torch"
    assert len(said) == 1
    assert "sweep in PyTorch runs any module in the memory of one step" in said[0]


def test_a_diverging_student_gives_a_loss_that_is_not_finite() -> None:
    case = make_case(steps=2)
    outcome = match(case.model, case.start, case.target, Batches(case.images, case.labels, case.index), 1e200)
    assert not torch.isfinite(outcome.loss)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"index": torch.tensor([[0, 6]])}, r"index must lie in \[0, 5\] for 6 images, found \[0, 6\]"),
        ({"index": torch.tensor([0, 1])}, r"index must be an int64 table \[N, B\]"),
        ({"labels": torch.tensor([0])}, "images and labels must agree in number"),
        ({"draws": ()}, "draws must hold one draw for each of 3 steps, not 0"),
    ],
)
def test_recipe_message(arguments: dict[str, Any], message: str) -> None:
    case = make_case()
    given = {"images": case.images, "labels": case.labels, "index": case.index, "draws": None} | arguments
    with pytest.raises(InputError, match=message):
        Batches(**given)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"steps": 0}, "steps must be at least 1, not 0"),
        ({"batch_size": 0}, "batch_size must be at least 1, not 0"),
    ],
)
def test_drawing_a_recipe(arguments: dict[str, int], message: str) -> None:
    case = make_case()
    given = {"steps": 2, "batch_size": 3} | arguments
    with pytest.raises(InputError, match=message):
        Batches.draw(case.images, case.labels, generator=torch.Generator(), **given)


def test_a_drawn_recipe_visits_every_image_equally_often() -> None:
    case = make_case()
    recipe = Batches.draw(case.images, case.labels, steps=9, batch_size=4, generator=torch.Generator())
    counts = torch.bincount(recipe.index.flatten(), minlength=6)
    assert recipe.index.shape == (9, 4)
    assert counts.tolist() == [6] * 6
