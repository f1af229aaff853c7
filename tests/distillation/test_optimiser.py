"""The update: SGD with momentum or Adam, three forms of the learning rate, clipped gradients."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch
from torch import Tensor

from pydistill.distillation.optimiser import OuterOptimiser

RATES = {"lr": 0.1}


def run(gradients: list[tuple[float, float]], start: float = 0.5, **settings: Any) -> tuple[Tensor, float]:
    """Images [2, 1, 1, 2] from 1 and α from `start`, after updates with these gradients of every pixel and of α."""
    leaves = {"images": torch.ones(2, 1, 1, 2, dtype=torch.float64), "lr": torch.tensor(start, dtype=torch.float64)}
    velocities = {name: torch.zeros_like(leaf) for name, leaf in leaves.items()}
    rule = OuterOptimiser(2.0, RATES, momentum=0.5, **settings)
    for pixel, rate in gradients:
        arguments = {"images": torch.full_like(leaves["images"], pixel), "lr": torch.full_like(leaves["lr"], rate)}
        velocities, leaves = rule(leaves, velocities, arguments)
    return leaves["images"], float(leaves["lr"])


def test_plain_is_sgd_with_momentum() -> None:
    images, lr = run([(1.0, 2.0), (3.0, -1.0)])
    assert images.unique().tolist() == [1 - 2.0 * 1.0 - 2.0 * (0.5 * 1.0 + 3.0)]
    assert lr == pytest.approx(0.5 - 0.1 * 2.0 - 0.1 * (0.5 * 2.0 - 1.0))
    assert run([(0.0, 20.0)])[1] < 0


def test_clamped_stops_at_the_least() -> None:
    assert run([(0.0, 20.0)], lr_form="clamped", lr_min=0.01)[1] == 0.01
    assert run([(0.0, 2.0)], lr_form="clamped", lr_min=0.01)[1] == run([(0.0, 2.0)])[1]


def test_log_moves_the_logarithm_down_its_own_gradient() -> None:
    """Against an optimiser of PyTorch's on a with α = e^a, on ℓ(α) = 3 α²."""
    a = torch.tensor(math.log(0.5), dtype=torch.float64, requires_grad=True)
    optimiser = torch.optim.SGD([a], lr=0.1, momentum=0.5)
    rule = OuterOptimiser(2.0, RATES, momentum=0.5, lr_form="log")
    leaves = {"images": torch.zeros(1), "lr": torch.tensor(0.5, dtype=torch.float64)}
    velocities = {name: torch.zeros_like(leaf) for name, leaf in leaves.items()}
    for _ in range(5):
        optimiser.zero_grad()
        (3 * a.exp() ** 2).backward()
        optimiser.step()
        velocities, leaves = rule(leaves, velocities, {"images": torch.zeros(1), "lr": 6 * leaves["lr"]})
        assert float(leaves["lr"]) == pytest.approx(math.exp(float(a.detach())), rel=1e-12)
    assert run([(0.0, 1e4)], lr_form="log")[1] > 0


def test_log_at_a_rate_over_the_square_takes_plain_s_step() -> None:
    """To first order, as the docstring says."""
    start, gradient = 0.01, 1e-3
    plain = run([(0.0, gradient)], start)[1] - start
    rule = OuterOptimiser(0.0, {"lr": 0.1 / start**2}, momentum=0.5, lr_form="log")
    leaves = {"images": torch.zeros(1), "lr": torch.tensor(start, dtype=torch.float64)}
    zero = {name: torch.zeros_like(leaf) for name, leaf in leaves.items()}
    _, values = rule(leaves, zero, zero | {"lr": torch.tensor(gradient, dtype=torch.float64)})
    assert float(values["lr"]) - start == pytest.approx(plain, rel=0.01)


@pytest.mark.parametrize(("pixel", "applied"), [(1.0, 1.0), (0.5, 0.5), (8.0, 1.0), (-8.0, -1.0)])
def test_a_long_gradient_of_the_pixels_is_shortened(pixel: float, applied: float) -> None:
    """The norm of four equal pixels is twice one; the learning rate's gradient is left alone."""
    images, lr = run([(pixel, 20.0)], clip_gradient=2.0)
    assert images.unique().item() == pytest.approx(1 - 2.0 * applied)
    assert lr == run([(0.0, 20.0)])[1]


def test_a_gradient_whose_square_leaves_float32_is_shortened() -> None:
    rule = OuterOptimiser(2.0, RATES, momentum=0.5, clip_gradient=2.0)
    zero = {"images": torch.zeros(4), "lr": torch.tensor(1.0)}
    _, values = rule(zero, zero, {"images": torch.full((4,), 1e30), "lr": torch.tensor(0.0)})
    torch.testing.assert_close(values["images"], torch.full((4,), -2.0))


def test_clipping_does_not_hide_what_is_not_finite() -> None:
    assert not bool(run([(math.inf, 0.0)], clip_gradient=2.0)[0].isfinite().any())


def test_a_gradient_of_zeros_is_left_alone() -> None:
    assert run([(0.0, 0.0)], clip_gradient=2.0)[0].unique().tolist() == [1.0]


def test_adam_is_that_of_pytorch_for_codes_alone() -> None:
    torch.manual_seed(0)
    rule = OuterOptimiser(0.03, RATES, momentum=0.5, codes_by="adam")
    code = torch.randn(4, 3, dtype=torch.float64)
    theirs = code.clone().requires_grad_()
    adam = torch.optim.Adam([theirs], lr=0.03)
    leaves = {"weights": code, "lr": torch.tensor(0.5, dtype=torch.float64)}
    moments = rule.initial_moments(leaves)
    assert sorted(moments) == ["lr", "weights", "weights.squares", "weights.updates"]
    for number in range(6):
        gradient = torch.randn(4, 3, dtype=torch.float64) * 10.0**-number
        theirs.grad = gradient.clone()
        adam.step()
        moments, leaves = rule(leaves, moments, {"weights": gradient, "lr": torch.ones((), dtype=torch.float64)})
        torch.testing.assert_close(leaves["weights"], theirs.detach(), rtol=1e-12, atol=1e-12)
    plain = run([(0.0, 1.0)] * 6)[1]
    assert float(leaves["lr"]) == plain
