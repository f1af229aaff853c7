"""The kernels of csrc/kernels/steps.h alone, on the CPU: each works on the row that the counter names, and no other."""

from __future__ import annotations

import pytest
import torch

from tests.ops.builds import compiled_only
from tests.ops.steps import KERNELS, SIZES, Tables, check

pytestmark = compiled_only


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("kernel", KERNELS)
def test_indexing_and_tails(kernel: str, dtype: torch.dtype) -> None:
    for size in SIZES[:8]:
        for step in (0, 2):
            check(kernel, Tables(size, step, dtype, "cpu"))


def test_what_does_not_fit_is_refused() -> None:
    ops, tables = torch.ops.pydistill, Tables(7, 1, torch.float32, "cpu")
    late = torch.tensor(3)
    with pytest.raises(ValueError, match="points"):
        ops.steps_take_point(torch.zeros(()), tables.step, tables.out)
    with pytest.raises(ValueError, match="step"):
        ops.steps_adjoint_step_of_tables(tables.adjoint, tables.grad, tables.lr, late)
    with pytest.raises(ValueError, match="step"):
        ops.steps_take_rows(tables.table, tables.index, torch.tensor(10**9), tables.taken)
    with pytest.raises(ValueError, match="target"):
        ops.steps_sgd_step_of_tables(
            tables.theta, tables.grad, torch.zeros(8), None, tables.lr, tables.step, tables.points, tables.distances
        )
    with pytest.raises(ValueError, match="weights"):
        ops.steps_sgd_step_of_tables(
            *(tables.theta, tables.grad, tables.target, torch.zeros(8)),
            *(tables.lr, tables.step, tables.points, tables.distances),
        )
    with pytest.raises(ValueError, match="gradient"):
        ops.steps_subtract_rows(tables.share, tables.index, tables.lr, tables.step, torch.zeros(5, 3))
    with pytest.raises(ValueError, match="value"):
        ops.steps_subtract_at_step(torch.zeros((), dtype=torch.float64), tables.step, tables.sums)
