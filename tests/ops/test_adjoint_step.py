"""`adjoint_step`, compiled and reference, on the CPU; what only a GPU can show is in test_adjoint_step_cuda.py."""

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
    return getattr(pydistill, request.param).adjoint_step


def arguments(size: int, dtype: torch.dtype, *, requires_grad: bool = False) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    generator = torch.Generator().manual_seed(size)
    adjoint, product, grad = (torch.randn(size, dtype=dtype, generator=generator) for _ in range(3))
    lr = torch.tensor(0.3, dtype=dtype)
    return tuple(value.requires_grad_(requires_grad) for value in (adjoint, product, grad, lr))


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("size", SIZES)
def test_agrees_with_its_formula_in_float64(op: Op, size: int, dtype: torch.dtype) -> None:
    adjoint, product, grad, lr = arguments(size, dtype)
    adjoint_next, inner = op(adjoint, product, grad, lr)
    expected = adjoint.double() - lr.double() * product.double()
    torch.testing.assert_close(adjoint_next.double(), expected, rtol=0, atol=8 * torch.finfo(dtype).eps)
    terms = adjoint.double() * grad.double()
    torch.testing.assert_close(inner, terms.sum(), rtol=0, atol=1e-14 * (1 + terms.abs().sum().item()))
    assert (adjoint_next.dtype, adjoint_next.shape) == (dtype, (size,))
    assert (inner.dtype, inner.shape) == (torch.float64, ())


def test_known_numbers(op: Op) -> None:
    adjoint, product, grad = torch.tensor([1.0, 2.0]), torch.tensor([2.0, -4.0]), torch.tensor([3.0, -1.0])
    adjoint_next, inner = op(adjoint, product, grad, torch.tensor(0.5))
    assert adjoint_next.tolist() == [0.0, 4.0]
    assert inner.item() == 1.0


def test_sums_many_float32_values_without_losing_any(op: Op) -> None:
    size = 3_000_000  # in float32 a running sum of ones stops growing at 2**24; here each term is 8
    ones = torch.ones(size)
    _, inner = op(ones, ones, ones * 8, torch.tensor(0.0))
    assert inner.item() == 8.0 * size


def test_takes_views_and_leaves_its_arguments_alone(op: Op) -> None:
    wide = torch.arange(60.0).reshape(20, 3)
    adjoint, product, grad = wide[:, 0], wide[:, 1], wide[:, 2]
    before = wide.clone()
    lr = torch.tensor([0.25, 9.0])[0]
    adjoint_next, inner = op(adjoint, product, grad, lr)
    dense_next, dense_inner = op(adjoint.clone(), product.clone(), grad.clone(), lr.clone())
    assert torch.equal(adjoint_next, dense_next)
    assert torch.equal(inner, dense_inner)
    assert torch.equal(wide, before)
    assert adjoint_next.is_contiguous()


@pytest.mark.parametrize("bad", [float("nan"), float("inf")])
def test_what_is_not_finite_shows(op: Op, bad: float) -> None:
    adjoint, product, grad, lr = arguments(9000, torch.float32)
    grad[8500] = bad
    product[8600] = bad
    adjoint_next, inner = op(adjoint, product, grad, lr)
    assert not inner.isfinite()
    assert (~adjoint_next.isfinite()).nonzero().flatten().tolist() == [8600]


@compiled_only
@pytest.mark.parametrize("dtype", DTYPES)
def test_same_bits_for_any_number_of_threads(dtype: torch.dtype) -> None:
    inputs = arguments(300_007, dtype)
    before = torch.get_num_threads()
    try:
        results = []
        for threads in (1, 2, 3, 5):
            torch.set_num_threads(threads)
            results.append(pydistill.ops.adjoint_step(*inputs))
    finally:
        torch.set_num_threads(before)
    for adjoint_next, inner in results[1:]:
        assert torch.equal(adjoint_next, results[0][0])
        assert torch.equal(inner, results[0][1])


@pytest.mark.parametrize("size", [0, 1, 7])
def test_gradcheck_and_gradgradcheck(op: Op, size: int) -> None:
    inputs = arguments(size, torch.float64, requires_grad=True)
    assert torch.autograd.gradcheck(op, inputs)
    assert torch.autograd.gradgradcheck(op, inputs)


@pytest.mark.parametrize(("which", "needed"), [(0, 0), (0, 1), (0, 3), (1, 0), (1, 2)])
def test_gradient_of_one_result_in_one_argument_is_the_references(which: int, needed: int) -> None:
    inputs = [value.requires_grad_(index == needed) for index, value in enumerate(arguments(13, torch.float64))]
    found, expected = (
        torch.autograd.grad(op(*inputs)[which].square().sum(), inputs[needed])[0]
        for op in (pydistill.ops.adjoint_step, pydistill.reference.adjoint_step)
    )
    torch.testing.assert_close(found, expected, rtol=1e-13, atol=0)
    assert found.any()


@pytest.mark.parametrize(("which", "needed"), [(0, 2), (1, 1), (1, 3)])
def test_a_result_does_not_depend_on_the_others_argument(op: Op, which: int, needed: int) -> None:
    inputs = arguments(13, torch.float64, requires_grad=True)
    (gradient,) = torch.autograd.grad(op(*inputs)[which].sum(), inputs[needed], allow_unused=True)
    assert gradient is None


def test_forward_mode_and_function_transforms(op: Op) -> None:
    adjoint, product, grad, lr = arguments(11, torch.float64)

    def squared(rate: Tensor) -> Tensor:
        adjoint_next, inner = op(adjoint, product, grad, rate)
        return adjoint_next.square().sum() + inner

    slope = -2 * ((adjoint - lr * product) * product).sum()
    torch.testing.assert_close(torch.func.grad(squared)(lr), slope)
    torch.testing.assert_close(torch.func.jvp(squared, (lr,), (torch.ones_like(lr),))[1], slope)
    with torch.autograd.forward_ad.dual_level():
        dual = squared(torch.autograd.forward_ad.make_dual(lr, torch.ones_like(lr)))
        torch.testing.assert_close(torch.autograd.forward_ad.unpack_dual(dual).tangent, slope)


@compiled_only
@pytest.mark.filterwarnings("ignore:The .grad attribute of a Tensor that is not a leaf:UserWarning")  # opcheck's own
@pytest.mark.parametrize("requires_grad", [False, True])
@pytest.mark.parametrize("dtype", DTYPES)
def test_opcheck(dtype: torch.dtype, requires_grad: bool) -> None:
    for size in (0, 1, 97):
        checks = torch.library.opcheck(
            torch.ops.pydistill.adjoint_step.default, arguments(size, dtype, requires_grad=requires_grad)
        )
        assert set(checks.values()) == {"SUCCESS"}


def test_meta_tensors_give_shapes(op: Op) -> None:
    adjoint_next, inner = op(*(value.to("meta") for value in arguments(5, torch.float32)))
    assert (adjoint_next.shape, adjoint_next.dtype, adjoint_next.device.type) == ((5,), torch.float32, "meta")
    assert (inner.shape, inner.dtype, inner.device.type) == ((), torch.float64, "meta")


BAD_INPUT = [
    ("adjoint", lambda v: v.half(), r"adjoint is torch\.float16; it must be torch\.float32 or torch\.float64"),
    ("adjoint", lambda v: v.reshape(5, 1), r"adjoint has shape \[5, 1\]; it must be a vector \[P\]"),
    ("product", lambda v: v[:4], r"product has shape \[4\] where adjoint has shape \[5\]"),
    ("grad", lambda v: v.reshape(1, 5), r"grad has shape \[1, 5\] where adjoint has shape \[5\]"),
    ("grad", lambda v: v.double(), r"grad is torch\.float64 where adjoint is torch\.float32"),
    ("lr", lambda v: v.double(), r"lr is torch\.float64 where adjoint is torch\.float32"),
    ("lr", lambda v: v.reshape(1), r"lr has shape \[1\]; it must be a 0-dim tensor"),
    ("lr", lambda v: 0.1, r"lr must be a tensor, not float"),
    ("lr", lambda v: v.to("meta"), r"lr is on meta where adjoint is on cpu"),
    ("grad", lambda v: v.to("meta"), r"grad is on meta where adjoint is on cpu"),
    ("product", lambda v: v.to("meta"), r"product is on meta where adjoint is on cpu"),
]


@pytest.mark.parametrize(("name", "spoil", "message"), BAD_INPUT)
def test_bad_input_is_named(op: Op, name: str, spoil: Callable[[Tensor], object], message: str) -> None:
    inputs = dict(zip(("adjoint", "product", "grad", "lr"), arguments(5, torch.float32), strict=True))
    inputs[name] = spoil(inputs[name])
    with pytest.raises(InputError, match=message):
        op(**inputs)


@compiled_only
@pytest.mark.parametrize(
    ("name", "spoil", "message"),
    [
        ("adjoint", lambda v: v.half(), "adjoint"),
        ("adjoint", lambda v: v.reshape(5, 1), "adjoint"),
        ("product", lambda v: v[:4], "product"),
        ("grad", lambda v: v[:4], "grad"),
        ("grad", lambda v: v.double(), "grad"),
        ("lr", lambda v: v.double(), "lr"),
        ("lr", lambda v: v.reshape(1), "lr"),
    ],
)
def test_the_compiled_op_called_by_itself_refuses_too(
    name: str, spoil: Callable[[Tensor], Tensor], message: str
) -> None:
    inputs = dict(zip(("adjoint", "product", "grad", "lr"), arguments(5, torch.float32), strict=True))
    inputs[name] = spoil(inputs[name])
    with pytest.raises(ValueError, match=message):
        torch.ops.pydistill.adjoint_step(**inputs)
