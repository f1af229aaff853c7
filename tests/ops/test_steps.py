"""The kernels of csrc/kernels/steps.h alone, on the CPU: each works on the row that the counter names, and no other."""

from __future__ import annotations

import pytest
import torch

from tests.ops.steps import KERNELS, SIZES, Tables, check, needs_compiled

pytestmark = needs_compiled


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("kernel", KERNELS)
def test_indexing_and_tails(kernel: str, dtype: torch.dtype) -> None:
    for size in SIZES[:8]:
        for step in (0, 2):
            check(kernel, Tables(size, step, dtype, "cpu"))
