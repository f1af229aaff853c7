"""Programs of the engine: the counter, the memory that stays in place, what is kept between calls and when another is
made; and several matches in one call."""

from __future__ import annotations

import logging
import threading
from collections.abc import Iterator
from dataclasses import replace
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from torch import Tensor

from pydistill import ops
from pydistill.data.dsa import DsaDraw, DsaSettings, augment
from pydistill.engine.student import PROGRAMS_KEPT, fused_student, kept_programs, release_students
from pydistill.errors import InputError
from pydistill.matching import Batches, match, match_many
from pydistill.matching.backends.program import IMAGES, LABELS, LR, PRODUCT, Arrangement, Program, acquire_program
from pydistill.matching.batches import plan_of
from pydistill.nn import MLP, ConvNet
from pydistill.reference.augment import COLUMNS
from tests.matching.problems import ALL, Case, assert_same, make_case, needs_engine, relative_error

pytestmark = needs_engine

BOUND = 1e-9


@pytest.fixture(autouse=True)
def _nothing_kept() -> Iterator[None]:
    release_students()
    yield
    release_students()


def same_bits(one: Any, other: Any) -> bool:
    equal = torch.equal(one[0].loss, other[0].loss) and torch.equal(one[0].distances, other[0].distances)
    return equal and all(torch.equal(value, other[1][name]) for name, value in one[1].items())


def kept() -> list[Program]:
    return list(kept_programs._things.values())


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
    whole = points.clone()
    points[3:] = torch.nan
    program.engine.train(2, 7)
    assert torch.equal(points, whole)
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


def test_a_second_call_finds_the_program_of_the_first_and_nothing_of_its_values() -> None:
    first, second = make_case(steps=3, labels="soft"), make_case(steps=3, labels="soft", lr=0.2)
    second.images, second.start = second.images.flip(0) * 2, second.start + 0.1
    expected = second.run("fused")
    release_students()
    first.run("fused")
    (program,) = kept()
    places = [each.data_ptr() for each in vars(program).values() if isinstance(each, Tensor)]
    assert same_bits(second.run("fused"), expected)
    assert kept() == [program]
    assert [each.data_ptr() for each in vars(program).values() if isinstance(each, Tensor)] == places
    direct, recorded, replayed = program.engine.counts()
    assert (direct, recorded, replayed) == (2 * (3 + 3), 0, 0)
    assert program.engine.obstacle() == ""


@pytest.mark.parametrize(
    "changes",
    [
        {"steps": 4},
        {"count": 7},
        {"batch": 3},
        {"size": 9, "model": ConvNet(2, 3, 9, width=4, depth=2)},
        {"labels": "soft"},
        {"dsa": DsaSettings()},
        {"network": "convnet2-w5"},
        {"network": "mlp-w8"},
    ],
    ids=str,
)
def test_another_shape_has_another_program(changes: dict[str, Any]) -> None:
    case, other = make_case(steps=3), make_case(**({"steps": 3} | changes))
    expected = [each.run("fused") for each in (case, other)]
    assert len(kept()) == 2
    assert all(same_bits(each.run("fused"), before) for each, before in zip((case, other), expected, strict=True))
    assert len(kept()) == 2


def test_another_dtype_has_another_program() -> None:
    case = make_case(steps=3)
    expected = case.run("fused")
    case.to(torch.float32).run("fused")
    assert len(kept()) == 2
    assert same_bits(case.run("fused"), expected)


@pytest.mark.parametrize("options", [{"gradient": "truncated"}, {"selection": "nearest"}, {"distance": "l2"}], ids=str)
def test_what_is_asked_of_it_needs_no_other_program(options: dict[str, Any]) -> None:
    case = make_case(steps=3, labels="soft", distance_to_target=0.3)
    case.run("fused")
    changed = replace(case, options=options)
    assert_same(changed.run("fused"), changed.run("autograd"), BOUND)
    for wanted in (["images"], ["labels"], ["lr"], ["start", "images"]):
        assert_same(case.run("fused", wanted=wanted), case.run("autograd", wanted=wanted), BOUND)
    assert len(kept()) == 1


def test_draws_of_other_operations_share_a_program_and_leave_no_trace() -> None:
    """In mode S each step has one operation, of one to four numbers."""
    cases = [make_case(steps=3, dsa=DsaSettings(strategy=name)) for name in (*COLUMNS, *reversed(COLUMNS))]
    for case in cases:
        assert_same(case.run("fused"), case.run("autograd"), BOUND)
    assert len(kept()) == 1


def test_draws_of_several_kinds_in_one_recipe() -> None:
    """Lists of other lengths, one of them empty, and parameters of one row beside those of one for each image."""
    case = make_case(steps=4, dsa=DsaSettings(mode="M"))
    generator = torch.Generator().manual_seed(1)
    shared = DsaSettings(mode="M", strategy="flip_color", shared=True).draw(4, 8, 8, generator)
    single = DsaSettings(strategy="crop").draw(4, 8, 8, generator)
    nothing = DsaSettings(strategy="none").draw(4, 8, 8, generator)
    case.draws = [shared, case.draws[1], nothing, single]
    assert_same(case.run("fused"), case.run("autograd"), BOUND)
    case.draws = [nothing] * 4
    assert same_bits(case.run("fused"), replace(case, draws=None).run("fused"))


@pytest.mark.parametrize("backend", ALL)
@pytest.mark.parametrize(("rows", "side"), [(3, 8), (4, 7)])
def test_a_draw_that_does_not_fit_is_refused_by_every_backend(backend: str, rows: int, side: int) -> None:
    case = make_case(steps=2)
    case.draws = [DsaDraw(("flip",), torch.ones(rows, 1), side, side)] * 2
    with pytest.raises(InputError, match=rf"{rows} images of {side}×{side}"):
        case.run(backend)


@pytest.mark.parametrize("backend", ["fused", "torch", "autograd"])
@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"parameters": torch.zeros(1, 2)}, "a draw of color"),
        ({"operations": ("blur",)}, "a draw's operation 'blur'"),
    ],
    ids=["too few parameters", "unknown operation"],
)
def test_a_draw_that_lacks_something_is_refused_by_every_backend(
    backend: str, changes: dict[str, Any], message: str
) -> None:
    case = make_case(dsa=DsaSettings(strategy="color", shared=True))
    assert case.draws is not None
    case.draws = [replace(draw, **changes) for draw in case.draws]
    with pytest.raises(InputError, match=message):
        case.run(backend)


def test_pairs_of_several_sizes_and_kinds_of_labels() -> None:
    """Steps of one, two and three images, class numbers and label rows in turn, a tensor that serves several steps."""
    case = make_case(steps=5)
    generator = torch.Generator().manual_seed(2)
    rows = torch.rand(3, 3, generator=generator, dtype=torch.float64)
    images = [torch.randn(count, 2, 8, 8, generator=generator, dtype=torch.float64) for count in (1, 2, 3)]
    numbers = [torch.tensor([2]), torch.tensor([0, 1])]
    found = {}
    for backend in ("fused", "autograd"):
        first, second, third, soft = (each.clone().requires_grad_() for each in (*images, rows))
        pairs = [(first, numbers[0]), (third, soft), (second, numbers[1]), (third, soft), (first, numbers[0])]
        outcome = match(case.model, case.start, case.target, pairs, case.lr, backend=backend)
        found[backend] = [outcome.loss, *torch.autograd.grad(outcome.loss, (first, second, third, soft))]
    for one, other in zip(*found.values(), strict=True):
        assert relative_error(one.detach(), other.detach()) <= BOUND


def test_few_are_kept_and_release_gives_them_back() -> None:
    for steps in range(1, PROGRAMS_KEPT + 3):
        make_case(steps=steps).run("fused")
    assert [len(program.lr) for program in kept()] == list(range(3, PROGRAMS_KEPT + 3))
    release_students()
    assert kept() == []


def test_graphs_asked_for_or_not_are_programs_of_their_own(monkeypatch: pytest.MonkeyPatch) -> None:
    case = make_case(steps=2)
    expected = case.run("fused")
    monkeypatch.setenv("PYDISTILL_CUDA_GRAPHS", "0")
    assert same_bits(case.run("fused"), expected)
    assert len(kept()) == 2


def test_what_keeps_the_steps_from_being_recorded_is_told_once(
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


def test_a_training_that_was_broken_off_leaves_no_trace(monkeypatch: pytest.MonkeyPatch) -> None:
    case = make_case(steps=3)
    expected = case.run("fused")

    def stop(self: Program, steps: int) -> None:
        self.engine.train(0, 1)
        raise KeyboardInterrupt

    with monkeypatch.context() as patched:
        patched.setattr(Program, "train", stop)
        with pytest.raises(KeyboardInterrupt):
            case.run("fused")
    assert kept() == []
    assert same_bits(case.run("fused"), expected)


def test_threads_do_not_meet_in_one_program() -> None:
    cases = [make_case(steps=20), make_case(steps=20)]
    cases[1].images = cases[1].images.flip(0)
    expected = [case.run("fused") for case in cases]
    found: dict[int, list[bool]] = {0: [], 1: []}

    def work(number: int) -> None:
        for _ in range(10):
            found[number].append(same_bits(cases[number].run("fused"), expected[number]))

    workers = [threading.Thread(target=work, args=(number,)) for number in (0, 1)]
    for worker in workers:
        worker.start()
    for worker in workers:
        worker.join()
    assert found == {0: [True] * 10, 1: [True] * 10}


def test_a_program_made_in_inference_mode_serves_afterwards() -> None:
    case = make_case(steps=2, labels="soft", dsa=DsaSettings())
    batches = Batches(case.images, case.labels, case.index, case.draws)
    with torch.inference_mode():
        loss = match(case.model, case.start, case.target, batches, case.lr, backend="fused").loss
    (program,) = kept()
    found = case.run("fused")
    assert kept() == [program]
    assert found[0].loss.item() == loss.item()
    assert_same(found, case.run("autograd"), BOUND)


def test_a_gradient_is_the_caller_s_own_memory() -> None:
    case = make_case(steps=2, labels="soft", per_step_lr=True)
    first = case.run("fused")[1]
    before = {name: value.clone() for name, value in first.items()}
    case.images = case.images * 3
    case.run("fused")
    assert all(torch.equal(first[name], value) for name, value in before.items())


def several(backend: str) -> tuple[list[Case], list[Any], dict[str, Any]]:
    """Three problems of one network: their cases, what `match` finds of each, and arguments of match_many."""
    cases = [make_case(steps=3, labels="soft", dsa=DsaSettings(), selection="nearest") for _ in range(3)]
    for number, case in enumerate(cases):
        case.start = case.start + 0.05 * number
        case.index = case.index.roll(number, 0)
    expected = [case.run(backend, wanted=["images", "lr"]) for case in cases]
    images, lr = (value.clone().requires_grad_() for value in (cases[0].images, cases[0].lr))
    arguments = {
        "model": cases[0].model,
        "starts": [case.start for case in cases],
        "targets": [case.target for case in cases],
        "batches": [Batches(images, case.labels, case.index, case.draws) for case in cases],
        "lr": lr,
        "selection": "nearest",
        "backend": backend,
    }
    return cases, expected, arguments


@pytest.mark.parametrize("backend", ALL)
def test_match_many_is_match_of_each(backend: str) -> None:
    _, expected, arguments = several(backend)
    found = match_many(**arguments)
    for one, (other, _) in zip(found, expected, strict=True):
        assert (one.step, one.backend) == (other.step, backend)
        assert torch.equal(one.loss, other.loss)
        assert torch.equal(one.distances, other.distances)
    torch.stack([each.loss for each in found]).mean().backward()
    for leaf, name in ((arguments["batches"][0].images, "images"), (arguments["lr"], "lr")):
        mean = torch.stack([gradients[name] for _, gradients in expected]).mean(0)
        torch.testing.assert_close(leaf.grad, mean, rtol=1e-12, atol=1e-15)


def test_match_many_of_networks_that_the_engine_does_not_run() -> None:
    case = make_case(model=MLP(2, 3, 8))
    case.model.register_forward_hook(lambda *_: None)
    batches = Batches(case.images, case.labels, case.index)
    found = match_many(case.model, [case.start] * 2, [case.target] * 2, [batches] * 2, 0.1)
    assert [each.backend for each in found] == ["torch", "torch"]


@pytest.mark.parametrize("counts", [(0, 0, 0), (2, 1, 2), (1, 1, 2)])
def test_match_many_wants_as_many_of_each(counts: tuple[int, int, int]) -> None:
    case = make_case()
    batches = Batches(case.images, case.labels, case.index)
    starts, targets, recipes = (
        [one] * count for one, count in zip((case.start, case.target, batches), counts, strict=True)
    )
    with pytest.raises(InputError, match="{}, {} and {}".format(*counts)):
        match_many(case.model, starts, targets, recipes, 0.1)
