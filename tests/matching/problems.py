"""Small matching problems in fp64 and what is compared between backends."""

from __future__ import annotations

from collections.abc import Collection
from copy import deepcopy
from dataclasses import dataclass, field, replace
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from pydistill.data.dsa import DsaSettings
from pydistill.matching import Batches, Match, match
from pydistill.nn import build, parse
from pydistill.nn.flat import flatten
from pydistill.ops.build_info import build_config

needs_engine = pytest.mark.skipif(
    not build_config()["compiled"], reason=f"backend 'fused' is compiled: {build_config()['reason']}"
)
FUSED = pytest.param("fused", marks=needs_engine)
SWEEPS = ["torch", FUSED]
ALL = [*SWEEPS, "autograd"]
LEAVES = ("images", "labels", "lr", "start", "target")
IMAGES = torch.zeros(2, 2, 8, 8, dtype=torch.float64)
LABELS = torch.tensor([0, 1])


@dataclass
class Case:
    """One problem; `run` copies its leaves, so that the gradients of two backends never mix."""

    model: nn.Module
    start: Tensor
    target: Tensor
    images: Tensor
    labels: Tensor
    lr: Tensor
    index: Tensor
    draws: Any = None
    options: dict[str, Any] = field(default_factory=dict)

    def run(
        self, backend: str, *, recipe: bool = True, wanted: Collection[str] = LEAVES
    ) -> tuple[Match, dict[str, Tensor]]:
        """Run `match`; return its result and the gradients of the requested leaves (hard labels have none)."""
        leaves = {name: getattr(self, name).clone() for name in LEAVES}
        for name, leaf in leaves.items():
            leaf.requires_grad_(name in wanted and leaf.is_floating_point())
        batches: Any = Batches(leaves["images"], leaves["labels"], self.index, self.draws)
        if not recipe:
            batches = [batches[k] for k in range(len(batches))]
        torch.manual_seed(5)  # for modules that draw random numbers
        outcome = match(
            self.model,
            leaves["start"],
            leaves["target"],
            batches,
            leaves["lr"],
            backend=backend,
            **self.options,
        )
        leaves = {name: leaf for name, leaf in leaves.items() if leaf.requires_grad}
        gradients = torch.autograd.grad(outcome.loss, list(leaves.values()))
        return outcome, dict(zip(leaves, gradients, strict=True))

    def to(self, dtype: torch.dtype) -> Case:
        """Return the problem in another dtype."""
        values = {name: getattr(self, name) for name in LEAVES}
        values = {name: value.to(dtype) if value.is_floating_point() else value for name, value in values.items()}
        return replace(self, model=deepcopy(self.model).to(dtype), **values)


def make_case(
    network: str = "convnet2-w4",
    *,
    steps: int = 3,
    labels: str = "hard",
    per_step_lr: bool = False,
    dsa: DsaSettings | None = None,
    size: int = 8,
    count: int = 6,
    batch: int = 4,
    lr: float = 0.05,
    model: nn.Module | None = None,
    distance_to_target: float = 0.02,
    **options: Any,
) -> Case:
    generator = torch.Generator().manual_seed(7)

    def normal(*shape: int) -> Tensor:
        return torch.randn(*shape, generator=generator, dtype=torch.float64)

    model = (build(parse(network), 2, 3, size, seed=3) if model is None else model).double()
    start = flatten(model)
    target = start + distance_to_target * normal(*start.shape)
    images = normal(count, 2, size, size)
    rows: Tensor = torch.arange(count) % 3
    if labels == "soft":
        rows = normal(count, 3).softmax(dim=1) * torch.rand(count, 1, generator=generator, dtype=torch.float64).add(0.5)
    elif labels == "logits":
        rows = normal(count, 3)
        options["label_logits"] = True
    rate = torch.full((steps,) if per_step_lr else (), lr, dtype=torch.float64)
    if per_step_lr:
        rate = rate * torch.linspace(0.5, 1.5, steps, dtype=torch.float64)
    recipe = Batches.draw(images, rows, steps=steps, batch_size=batch, generator=generator, dsa=dsa)
    return Case(model, start, target, images, rows, rate, recipe.index, recipe.draws, options)


def run_match(**changes: Any) -> Match:
    """Match a case of two steps, with some arguments changed."""
    case = make_case(steps=2)
    arguments: dict[str, Any] = {
        "model": case.model,
        "start": case.start,
        "target": case.target,
        "batches": Batches(case.images, case.labels, case.index),
        "lr": 0.1,
    } | changes
    return match(**arguments)


def relative_error(actual: Tensor, expected: Tensor) -> float:
    """‖actual − expected‖ / ‖expected‖; where the expected value is zero, the norm of the actual value."""
    norm = float(expected.norm())
    return float((actual - expected).norm()) / (norm or 1.0)


def assert_same(
    actual: tuple[Match, dict[str, Tensor]], expected: tuple[Match, dict[str, Tensor]], bound: float
) -> None:
    assert actual[0].step == expected[0].step
    assert relative_error(actual[0].loss.detach(), expected[0].loss.detach()) <= bound
    assert relative_error(actual[0].distances, expected[0].distances) <= bound
    assert actual[1].keys() == expected[1].keys()
    for name, gradient in expected[1].items():
        assert gradient.norm() > 0, f"the oracle's gradient to {name} is zero, so nothing is compared"
        assert relative_error(actual[1][name], gradient) <= bound, name


def same_bits(one: tuple[Match, dict[str, Tensor]], other: tuple[Match, dict[str, Tensor]]) -> bool:
    """Return whether loss, distances and gradients are equal bit for bit."""
    equal = torch.equal(one[0].loss, other[0].loss) and torch.equal(one[0].distances, other[0].distances)
    return equal and all(torch.equal(value, other[1][name]) for name, value in one[1].items())
