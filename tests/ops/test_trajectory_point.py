"""`trajectory_point`, compiled and reference, on the CPU; what only a GPU can show is in its _cuda file."""

from __future__ import annotations

from collections.abc import Callable
from types import ModuleType

import pytest
import torch
from torch import Tensor

import pydistill.ops
import pydistill.reference
from pydistill.errors import InputError
from tests.ops.builds import compiled_only

Op = Callable[[Tensor, Tensor, Tensor, list[int]], Tensor]

DTYPES = [torch.float32, torch.float64]
# No tensor, empty ones first, last and side by side, one element each, and one that many threads share.
SIZES = [[], [0], [1], [0, 0, 3, 0], [5, 1, 1, 0, 0, 7, 0], [1] * 67, [97, 40_009, 3]]


@pytest.fixture
def op(module: ModuleType) -> Op:
    return module.trajectory_point


def arguments(sizes: list[int], dtype: torch.dtype) -> tuple[Tensor, Tensor, Tensor, list[int]]:
    generator = torch.Generator().manual_seed(len(sizes))
    start, end = (torch.randn(sum(sizes), dtype=dtype, generator=generator) for _ in range(2))
    return start, end, 3 * torch.rand(len(sizes), dtype=torch.float64, generator=generator) - 1, sizes


def expanded(weights: Tensor, sizes: list[int]) -> Tensor:
    return torch.repeat_interleave(weights, torch.tensor(sizes, dtype=torch.int64))


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("sizes", SIZES, ids=str)
def test_agrees_with_its_formula_in_float64(op: Op, sizes: list[int], dtype: torch.dtype) -> None:
    start, end, weights, _ = arguments(sizes, dtype)
    point = op(start, end, weights, sizes)
    expected = start.double() + expanded(weights, sizes) * (end.double() - start.double())
    torch.testing.assert_close(point.double(), expected, rtol=0, atol=32 * torch.finfo(dtype).eps)
    assert (point.dtype, point.shape) == (dtype, (sum(sizes),))


@pytest.mark.parametrize("dtype", DTYPES)
def test_weights_0_and_1_give_the_ends_exactly(op: Op, dtype: torch.dtype) -> None:
    sizes = [11, 13, 17]
    start, end, _, _ = arguments(sizes, dtype)
    point = op(start, 1e6 * end, torch.tensor([0.0, 1.0, 0.0], dtype=torch.float64), sizes)
    assert torch.equal(point, torch.cat([start[:11], 1e6 * end[11:24], start[24:]]))


def test_takes_views_and_leaves_its_arguments_alone(op: Op) -> None:
    wide = torch.arange(60.0).reshape(20, 3)
    weights = torch.arange(8, dtype=torch.float64)[1::3]
    before = wide.clone()
    point = op(wide[:, 0], wide[:, 2], weights, [3, 12, 5])
    assert torch.equal(point, op(wide[:, 0].clone(), wide[:, 2].clone(), weights.clone(), [3, 12, 5]))
    assert torch.equal(wide, before)
    assert point.is_contiguous()


def test_not_a_number_stays_where_it_is(op: Op) -> None:
    start, end, weights, sizes = arguments([5, 8], torch.float32)
    start[3] = end[7] = float("nan")
    point = op(start, end, weights, sizes)
    assert point.isnan().nonzero().flatten().tolist() == [3, 7]
    assert op(start, end, weights * torch.tensor([float("nan"), 1.0]), sizes)[:5].isnan().all()


@compiled_only
@pytest.mark.parametrize("dtype", DTYPES)
def test_same_bits_for_any_number_of_threads(dtype: torch.dtype) -> None:
    inputs = arguments([7, 150_001, 0, 31, 149_968], dtype)
    before = torch.get_num_threads()
    try:
        points = []
        for threads in (1, 2, 3, 5):
            torch.set_num_threads(threads)
            points.append(pydistill.ops.trajectory_point(*inputs))
    finally:
        torch.set_num_threads(before)
    assert all(torch.equal(point, points[0]) for point in points[1:])


@compiled_only
@pytest.mark.parametrize("needed", [0, 1, 2])
def test_a_derivative_raises(needed: int) -> None:
    inputs = arguments([5, 8], torch.float64)
    inputs[needed].requires_grad_()
    point = pydistill.ops.trajectory_point(*inputs)
    with pytest.raises(RuntimeError, match="trajectory_point"):
        torch.autograd.grad(point.sum(), inputs[needed])


def test_the_reference_has_every_derivative() -> None:
    *tensors, sizes = arguments([5, 0, 8], torch.float64)
    inputs = [value.requires_grad_() for value in tensors]

    def reference(*values: Tensor) -> Tensor:
        return pydistill.reference.trajectory_point(*values, sizes)

    assert torch.autograd.gradcheck(reference, inputs)
    assert torch.autograd.gradgradcheck(reference, inputs)


def test_forward_mode_and_function_transforms(op: Op) -> None:
    start, end, weights, sizes = arguments([5, 8], torch.float64)
    tangent = torch.ones_like(weights)
    _, actual = torch.func.jvp(lambda w: op(start, end, w, sizes), (weights,), (tangent,))
    torch.testing.assert_close(actual, end - start)
    gradient = torch.func.grad(lambda s: op(s, end, weights, sizes).sum())(start)
    torch.testing.assert_close(gradient, 1 - expanded(weights, sizes))
    with torch.autograd.forward_ad.dual_level():
        dual = op(start, end, torch.autograd.forward_ad.make_dual(weights, tangent), sizes)
        torch.testing.assert_close(torch.autograd.forward_ad.unpack_dual(dual).tangent, end - start)


@compiled_only
@pytest.mark.filterwarnings("ignore:The .grad attribute of a Tensor that is not a leaf:UserWarning")  # opcheck's own
@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("sizes", [[], [0], [3, 0, 7]], ids=str)
def test_opcheck(sizes: list[int], dtype: torch.dtype) -> None:
    checks = torch.library.opcheck(torch.ops.pydistill.trajectory_point.default, arguments(sizes, dtype))
    assert set(checks.values()) == {"SUCCESS"}


def test_meta_tensors_give_shapes(op: Op) -> None:
    start, end, weights, sizes = arguments([5, 8], torch.float32)
    point = op(start.to("meta"), end.to("meta"), weights.to("meta"), sizes)
    assert (point.shape, point.dtype, point.device.type) == ((13,), torch.float32, "meta")


def test_other_floating_dtypes_are_taken(op: Op) -> None:
    start, end = torch.zeros(3, dtype=torch.bfloat16), torch.ones(3, dtype=torch.bfloat16)
    point = op(start, end, torch.tensor([0.25, 0.5], dtype=torch.float64), [2, 1])
    assert point.dtype == torch.bfloat16
    assert point.tolist() == [0.25, 0.25, 0.5]


FLAT = r"start and end must be flat parameters \[13\] \(the sum of sizes\), not "
BAD_INPUT = [
    ("start", lambda v: v[:4], FLAT + r"\[4\] and \[13\]"),
    ("end", lambda v: v.reshape(1, 13), FLAT + r"\[13\] and \[1, 13\]"),
    ("weights", lambda v: v[:1], "weights"),
    ("weights", lambda v: v.reshape(2, 1), "weights"),
    ("weights", lambda v: v.tolist(), "weights"),
    ("weights", lambda v: v.float(), "weights"),
    ("start", lambda v: v.long(), "start"),
    ("end", lambda v: v.double(), "end"),
    ("end", lambda v: v.to("meta"), "end"),
    ("weights", lambda v: v.to("meta"), "weights"),
    ("sizes", lambda v: [14, -1], r"sizes\[1\]"),
]


@pytest.mark.parametrize(("name", "spoil", "message"), BAD_INPUT)
def test_bad_input_is_named(op: Op, name: str, spoil: Callable[[object], object], message: str) -> None:
    inputs = dict(zip(("start", "end", "weights", "sizes"), arguments([5, 8], torch.float32), strict=True))
    inputs[name] = spoil(inputs[name])
    with pytest.raises(InputError, match=message):
        op(**inputs)


@compiled_only
@pytest.mark.parametrize(
    ("name", "spoil", "message"),
    [
        ("start", lambda v: v[:4], FLAT + r"\[4\] and \[13\]"),
        ("end", lambda v: v.reshape(1, 13), FLAT + r"\[13\] and \[1, 13\]"),
        ("start", lambda v: v.half(), "start"),
        ("end", lambda v: v.double(), "end"),
        ("weights", lambda v: v.float(), "weights"),
        ("weights", lambda v: v[:1], "weights"),
        ("sizes", lambda v: [14, -1], r"sizes\[1\]"),
    ],
)
def test_the_compiled_op_called_by_itself_refuses_too(
    name: str, spoil: Callable[[object], object], message: str
) -> None:
    inputs = dict(zip(("start", "end", "weights", "sizes"), arguments([5, 8], torch.float32), strict=True))
    inputs[name] = spoil(inputs[name])
    with pytest.raises(ValueError, match=message):
        torch.ops.pydistill.trajectory_point(**inputs)
