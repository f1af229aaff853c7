"""`norm_act_pool` on planes of bfloat16, as the engine runs it, against the reference on the same numbers."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor

import pydistill.reference
from pydistill.ops.build_info import build_config
from tests.ops.test_norm_act_pool import CHANNELS, NORMS, PHASES, POOLINGS, Problem

pytestmark = pytest.mark.skipif(not build_config()["compiled"], reason=f"compiled ops only: {build_config()['reason']}")
HALF_ULP = 2.0**-8
"""What rounding a number to bfloat16 changes of it at most, beside its size."""


def planes(shape: tuple[int, ...], device: str = "cpu", **settings: Any) -> tuple[Problem, Problem]:
    """A problem with planes of bfloat16 and parameters in float32, and the same numbers in float64."""
    rounded, exact = (Problem(shape, dtype=torch.float32, **settings) for _ in range(2))  # type: ignore[arg-type]
    for problem, of_planes, of_numbers in (
        (rounded, torch.bfloat16, torch.float32),
        (exact, torch.float64, torch.float64),
    ):
        for name, dtype in (("z", of_planes), ("grad", of_planes), ("weight", of_numbers), ("bias", of_numbers)):
            value = getattr(problem, name)
            if isinstance(value, Tensor):
                kept = value.bfloat16() if of_planes in (dtype, torch.float64) and name in ("z", "grad") else value
                setattr(problem, name, kept.to(device=device, dtype=dtype))
    return rounded, exact


def run(problem: Problem, phase: str, pooling: str, norm: str) -> tuple[Tensor, ...]:
    """The compiled op's results: planes, and then what is no plane (but for the statistics of the forward phases)."""
    ops, settings = torch.ops.pydistill, (norm, pooling, 1e-5)
    forward = "_jvp" if "jvp" in phase else ""
    arguments = problem.arguments(forward)
    *out, stats = getattr(ops, f"norm_act_pool{forward}")(*arguments, *settings)
    if "backward" not in phase:
        return (*out, stats)
    grads = problem.grad if "jvp" in phase else problem.grad[:1]
    found: tuple[Tensor, ...] = getattr(ops, f"norm_act_pool{phase}")(*grads, *arguments, stats, *settings)
    return found


def expected_of(problem: Problem, phase: str) -> tuple[list[Tensor], list[Tensor | None]]:
    """The reference's planes, and the gradients of the parameters in the order of the compiled op's rows."""
    found = problem.run(phase, pydistill.reference)
    count = 2 if "jvp" in phase else 1
    rest = list(found[count:])
    if len(rest) == 4:  # weight, its tangent, bias, its tangent
        rest = [rest[0], rest[2], rest[1], rest[3]]
    return [each for each in found[:count] if each is not None], rest


@pytest.mark.parametrize("phase", PHASES)
@pytest.mark.parametrize("pooling", POOLINGS)
@pytest.mark.parametrize("norm", NORMS)
def test_errs_by_the_rounding_of_its_results_alone(norm: str, pooling: str, phase: str) -> None:
    check_errors(norm, pooling, phase, "cpu")


def check_errors(norm: str, pooling: str, phase: str, device: str) -> None:
    """Planes are the exact ones rounded to the nearest; the gradients of the parameters are not rounded so."""
    for channels in CHANNELS:
        rounded, exact = planes((2, channels, 5, 8), device, norm=norm, pooling=pooling)
        found = run(rounded, phase, pooling, norm)
        of_planes, of_parameters = expected_of(exact, phase)
        for one, other in zip(found, of_planes, strict=False):
            assert one.dtype == torch.bfloat16
            bound = HALF_ULP * other.abs() + 2e-5 * other.abs().max()
            assert ((one.double() - other).abs() <= bound).all()
        if "backward" in phase:
            sums = found[len(of_planes)]
            assert sums.dtype == torch.float32
            for row, other in zip(sums, of_parameters, strict=True):
                if other is not None:  # summed in float32 and never rounded to bfloat16
                    torch.testing.assert_close(row.double(), other, rtol=1e-5, atol=2e-5)


@pytest.mark.parametrize("phase", PHASES)
def test_rounds_what_it_computes_in_float32_to_the_nearest(phase: str) -> None:
    """The same bits as the op on float32 planes, rounded by PyTorch, wherever both took the same path."""
    rounded, _ = planes((2, 19, 7, 6))
    single, _ = planes((2, 19, 7, 6))
    single.z, single.grad = rounded.z.float(), rounded.grad.float()
    found, in_full = (run(problem, phase, "average", "instance") for problem in (rounded, single))
    for one, other in zip(found, in_full, strict=True):
        if one.dtype == torch.bfloat16:
            same = one == other.bfloat16()
            assert same.float().mean() > 0.995  # another instruction set may add in another order
            assert not torch.equal(one.float(), other)


def test_statistics_are_in_float32() -> None:
    """A mean of 1000 beside a spread of 4, all of them bfloat16 numbers: in bfloat16 the sum itself would be lost."""
    generator = torch.Generator().manual_seed(0)
    z = (1000 + 4 * torch.randint(-1, 2, (2, 33, 16, 16), generator=generator)).bfloat16()
    exact = z.double()
    assert torch.equal(exact.unique(), torch.tensor([996.0, 1000.0, 1004.0]).double())
    _, stats = torch.ops.pydistill.norm_act_pool(z, torch.ones(33), torch.zeros(33), "instance", "none", 1e-5)
    assert stats.dtype == torch.float32
    mean, variance = exact.mean((2, 3)), exact.var((2, 3), correction=0)
    assert (mean - mean.bfloat16()).abs().max() > 0.1  # what a statistic in bfloat16 would be wrong by
    torch.testing.assert_close(stats[:, 0].double(), mean, rtol=1e-7, atol=0)
    torch.testing.assert_close(stats[:, 1].double(), (variance + 1e-5).rsqrt(), rtol=1e-5, atol=0)


def test_what_is_not_finite_and_what_lies_halfway() -> None:
    """Without norm and pooling the result is z + bias, rounded once: to nearest, of two the even one."""
    ulp = 2.0**-7
    z = torch.tensor([1.0, 1 + ulp, 1.0, 1.0, 3.0e38, torch.nan, torch.inf]).bfloat16().reshape(1, -1, 1, 1)
    bias = torch.tensor([ulp / 2, ulp / 2, ulp / 2 * (1 + 2.0**-10), -(2.0**-9), 3.0e38, 0.0, 0.0])
    (out, _) = torch.ops.pydistill.norm_act_pool(z, None, bias, "none", "none", 0.0)
    expected = torch.tensor([1.0, 1 + 2 * ulp, 1 + ulp, 1.0, torch.inf, torch.nan, torch.inf]).bfloat16()
    torch.testing.assert_close(out.flatten(), expected, rtol=0, atol=0, equal_nan=True)
    exact = (z.float().flatten() + bias).bfloat16()
    torch.testing.assert_close(out.flatten(), exact, rtol=0, atol=0, equal_nan=True)


def test_parameters_are_in_float32() -> None:
    rounded, _ = planes((2, 3, 4, 4))
    with pytest.raises(ValueError, match=r"weight is BFloat16 where z is BFloat16; it must be Float"):
        torch.ops.pydistill.norm_act_pool(
            rounded.z[0], rounded.weight[0].bfloat16(), rounded.bias[0], "instance", "average", 1e-5
        )
    with pytest.raises(ValueError, match=r"grad_out is Float where z is BFloat16; it must be BFloat16"):
        torch.ops.pydistill.norm_act_pool_backward(
            rounded.grad[0].float(),
            *(rounded.z[0], rounded.weight[0], rounded.bias[0], torch.zeros(2, 2, 3), "instance", "average", 1e-5),
        )


def test_opcheck() -> None:
    rounded, _ = planes((2, 3, 4, 4))
    arguments = (rounded.z[0], rounded.weight[0], rounded.bias[0], "instance", "average", 1e-5)
    checks = torch.library.opcheck(
        torch.ops.pydistill.norm_act_pool.default, arguments, test_utils=("test_schema", "test_faketensor")
    )
    assert set(checks.values()) == {"SUCCESS"}


def test_same_bits_for_any_number_of_threads() -> None:
    before = torch.get_num_threads()
    rounded, _ = planes((5, 130, 33, 35))
    try:
        found = []
        for count in (1, 2, 3, 5):
            torch.set_num_threads(count)
            found.append([run(rounded, phase, "average", "instance") for phase in PHASES])
    finally:
        torch.set_num_threads(before)
    for other in found[1:]:
        for one, same in zip(found[0], other, strict=True):
            assert all(torch.equal(a, b) for a, b in zip(one, same, strict=True))
