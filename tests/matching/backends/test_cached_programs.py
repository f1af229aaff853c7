"""Programs that stay between calls: which calls share one, when another is made, when it is released."""

from __future__ import annotations

import threading
from dataclasses import replace
from typing import Any

import pytest
import torch
from torch import Tensor

from pydistill.data.dsa import DsaSettings
from pydistill.engine.student import PROGRAMS_KEPT, kept_programs, release_students
from pydistill.matching import Batches, match
from pydistill.matching.backends.program import Program
from pydistill.nn import ConvNet
from pydistill.reference.augment import COLUMNS
from tests.matching.problems import assert_same, make_case, needs_engine, same_bits

pytestmark = [needs_engine, pytest.mark.usefixtures("no_cached_programs")]

BOUND = 1e-9


def cached_programs() -> list[Program]:
    return list(kept_programs._items.values())


def test_a_second_call_finds_the_program_of_the_first_and_nothing_of_its_values() -> None:
    first, second = make_case(steps=3, labels="soft"), make_case(steps=3, labels="soft", lr=0.2)
    second.images, second.start = second.images.flip(0) * 2, second.start + 0.1
    expected = second.run("fused")
    release_students()
    first.run("fused")
    (program,) = cached_programs()
    places = [value.data_ptr() for value in vars(program).values() if isinstance(value, Tensor)]
    assert same_bits(second.run("fused"), expected)
    assert cached_programs() == [program]
    assert [value.data_ptr() for value in vars(program).values() if isinstance(value, Tensor)] == places
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
    expected = [one.run("fused") for one in (case, other)]
    assert len(cached_programs()) == 2
    assert all(same_bits(one.run("fused"), before) for one, before in zip((case, other), expected, strict=True))
    assert len(cached_programs()) == 2


def test_another_dtype_has_another_program() -> None:
    case = make_case(steps=3)
    expected = case.run("fused")
    case.to(torch.float32).run("fused")
    assert len(cached_programs()) == 2
    assert same_bits(case.run("fused"), expected)


def test_weights_have_another_program_and_leave_no_trace() -> None:
    cases = [make_case(steps=3, selection="nearest") for _ in range(3)]
    for case, number in zip(cases, (1.0, 0.5), strict=False):
        case.options["weights"] = torch.linspace(0, number, len(case.start), dtype=torch.float64)
    expected = []
    for case in cases:
        release_students()
        expected.append(case.run("fused"))
    for case, before in (*zip(cases, expected, strict=True), (cases[0], expected[0])):
        assert same_bits(case.run("fused"), before)
    assert len(cached_programs()) == 2


@pytest.mark.parametrize("options", [{"gradient": "truncated"}, {"selection": "nearest"}, {"distance": "l2"}], ids=str)
def test_other_options_need_no_other_program(options: dict[str, Any]) -> None:
    case = make_case(steps=3, labels="soft", distance_to_target=0.3)
    case.run("fused")
    changed = replace(case, options=options)
    assert_same(changed.run("fused"), changed.run("autograd"), BOUND)
    for wanted in (["images"], ["labels"], ["lr"], ["start", "images"]):
        assert_same(case.run("fused", wanted=wanted), case.run("autograd", wanted=wanted), BOUND)
    assert len(cached_programs()) == 1


def test_draws_of_other_operations_share_a_program_and_leave_no_trace() -> None:
    """In mode S each step has one operation, of one to four numbers."""
    cases = [make_case(steps=3, dsa=DsaSettings(strategy=name)) for name in (*COLUMNS, *reversed(COLUMNS))]
    for case in cases:
        assert_same(case.run("fused"), case.run("autograd"), BOUND)
    assert len(cached_programs()) == 1


def test_the_cache_is_small_and_release_empties_it() -> None:
    for steps in range(1, PROGRAMS_KEPT + 3):
        make_case(steps=steps).run("fused")
    assert [len(program.lr) for program in cached_programs()] == list(range(3, PROGRAMS_KEPT + 3))
    release_students()
    assert cached_programs() == []


def test_graphs_asked_for_or_not_are_programs_of_their_own(monkeypatch: pytest.MonkeyPatch) -> None:
    case = make_case(steps=2)
    expected = case.run("fused")
    monkeypatch.setenv("PYDISTILL_CUDA_GRAPHS", "0")
    assert same_bits(case.run("fused"), expected)
    assert len(cached_programs()) == 2


def test_a_training_that_was_interrupted_leaves_no_trace(monkeypatch: pytest.MonkeyPatch) -> None:
    case = make_case(steps=3)
    expected = case.run("fused")

    def stop(self: Program, steps: int) -> None:
        self.engine.train(0, 1)
        raise KeyboardInterrupt

    with monkeypatch.context() as patched:
        patched.setattr(Program, "train", stop)
        with pytest.raises(KeyboardInterrupt):
            case.run("fused")
    assert cached_programs() == []
    assert same_bits(case.run("fused"), expected)


def test_threads_do_not_share_a_program() -> None:
    cases = [make_case(steps=20), make_case(steps=20)]
    cases[1].images = cases[1].images.flip(0)
    expected = [case.run("fused") for case in cases]
    equal: dict[int, list[bool]] = {0: [], 1: []}

    def work(number: int) -> None:
        for _ in range(10):
            equal[number].append(same_bits(cases[number].run("fused"), expected[number]))

    workers = [threading.Thread(target=work, args=(number,)) for number in (0, 1)]
    for worker in workers:
        worker.start()
    for worker in workers:
        worker.join()
    assert equal == {0: [True] * 10, 1: [True] * 10}


def test_a_program_made_in_inference_mode_serves_afterwards() -> None:
    case = make_case(steps=2, labels="soft", dsa=DsaSettings())
    batches = Batches(case.images, case.labels, case.index, case.draws)
    with torch.inference_mode():
        loss = match(case.model, case.start, case.target, batches, case.lr, backend="fused").loss
    (program,) = cached_programs()
    actual = case.run("fused")
    assert cached_programs() == [program]
    assert actual[0].loss.item() == loss.item()
    assert_same(actual, case.run("autograd"), BOUND)


def test_a_gradient_is_the_caller_s_own_memory() -> None:
    case = make_case(steps=2, labels="soft", per_step_lr=True)
    first = case.run("fused")[1]
    before = {name: value.clone() for name, value in first.items()}
    case.images = case.images * 3
    case.run("fused")
    assert all(torch.equal(first[name], value) for name, value in before.items())
