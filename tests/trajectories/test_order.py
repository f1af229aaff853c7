"""The order of experts: shuffled passes that can be resumed in the middle."""

from __future__ import annotations

import json

import pytest
import torch

from pydistill.errors import FormatError, InputError, MismatchError
from pydistill.trajectories import ExpertOrder


def test_passes_visit_every_expert_once_in_a_new_order():
    order, generator = ExpertOrder(7), torch.Generator().manual_seed(0)
    passes = [[order.next(generator) for _ in range(7)] for _ in range(6)]
    assert all(sorted(visited) == list(range(7)) for visited in passes)
    assert len({tuple(visited) for visited in passes}) > 1


@pytest.mark.parametrize("done", [0, 1, 4, 5, 12])
def test_order_resumes_from_its_state(done):
    order, generator = ExpertOrder(5), torch.Generator().manual_seed(3)
    for _ in range(done):
        order.next(generator)
    state, numbers = json.loads(json.dumps(order.state())), generator.get_state()
    expected = [order.next(generator) for _ in range(13)]
    resumed, restored = ExpertOrder(5), torch.Generator()
    resumed.load_state(state)
    restored.set_state(numbers)
    assert [resumed.next(restored) for _ in range(13)] == expected


def test_state_is_a_copy():
    order, generator = ExpertOrder(4), torch.Generator()
    order.next(generator)
    state = order.state()
    copy = json.dumps(state)
    for _ in range(5):
        order.next(generator)
    assert json.dumps(state) == copy


def test_no_experts():
    with pytest.raises(InputError, match="count = 0"):
        ExpertOrder(0)


def test_state_of_another_number_of_experts():
    with pytest.raises(MismatchError, match=r"4.*5"):
        ExpertOrder(5).load_state(ExpertOrder(4).state())


@pytest.mark.parametrize("state", [
    {}, {"count": 3, "order": [0, 1], "position": 0}, {"count": 3, "order": [0, 1, 1], "position": 0},
    {"count": 3, "order": [0, 1, 2], "position": 4}, {"count": 3, "order": [0, 1, 2], "position": -1},
    {"count": 3, "order": ["0", "1", "2"], "position": 0}, {"count": 3, "order": "012", "position": 0},
])  # fmt: skip
def test_damaged_states(state):
    with pytest.raises(FormatError, match="state of the expert order"):
        ExpertOrder(3).load_state(state)
