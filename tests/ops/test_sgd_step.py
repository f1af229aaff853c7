"""`sgd_step`, compiled and reference, on the CPU; what only a GPU can show is in test_sgd_step_cuda.py."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from torch import Tensor

import pydistill.ops
import pydistill.reference
from pydistill.errors import InputError
from pydistill.ops.build_info import build_config

Op = Callable[[Tensor, Tensor, Tensor, Tensor], tuple[Tensor, Tensor]]

compiled_only = pytest.mark.skipif(
    not build_config()["compiled"], reason=f"compiled ops only: {build_config()['reason']}"
)
SIZES = [0, 1, 2, 7, 8, 9, 97, 8191, 8192, 8193, 40_009]  # around the lanes and the chunks of csrc/cpu/reduce_chunk.h
DTYPES = [torch.float32, torch.float64]


@pytest.fixture(params=["ops", "reference"])
def op(request: pytest.FixtureRequest) -> Op:
    return getattr(pydistill, request.param).sgd_step


def arguments(size: int, dtype: torch.dtype, *, requires_grad: bool = False) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    generator = torch.Generator().manual_seed(size)
    theta, grad, target = (torch.randn(size, dtype=dtype, generator=generator) for _ in range(3))
    lr = torch.tensor(0.3, dtype=dtype)
    return tuple(value.requires_grad_(requires_grad) for value in (theta, grad, lr, target))


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("size", SIZES)
def test_agrees_with_its_formula_in_float64(op: Op, size: int, dtype: torch.dtype) -> None:
    theta, grad, lr, target = arguments(size, dtype)
    theta_next, distances = op(theta, grad, lr, target)
    expected = theta.double() - lr.double() * grad.double()
    torch.testing.assert_close(theta_next.double(), expected, rtol=0, atol=8 * torch.finfo(dtype).eps)
    gap = (theta_next - target).double()
    torch.testing.assert_close(distances, torch.stack([gap.abs().sum(), gap.square().sum()]), rtol=1e-13, atol=0)
    assert theta_next.dtype == dtype
    assert distances.dtype == torch.float64
    assert theta_next.shape == (size,)


def test_distances_of_known_numbers(op: Op) -> None:
    theta, grad, target = torch.tensor([1.0, 2.0]), torch.tensor([2.0, -4.0]), torch.tensor([1.0, 1.0])
    theta_next, distances = op(theta, grad, torch.tensor(0.5), target)
    assert theta_next.tolist() == [0.0, 4.0]
    assert distances.tolist() == [4.0, 10.0]


def test_sums_many_float32_values_without_losing_any(op: Op) -> None:
    size = 3_000_000  # in float32 a running sum of ones stops growing at 2**24; here each term is 8
    ones = torch.ones(size)
    _, distances = op(ones, ones, torch.tensor(0.0), ones * 9)
    assert distances.tolist() == [8.0 * size, 64.0 * size]


def test_takes_views_and_leaves_its_arguments_alone(op: Op) -> None:
    wide = torch.arange(60.0).reshape(20, 3)
    theta, grad, target = wide[:, 0], wide[:, 1], wide[:, 2]
    before = wide.clone()
    lr = torch.tensor([0.25, 9.0])[0]
    theta_next, distances = op(theta, grad, lr, target)
    dense_next, dense_distances = op(theta.clone(), grad.clone(), lr.clone(), target.clone())
    assert torch.equal(theta_next, dense_next)
    assert torch.equal(distances, dense_distances)
    assert torch.equal(wide, before)
    assert theta_next.is_contiguous()


@pytest.mark.parametrize("bad", [float("nan"), float("inf")])
def test_what_is_not_finite_shows_in_the_distances(op: Op, bad: float) -> None:
    theta, grad, lr, target = arguments(9000, torch.float32)
    grad[8500] = bad
    theta_next, distances = op(theta, grad, lr, target)
    assert not theta_next[8500].isfinite()
    assert not distances.isfinite().any()
    assert theta_next[:8500].isfinite().all()


@compiled_only
@pytest.mark.parametrize("dtype", DTYPES)
def test_same_bits_for_any_number_of_threads(dtype: torch.dtype) -> None:
    inputs = arguments(300_007, dtype)
    before = torch.get_num_threads()
    try:
        results = []
        for threads in (1, 2, 3, 5):
            torch.set_num_threads(threads)
            results.append(pydistill.ops.sgd_step(*inputs))
    finally:
        torch.set_num_threads(before)
    for theta_next, distances in results[1:]:
        assert torch.equal(theta_next, results[0][0])
        assert torch.equal(distances, results[0][1])


@pytest.mark.parametrize("size", [0, 1, 7])
def test_gradcheck_and_gradgradcheck(op: Op, size: int) -> None:
    inputs = arguments(size, torch.float64, requires_grad=True)
    assert torch.autograd.gradcheck(op, inputs)
    assert torch.autograd.gradgradcheck(op, inputs)


@pytest.mark.parametrize(("which", "needed"), [(0, 0), (0, 1), (0, 2), (1, 0), (1, 1), (1, 2), (1, 3)])
def test_gradient_of_one_result_in_one_argument_is_the_references(which: int, needed: int) -> None:
    inputs = [value.requires_grad_(index == needed) for index, value in enumerate(arguments(13, torch.float64))]
    found, expected = (
        torch.autograd.grad(op(*inputs)[which].square().sum(), inputs[needed])[0]
        for op in (pydistill.ops.sgd_step, pydistill.reference.sgd_step)
    )
    torch.testing.assert_close(found, expected, rtol=1e-13, atol=0)
    assert found.any()


def test_the_target_does_not_move_the_step(op: Op) -> None:
    theta, grad, lr, target = arguments(13, torch.float64)
    theta_next, _ = op(theta.requires_grad_(), grad, lr, target.requires_grad_())
    (gradient,) = torch.autograd.grad(theta_next.sum(), target, allow_unused=True)
    assert gradient is None


def test_derivative_of_the_absolute_difference_is_zero_where_it_vanishes(op: Op) -> None:
    theta = torch.tensor([1.0, 2.0], dtype=torch.float64, requires_grad=True)
    _, distances = op(theta, torch.zeros_like(theta), torch.tensor(1.0, dtype=torch.float64), torch.ones_like(theta))
    (gradient,) = torch.autograd.grad(distances[0], theta)
    assert gradient.tolist() == [0.0, 1.0]


def test_forward_mode_and_function_transforms(op: Op) -> None:
    theta, grad, lr, target = arguments(11, torch.float64)

    def squared(rate: Tensor) -> Tensor:
        return op(theta, grad, rate, target)[1][1]

    gap = theta - lr * grad - target
    slope = -2 * (gap * grad).sum()
    torch.testing.assert_close(torch.func.grad(squared)(lr), slope)
    torch.testing.assert_close(torch.func.jvp(squared, (lr,), (torch.ones_like(lr),))[1], slope)
    with torch.autograd.forward_ad.dual_level():
        dual = squared(torch.autograd.forward_ad.make_dual(lr, torch.ones_like(lr)))
        torch.testing.assert_close(torch.autograd.forward_ad.unpack_dual(dual).tangent, slope)
    curvature = torch.func.jacfwd(torch.func.grad(squared))(lr)
    torch.testing.assert_close(curvature, 2 * grad.square().sum())


@compiled_only
@pytest.mark.filterwarnings("ignore:The .grad attribute of a Tensor that is not a leaf:UserWarning")  # opcheck's own
@pytest.mark.parametrize("requires_grad", [False, True])
@pytest.mark.parametrize("dtype", DTYPES)
def test_opcheck(dtype: torch.dtype, requires_grad: bool) -> None:
    for size in (0, 1, 97):
        checks = torch.library.opcheck(
            torch.ops.pydistill.sgd_step.default, arguments(size, dtype, requires_grad=requires_grad)
        )
        assert set(checks.values()) == {"SUCCESS"}


def test_meta_tensors_give_shapes(op: Op) -> None:
    theta, grad, lr, target = (value.to("meta") for value in arguments(5, torch.float32))
    theta_next, distances = op(theta, grad, lr, target)
    assert (theta_next.shape, theta_next.dtype, theta_next.device.type) == ((5,), torch.float32, "meta")
    assert (distances.shape, distances.dtype, distances.device.type) == ((2,), torch.float64, "meta")


BAD_INPUT = [
    ("theta", lambda v: v.half(), r"theta is torch\.float16; it must be torch\.float32 or torch\.float64"),
    ("theta", lambda v: v.reshape(5, 1), r"theta has shape \[5, 1\]; it must be a vector \[P\]"),
    ("grad", lambda v: v[:4], r"grad has shape \[4\] where theta has shape \[5\]"),
    ("target", lambda v: v.reshape(1, 5), r"target has shape \[1, 5\] where theta has shape \[5\]"),
    ("grad", lambda v: v.double(), r"grad is torch\.float64 where theta is torch\.float32"),
    ("lr", lambda v: v.double(), r"lr is torch\.float64 where theta is torch\.float32"),
    ("lr", lambda v: v.reshape(1), r"lr has shape \[1\]; it must be a 0-dim tensor"),
    ("lr", lambda v: 0.1, r"lr must be a tensor, not float"),
    ("lr", lambda v: v.to("meta"), r"lr is on meta where theta is on cpu"),
    ("grad", lambda v: v.to("meta"), r"grad is on meta where theta is on cpu"),
    ("target", lambda v: v.to("meta"), r"target is on meta where theta is on cpu"),
]


@pytest.mark.parametrize(("name", "spoil", "message"), BAD_INPUT)
def test_bad_input_is_named(op: Op, name: str, spoil: Callable[[Tensor], object], message: str) -> None:
    inputs = dict(zip(("theta", "grad", "lr", "target"), arguments(5, torch.float32), strict=True))
    inputs[name] = spoil(inputs[name])
    with pytest.raises(InputError, match=message):
        op(**inputs)


@compiled_only
@pytest.mark.parametrize(
    ("name", "spoil", "message"),
    [
        ("theta", lambda v: v.half(), "theta"),
        ("grad", lambda v: v[:4], "grad"),
        ("target", lambda v: v.double(), "target"),
        ("lr", lambda v: v.double(), "lr"),
        ("lr", lambda v: v.reshape(1), "lr"),
    ],
)
def test_the_compiled_op_called_by_itself_refuses_too(
    name: str, spoil: Callable[[Tensor], Tensor], message: str
) -> None:
    inputs = dict(zip(("theta", "grad", "lr", "target"), arguments(5, torch.float32), strict=True))
    inputs[name] = spoil(inputs[name])
    with pytest.raises(ValueError, match=message):
        torch.ops.pydistill.sgd_step(**inputs)
