"""Backend `fused` against the whole graph in fp64: any network that it runs, any batches, and what it keeps between
calls."""

from __future__ import annotations

import copy
import math
from typing import Any

import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from torch import Tensor

from pydistill.data.dsa import DsaSettings
from pydistill.errors import BackendError, InputError
from pydistill.matching import Batches, match
from pydistill.nn import MLP, ConvNet, flatten
from tests.matching.architectures import networks
from tests.matching.engine import Network
from tests.matching.problems import FUSED, Case, assert_same, make_case, needs_engine, relative_error

pytestmark = needs_engine

BOUND = 1e-9
LAST_BITS = 10  # at most 4.1 in 3,100 problems of the strategies below
DRAWS = 8
GRADIENTS = st.sampled_from(["exact", "exact", "truncated"])
SELECTIONS = st.sampled_from(["last", "nearest"])


def random_case(
    model: Network,
    count: int,
    batch: int,
    steps: int,
    labels: str,
    per_step_lr: bool,
    dsa: DsaSettings | None,
    seed: int,
    **options: Any,
) -> Case:
    generator = torch.Generator().manual_seed(seed)

    def normal(*shape: int) -> Tensor:
        return torch.randn(*shape, generator=generator, dtype=torch.float64)

    start = flatten(model)
    start = start + 0.1 * normal(*start.shape)
    rows: Tensor = torch.randint(model.num_classes, (count,), generator=generator)
    if labels != "hard":
        rows = normal(count, model.num_classes)
        rows = rows if labels == "logits" else rows.softmax(1) * 1.5
    lr = 0.02 * (1 + torch.rand((steps,) if per_step_lr else (), generator=generator, dtype=torch.float64))
    index = torch.randint(count, (steps, batch), generator=generator)
    draws = None if dsa is None else [dsa.draw(batch, *model.image_size, generator) for _ in range(steps)]
    options["label_logits"] = labels == "logits"
    images = normal(count, model.in_channels, *model.image_size)
    return Case(model, start, start + 0.02 * normal(*start.shape), images, rows, lr, index, draws, options)


def compare(case: Case, recipe: bool) -> None:
    """As assert_same, with two exceptions. Where one class only, or a dead network, has no gradient, the bound is one
    rounding. Where the full graph's own numbers depend on the last bit of the pixels (an instance norm of three nearly
    equal numbers amplifies roundings up to a millionfold), the bound is LAST_BITS times what that bit changes."""
    actual, expected = outcome(case, "fused", recipe), outcome(case, "autograd", recipe)
    assert actual.pop("step").equal(expected.pop("step"))
    changed: dict[str, float] = {}
    for name, value in expected.items():
        error = float((actual[name] - value).norm())
        floor = 0 if name in ("loss", "distances") else 1e-13
        if error > BOUND * float(value.norm()) + floor:
            changed = changed or changes_by_last_bits(case, recipe, expected)
            assert error <= LAST_BITS * changed[name], name


def outcome(case: Case, backend: str, recipe: bool) -> dict[str, Tensor]:
    """Chosen step, loss, distances and gradients by name."""
    match, gradients = case.run(backend, recipe=recipe)
    return {"step": torch.tensor(match.step), "loss": match.loss.detach(), "distances": match.distances, **gradients}


def changes_by_last_bits(case: Case, recipe: bool, expected: dict[str, Tensor]) -> dict[str, float]:
    """The root mean square change of each number when all pixels move by one rounding, up or down at random. A single
    draw does not do: its changes may cancel, and then a rounding seems to be worth nothing."""
    changed = copy.copy(case)
    generator = torch.Generator().manual_seed(0)
    squares = dict.fromkeys(expected, 0.0)
    for _ in range(DRAWS):
        signs = torch.randn(case.images.shape, generator=generator, dtype=torch.float64).sign()
        changed.images = case.images * (1 + torch.finfo(torch.float64).eps * signs)
        numbers = outcome(changed, "autograd", recipe)
        for name, value in expected.items():
            squares[name] += float((numbers[name] - value).square().sum()) / DRAWS
    return {name: math.sqrt(square) for name, square in squares.items()}


ANY_CASE = {
    "model": networks(largest_width=24),
    "count": st.integers(1, 8),
    "batch": st.integers(1, 9),
    "steps": st.integers(1, 6),
    "labels": st.sampled_from(["hard", "soft", "logits"]),
    "per_step_lr": st.booleans(),
    "dsa": st.sampled_from([None, DsaSettings(), DsaSettings(mode="M", shared=True), DsaSettings(mode="M")]),
    "recipe": st.booleans(),
    "selection": SELECTIONS,
    "distance": st.sampled_from(["l1", "l2"]),
    "gradient": GRADIENTS,
    "seed": st.integers(0, 1000),
}


@settings(derandomize=True, deadline=None, max_examples=400, suppress_health_check=list(HealthCheck))
@given(**ANY_CASE)
def test_any_problem(recipe: bool, **problem: Any) -> None:
    compare(random_case(**problem), recipe)


@pytest.mark.slow
@settings(derandomize=True, deadline=None, max_examples=600, suppress_health_check=list(HealthCheck))
@given(**ANY_CASE)
def test_many_problems(recipe: bool, **problem: Any) -> None:
    compare(random_case(**problem), recipe)


@pytest.mark.parametrize("size", [(8, 9), (9, 9)])
def test_a_convnet_on_images_whose_last_pixels_are_dropped(size: tuple[int, int]) -> None:
    """Made for 8 by 8, it takes 9 by 9 as well: the pooling leaves as many features."""
    case = make_case(steps=3)
    case.images = torch.randn(6, 2, *size, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    assert_same(case.run("fused"), case.run("autograd"), BOUND)


@pytest.mark.parametrize("shape", [(4, 4, 8), (1, 16, 8), (128, 1, 1), (1, 1, 128)])
def test_an_mlp_on_images_of_another_shape(shape: tuple[int, ...]) -> None:
    case = make_case("mlp-w8", steps=3)
    case.images = case.images.reshape(6, *shape)
    assert_same(case.run("fused"), case.run("autograd"), BOUND)


@pytest.mark.parametrize("model", [ConvNet(2, 3, 8, width=4, depth=2), MLP(2, 3, 8)], ids=["convnet", "mlp"])
@pytest.mark.parametrize("shape", [(4, 2, 12, 8), (4, 3, 8, 8), (4, 2, 8)])
@pytest.mark.parametrize("backend", ["torch", FUSED, "autograd"])
def test_images_that_do_not_fit_are_refused_by_every_backend(
    backend: str, shape: tuple[int, ...], model: Network
) -> None:
    start = flatten(model)
    pairs = [(torch.zeros(shape), torch.zeros(4, dtype=torch.int64))]
    with pytest.raises(
        (InputError, BackendError), match=r"cannot run (on images of shape \[4, |this: it takes images)"
    ):
        match(model, start, start + 1, pairs, 0.1, backend=backend)


@pytest.mark.parametrize("dsa", [None, DsaSettings()], ids=["plain", "dsa"])
def test_arguments_that_are_not_contiguous(dsa: DsaSettings | None) -> None:
    def apart(value: Tensor) -> Tensor:
        """The same numbers with others between them."""
        wide = torch.stack([value, torch.full_like(value, 7)], dim=-1)
        return wide.select(-1, 0)

    def turned(value: Tensor) -> Tensor:
        """The same numbers with the first dimension innermost in memory."""
        return value.movedim(0, -1).contiguous().movedim(-1, 0)

    outcomes = []
    for wide in (False, True):
        case = make_case(steps=4, labels="soft", per_step_lr=True, dsa=dsa)
        leaves = [case.start, case.target, case.lr, case.images, case.labels]
        if wide:
            ways = (apart, apart, apart, turned, turned)
            leaves = [way(each) for way, each in zip(ways, leaves, strict=True)]
            assert not any(each.is_contiguous() for each in leaves)
            case.index = case.index.t().contiguous().t()
        start, target, lr, images, labels = leaves = [each.requires_grad_() for each in leaves]
        batches = Batches(images, labels, case.index, case.draws)
        found = match(case.model, start, target, batches, lr, backend="fused")
        outcomes.append((found.loss.detach(), *torch.autograd.grad(found.loss, leaves)))
    for one, other in zip(*outcomes, strict=True):
        assert torch.equal(one, other)


def test_images_that_are_one_image_seen_many_times() -> None:
    """An expanded tensor cannot be written to; its gradient has every row."""
    case = make_case(steps=3)
    gradients = []
    for backend in ("fused", "autograd"):
        images = case.images[:1].expand(6, -1, -1, -1).requires_grad_()
        loss = match(case.model, case.start, case.target, [(images, case.labels)] * 3, case.lr, backend=backend).loss
        gradients.append(torch.autograd.grad(loss, images)[0])
    assert relative_error(*gradients) <= BOUND


def test_backward_twice() -> None:
    case = make_case(steps=4)
    images = case.images.clone().requires_grad_()
    batches = Batches(images, case.labels, case.index)
    loss = match(case.model, case.start, case.target, batches, 0.1, backend="fused").loss
    one, other = (torch.autograd.grad(3 * loss, images, retain_graph=retain)[0] for retain in (True, False))
    assert torch.equal(one, other)


def test_matches_between_a_match_and_its_backward() -> None:
    """One student's memory serves all matches of its network: none may find what another left there."""
    cases = [make_case(steps=steps, labels=labels) for steps, labels in ((3, "hard"), (5, "soft"), (2, "hard"))]
    cases[1].start = cases[1].start + 0.1
    expected = [case.run("fused")[1]["images"] for case in cases]
    images = [case.images.clone().requires_grad_() for case in cases]
    losses = [
        match(
            case.model, case.start, case.target, Batches(each, case.labels, case.index), case.lr, backend="fused"
        ).loss
        for case, each in zip(cases, images, strict=True)
    ]
    for loss in reversed(losses):
        loss.backward()
    for each, gradient in zip(images, expected, strict=True):
        assert torch.equal(each.grad, gradient)


def test_images_changed_before_backward_are_noticed() -> None:
    case = make_case(steps=2)
    images = case.images.clone().requires_grad_()
    loss = match(case.model, case.start, case.target, [(images, case.labels)] * 2, 0.1, backend="fused").loss
    with torch.no_grad():
        images.add_(1)
    with pytest.raises(RuntimeError, match="modified by an inplace operation"):
        loss.backward()


def test_nothing_is_recorded_and_nothing_of_the_model_is_touched() -> None:
    case = make_case(steps=2)
    before = flatten(case.model)
    generator = torch.get_rng_state()
    with torch.no_grad():
        batches = Batches(case.images, case.labels, case.index)
        found = match(case.model, case.start.requires_grad_(), case.target, batches, 0.1, backend="fused")
    assert not found.loss.requires_grad
    assert not found.distances.requires_grad
    assert torch.equal(flatten(case.model), before)
    assert all(parameter.grad is None for parameter in case.model.parameters())
    assert torch.equal(torch.get_rng_state(), generator)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_same_bits_on_every_run(dtype: torch.dtype) -> None:
    case = make_case(steps=4, labels="soft", selection="nearest").to(dtype)
    one, other = case.run("fused"), case.run("fused")
    assert torch.equal(one[0].loss, other[0].loss)
    assert torch.equal(one[0].distances, other[0].distances)
    for name, gradient in one[1].items():
        assert torch.equal(gradient, other[1][name])
