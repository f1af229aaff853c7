"""GPU proofs of the kernels in csrc/kernels/steps.h; csrc/README.md lists them."""

from __future__ import annotations

import pytest
import torch

from tests.ops.builds import needs_gpu, needs_kernels
from tests.ops.steps import KERNELS, SIZES, Tables, check

pytestmark = [pytest.mark.cuda, needs_gpu, needs_kernels]


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize("kernel", KERNELS)
def test_indexing_and_tails(kernel: str, size: int, dtype: torch.dtype) -> None:
    for step in (0, 2):
        check(kernel, Tables(size, step, dtype, "cuda"))


def test_same_bits_on_every_run() -> None:
    actual = []
    for _ in range(5):
        t = Tables(1_048_583, 1, torch.float32, "cuda")
        ops = torch.ops.pydistill
        ops.steps_sgd_step_of_tables(t.theta, t.grad, t.target, t.weights, t.lr, t.step, t.points, t.distances)
        ops.steps_subtract_rows(t.share, t.index, t.lr, t.step, t.gradient)
        actual.append((t.points, t.distances, t.gradient))
    for value in actual[1:]:
        assert all(torch.equal(one, other) for one, other in zip(value, actual[0], strict=True))


def test_is_captured_in_a_graph_and_replayed_on_new_values() -> None:
    """The counter moves between replays: one graph writes the row of every step."""
    t = Tables(4097, 0, torch.float64, "cuda")
    ops = torch.ops.pydistill
    lr = torch.ones(3, dtype=torch.float64, device="cuda")

    def work() -> None:
        ops.steps_sgd_step_of_tables(t.theta, t.grad, t.target, t.weights, lr, t.step, t.points, t.distances)
        t.step.add_(1)

    work()
    t.step.zero_()
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        work()
    for number in range(3):
        t.theta.fill_(number)
        graph.replay()
    assert t.step.item() == 3
    for number in range(3):
        torch.testing.assert_close(t.points[number + 1], number - t.grad)
