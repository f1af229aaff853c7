"""A program of the engine: its two sweeps, its counter, its tables and the arrangement of its sources."""

from __future__ import annotations

import logging
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from torch import Tensor

from pydistill import ops
from pydistill.data.dsa import DsaSettings, augment
from pydistill.engine.student import fused_student
from pydistill.matching import Batches, match
from pydistill.matching.backends.program import IMAGES, LABELS, LR, PRODUCT, Arrangement, Program, acquire_program
from pydistill.matching.batches import plan_of
from tests.matching.problems import Case, make_case, needs_engine, relative_error

pytestmark = [needs_engine, pytest.mark.usefixtures("no_cached_programs")]

BOUND = 1e-9


def filled(case: Case) -> tuple[Program, Tensor, Arrangement]:
    """A program filled with this case, its points [N + 1, P] and where its sources lie."""
    plan = plan_of(Batches(case.images, case.labels, case.index, case.draws), False)
    arrangement = Arrangement(plan)
    program = acquire_program(case.model, case.start, arrangement.shape)
    points = case.start.new_zeros(len(plan) + 1, case.start.numel())
    points[0] = case.start
    program.fill(arrangement, plan.sources, case.lr, points)
    program.target.copy_(case.target)
    return program, points, arrangement


@pytest.mark.parametrize("dsa", [None, DsaSettings(mode="M")], ids=["plain", "dsa"])
@pytest.mark.parametrize("labels", ["hard", "soft"])
def test_both_sweeps_are_the_student_s_passes_step_by_step(labels: str, dsa: DsaSettings | None) -> None:
    case = make_case(steps=4, labels=labels, per_step_lr=True, dsa=dsa)
    student = fused_student(case.model, [4, *case.images.shape[1:]], case.start)
    program, points, arrangement = filled(case)

    def batch(step: int) -> tuple[Tensor, Tensor, Any]:
        rows = case.index[step]
        images = case.images[rows].requires_grad_()
        seen = images if case.draws is None else augment(images, case.draws[step])
        return seen, case.labels[rows], images

    program.train(4)
    theta = case.start
    for step in range(4):
        seen, rows, _ = batch(step)
        gradient = student.gradient(theta, seen.detach(), rows)[0]
        theta, sums = ops.sgd_step(theta, gradient, case.lr[step], case.target)
        torch.testing.assert_close(points[step + 1], theta, rtol=1e-13, atol=1e-15)
        torch.testing.assert_close(program.sums[step + 1], sums, rtol=1e-12, atol=0)

    adjoint = case.start.sin()
    program.adjoint.copy_(adjoint)
    program.clear_gradients()
    wanted = PRODUCT | IMAGES | LR | (LABELS if labels == "soft" else 0)
    program.go_back([wanted] * 4)
    of_images, of_labels = torch.zeros_like(case.images), torch.zeros(6, 3, dtype=torch.float64)
    of_lr = torch.zeros_like(case.lr)
    for step in reversed(range(4)):
        seen, rows, images = batch(step)
        inner, product, of_seen, of_rows = student.adjoint(
            points[step], adjoint, seen.detach(), rows, True, True, labels == "soft"
        )
        of_lr[step] -= inner
        (of_pixels,) = torch.autograd.grad(seen, images, of_seen) if case.draws is not None else (of_seen,)
        of_images.index_add_(0, case.index[step], of_pixels * case.lr[step], alpha=-1)
        if labels == "soft":
            of_labels.index_add_(0, case.index[step], of_rows * case.lr[step], alpha=-1)
        adjoint = adjoint - case.lr[step] * product
    torch.testing.assert_close(program.gradient_of(arrangement, 0), of_images, rtol=1e-11, atol=1e-14)
    torch.testing.assert_close(program.lr_gradient, of_lr, rtol=1e-11, atol=1e-14)
    torch.testing.assert_close(program.adjoint, adjoint, rtol=1e-11, atol=1e-14)
    if labels == "soft":
        torch.testing.assert_close(program.gradient_of(arrangement, 1), of_labels, rtol=1e-11, atol=1e-14)


def test_the_counter_moves_with_the_steps_and_any_range_of_them_can_be_run() -> None:
    case = make_case(steps=7)
    program, points, _ = filled(case)
    program.train(7)
    assert program.step.item() == 7
    all_points = points.clone()
    points[3:] = torch.nan
    program.engine.train(2, 7)
    assert torch.equal(points, all_points)
    program.clear_gradients()
    program.adjoint.copy_(case.target)
    program.go_back([IMAGES] * 5)
    assert program.step.item() == -1
    gradient = program.image_gradients.clone()
    program.clear_gradients()
    for first in (3, 1, 0):
        last = {3: 5, 1: 3, 0: 1}[first]
        program.engine.go_back(last, first, [IMAGES] * (last - first))
    assert torch.equal(program.image_gradients, gradient)
    assert program.step.item() == -1


@pytest.mark.parametrize("steps", [(-1, 2), (3, 2), (0, 8)])
def test_steps_that_it_does_not_have_are_refused(steps: tuple[int, int]) -> None:
    first, last = steps
    program, _, _ = filled(make_case(steps=7))
    with pytest.raises(ValueError, match=f"steps {first} to {last} of 7"):
        program.engine.train(first, last)
    with pytest.raises(ValueError, match=f"steps {first} to {last} of 7|outputs has"):
        program.engine.go_back(last, first, [IMAGES] * max(0, last - first))


def test_tables_of_another_shape_are_refused() -> None:
    from pydistill import _C

    case = make_case(steps=3)
    program, _, _ = filled(case)
    student = fused_student(case.model, [*program.images.shape], case.start)
    names = ("step", "target", "lr", "sums", "images", "image_gradients", "adjoint", "lr_gradient")
    tables = {name: getattr(program, name) for name in names} | {"target": program.target[1:]}
    with pytest.raises(ValueError, match="target has shape"):
        _C.Program(student, **tables, batches=program.batches, batches_of_step=[0, 0, 0], graphs=False)
    with pytest.raises(ValueError, match="points has shape"):
        program.engine.set_points(case.start.new_zeros(4, case.start.numel() + 1))
    program.engine.set_points(case.start.new_zeros(3, case.start.numel()))
    program.engine.go_back(3, 0, [0] * 3)
    with pytest.raises(ValueError, match="points has 3 rows; these steps need 4"):
        program.engine.train(0, 3)


def test_a_step_of_which_nothing_is_wanted_is_passed_over() -> None:
    case = make_case(steps=3)
    program, _, _ = filled(case)
    program.train(3)
    gradients = []
    for wanted in ([0, LR, 0], [LR, LR, LR]):
        program.clear_gradients()
        program.adjoint.copy_(case.target)
        program.go_back(wanted)
        gradients.append(program.lr_gradient.clone())
    assert torch.equal(gradients[0][1], gradients[1][1])
    assert gradients[0][[0, 2]].tolist() == [0, 0]
    assert gradients[1].ne(0).all()


def test_pairs_of_several_sizes_and_kinds_of_labels() -> None:
    """Steps of one, two and three images, class numbers and label rows in turn, a tensor that serves several steps."""
    case = make_case(steps=5)
    generator = torch.Generator().manual_seed(2)
    rows = torch.rand(3, 3, generator=generator, dtype=torch.float64)
    images = [torch.randn(count, 2, 8, 8, generator=generator, dtype=torch.float64) for count in (1, 2, 3)]
    numbers = [torch.tensor([2]), torch.tensor([0, 1])]
    outcomes = {}
    for backend in ("fused", "autograd"):
        first, second, third, soft = (leaf.clone().requires_grad_() for leaf in (*images, rows))
        pairs = [(first, numbers[0]), (third, soft), (second, numbers[1]), (third, soft), (first, numbers[0])]
        outcome = match(case.model, case.start, case.target, pairs, case.lr, backend=backend)
        outcomes[backend] = [outcome.loss, *torch.autograd.grad(outcome.loss, (first, second, third, soft))]
    for one, other in zip(*outcomes.values(), strict=True):
        assert relative_error(one.detach(), other.detach()) <= BOUND


def test_what_keeps_the_steps_from_being_recorded_is_logged_once(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    program, _, _ = filled(make_case(steps=2))
    monkeypatch.setattr("pydistill.matching.backends.program._told", set())
    with caplog.at_level(logging.WARNING, logger="pydistill"):
        program.tell_obstacle()
        assert caplog.messages == []
        program.engine = SimpleNamespace(obstacle=lambda: "recording failed: no room")
        for _ in range(2):
            program.tell_obstacle()
    assert caplog.messages == [
        "student steps on cpu run kernel by kernel, not as CUDA graphs: recording failed: no room"
    ]
