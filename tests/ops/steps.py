"""The ops of csrc/ops/steps.cpp, and what each is to write, in plain PyTorch."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

STEPS, ROWS = 3, 5  # N, n
SIZES = [1, 2, 31, 255, 257, 1023, 4096, 4097, 1_048_583]


class Tables:
    """Tables of N steps for P = `size` parameters, and rows [n, K] of which B are taken; with the expected results."""

    def __init__(self, size: int, step: int, dtype: torch.dtype, device: str) -> None:
        generator = torch.Generator().manual_seed(size + step)

        def numbers(*shape: int) -> Tensor:
            return torch.randn(*shape, dtype=dtype, generator=generator).to(device)

        self.number, self.step = step, torch.tensor(step, device=device)
        self.theta, self.grad, self.target, self.adjoint = (numbers(size) for _ in range(4))
        self.weights = self.adjoint.abs()
        self.lr = numbers(STEPS)
        self.points = numbers(STEPS + 1, size)
        self.distances = torch.full((STEPS + 1, 2), -77.0, dtype=torch.float64, device=device)
        self.width = -(-size // ROWS)
        self.table, self.gradient = numbers(ROWS, self.width), numbers(ROWS, self.width)
        self.index = torch.tensor([[4, 0, 4], [1, 1, 1], [2, 4, 2]], device=device)
        self.share = numbers(3, self.width)
        self.out = torch.full((size,), -77.0, dtype=dtype, device=device)
        self.taken = torch.full((3, self.width), -77.0, dtype=dtype, device=device)
        self.sums = numbers(STEPS)


def check(kernel: str, tables: Tables) -> None:
    """Run one kernel; everything that it may write is compared, the rows of other steps included."""
    KERNELS[kernel](torch.ops.pydistill, tables)


def _take_point(ops: Any, t: Tables) -> None:
    ops.steps_take_point(t.points, t.step, t.out)
    assert torch.equal(t.out, t.points[t.number])


def _sgd_step(ops: Any, t: Tables, weights: Tensor | None = None) -> None:
    points, distances = t.points.clone(), t.distances.clone()
    points[t.number + 1] = t.theta - t.lr[t.number] * t.grad
    ops.steps_sgd_step_of_tables(t.theta, t.grad, t.target, weights, t.lr, t.step, t.points, t.distances)
    torch.testing.assert_close(t.points[t.number + 1], points[t.number + 1])
    gap = (t.points[t.number + 1] - t.target).double()
    w = torch.ones_like(gap) if weights is None else weights.double()
    distances[t.number + 1] = torch.stack([(w * gap.abs()).sum(), (w * gap.square()).sum()])
    torch.testing.assert_close(t.distances, distances, rtol=1e-12, atol=0)
    others = [row for row in range(STEPS + 1) if row != t.number + 1]
    assert torch.equal(t.points[others], points[others])


def _adjoint_step(ops: Any, t: Tables) -> None:
    expected = t.adjoint - t.lr[t.number] * t.grad
    ops.steps_adjoint_step_of_tables(t.adjoint, t.grad, t.lr, t.step)
    torch.testing.assert_close(t.adjoint, expected)


def _take_rows(ops: Any, t: Tables) -> None:
    ops.steps_take_rows(t.table, t.index, t.step, t.taken)
    assert torch.equal(t.taken, t.table[t.index[t.number]])


def _take_rows_that_do_not_exist(ops: Any, t: Tables) -> None:
    t.index[t.number, 0], t.index[t.number, 2] = -1, ROWS
    ops.steps_take_rows(t.table, t.index, t.step, t.taken)
    assert t.taken[[0, 2]].isnan().all()
    assert torch.equal(t.taken[1], t.table[t.index[t.number, 1]])


def _take_class_numbers(ops: Any, t: Tables) -> None:
    numbers = torch.arange(10, 10 + ROWS, device=t.step.device)
    taken = torch.zeros(3, dtype=torch.int64, device=t.step.device)
    ops.steps_take_rows(numbers, t.index, t.step, taken)
    assert torch.equal(taken, numbers[t.index[t.number]])


def _subtract_rows(ops: Any, t: Tables) -> None:
    expected = t.gradient.index_add(0, t.index[t.number], t.lr[t.number] * t.share, alpha=-1)
    ops.steps_subtract_rows(t.share, t.index, t.lr, t.step, t.gradient)
    bound = 8 * torch.finfo(t.share.dtype).eps
    torch.testing.assert_close(t.gradient, expected, rtol=bound, atol=4 * bound)


def _subtract_at_step(ops: Any, t: Tables) -> None:
    expected = t.sums.clone()
    expected[t.number] -= t.theta[0]
    ops.steps_subtract_at_step(t.theta[0], t.step, t.sums)
    assert torch.equal(t.sums, expected)


KERNELS: dict[str, Callable[[Any, Tables], None]] = {
    "take_point": _take_point,
    "sgd_step_of_tables": _sgd_step,
    "sgd_step_of_tables with weights": lambda ops, tables: _sgd_step(ops, tables, tables.weights),
    "adjoint_step_of_tables": _adjoint_step,
    "take_rows": _take_rows,
    "take_rows, some of which do not exist": _take_rows_that_do_not_exist,
    "take_rows of class numbers": _take_class_numbers,
    "subtract_rows": _subtract_rows,
    "subtract_at_step": _subtract_at_step,
}
