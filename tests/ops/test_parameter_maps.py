"""`sgd_step` and `adjoint_step`, compiled and reference, on the CPU; GPU proofs are in test_parameter_maps_cuda.py."""

from __future__ import annotations

from collections.abc import Callable
from types import ModuleType

import pytest
import torch
from torch import Tensor

from pydistill.errors import InputError
from tests.ops.builds import compiled_only
from tests.ops.parameter_maps import ADJOINT_STEP, MAPS, SGD_STEP, WEIGHTED_SGD_STEP, Op, ParameterMap, sums_bound

SIZES = [0, 1, 2, 7, 8, 9, 97, 8191, 8192, 8193, 40_009]  # around the lanes and the chunks of csrc/cpu/reduce_chunk.h
DTYPES = [torch.float32, torch.float64]


@pytest.fixture(params=MAPS, ids=lambda step: step.case)
def step(request: pytest.FixtureRequest) -> ParameterMap:
    return request.param


@pytest.fixture
def op(module: ModuleType, step: ParameterMap) -> Op:
    return getattr(module, step.name)


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("size", SIZES)
def test_agrees_with_its_formula_in_float64(step: ParameterMap, op: Op, size: int, dtype: torch.dtype) -> None:
    inputs = step.random(size, dtype)
    following, sums = op(*inputs)
    torch.testing.assert_close(following.double(), step.formula(inputs), rtol=0, atol=8 * torch.finfo(dtype).eps)
    expected = step.sums(following, step.by_name(inputs))
    rtol = 1e-13 if step is not ADJOINT_STEP else 0
    torch.testing.assert_close(sums, expected, rtol=rtol, atol=sums_bound(step, inputs))
    assert (following.dtype, following.shape) == (dtype, (size,))
    assert (sums.dtype, sums.shape) == (torch.float64, step.sums_shape)


def test_known_numbers(step: ParameterMap, op: Op) -> None:
    vectors, expected, expected_sums = step.known
    following, sums = op(*step.inputs(tuple(map(torch.tensor, vectors)), torch.tensor(0.5)))
    assert following.tolist() == expected
    assert sums.flatten().tolist() == expected_sums


def test_sums_many_float32_values_without_losing_any(step: ParameterMap, op: Op) -> None:
    size = 3_000_000  # in float32 a running sum of ones stops growing at 2**24; here each term is 8
    factors, sums_of_one = step.of_ones
    ones = torch.ones(size)
    _, sums = op(*step.inputs(tuple(ones * factor for factor in factors), torch.tensor(0.0)))
    assert sums.flatten().tolist() == [size * term for term in sums_of_one]


def test_takes_views_and_leaves_its_arguments_alone(step: ParameterMap, op: Op) -> None:
    wide = torch.arange(60.0).reshape(20, 3)
    before = wide.clone()
    inputs = step.inputs(wide.unbind(1), torch.tensor([0.25, 9.0])[0])
    following, sums = op(*inputs)
    dense_following, dense_sums = op(*(value.clone() for value in inputs))
    assert torch.equal(following, dense_following)
    assert torch.equal(sums, dense_sums)
    assert torch.equal(wide, before)
    assert following.is_contiguous()


@pytest.mark.parametrize("bad", [float("nan"), float("inf")])
def test_non_finite_values_propagate(step: ParameterMap, op: Op, bad: float) -> None:
    inputs = step.random(9000, torch.float32)
    values = step.by_name(inputs)
    values["grad"][8500] = bad
    values[step.direction][8600] = bad
    following, sums = op(*inputs)
    places = [8500, 8600] if step is not ADJOINT_STEP else [8600]
    assert (~following.isfinite()).nonzero().flatten().tolist() == places
    assert not sums.isfinite().any()


@compiled_only
@pytest.mark.parametrize("dtype", DTYPES)
def test_same_bits_for_any_number_of_threads(step: ParameterMap, dtype: torch.dtype) -> None:
    inputs = step.random(300_007, dtype)
    before = torch.get_num_threads()
    try:
        results = []
        for threads in (1, 2, 3, 5):
            torch.set_num_threads(threads)
            results.append(step.op(*inputs))
    finally:
        torch.set_num_threads(before)
    for following, sums in results[1:]:
        assert torch.equal(following, results[0][0])
        assert torch.equal(sums, results[0][1])


@pytest.mark.parametrize("size", [0, 1, 7])
def test_gradcheck_and_gradgradcheck(step: ParameterMap, op: Op, size: int) -> None:
    inputs = step.random(size, torch.float64, requires_grad=True)
    assert torch.autograd.gradcheck(op, inputs)
    assert torch.autograd.gradgradcheck(op, inputs)


GRADIENTS = [
    (step, result, argument) for step in MAPS for result in range(2) for argument in range(len(step.arguments))
]


@pytest.mark.parametrize(
    ("step", "result", "argument"),
    [(step, result, argument) for step, result, argument in GRADIENTS if argument in step.depends_on[result]],
)
def test_gradient_of_one_result_in_one_argument_equals_the_references(
    step: ParameterMap, result: int, argument: int
) -> None:
    inputs = [value.requires_grad_(index == argument) for index, value in enumerate(step.random(13, torch.float64))]
    actual, expected = (
        torch.autograd.grad(op(*inputs)[result].square().sum(), inputs[argument])[0] for op in (step.op, step.reference)
    )
    torch.testing.assert_close(actual, expected, rtol=1e-13, atol=0)
    assert actual.any()


@pytest.mark.parametrize(
    ("step", "result", "argument"),
    [(step, result, argument) for step, result, argument in GRADIENTS if argument not in step.depends_on[result]],
)
def test_gradient_of_an_independent_argument_is_none(
    step: ParameterMap, module: ModuleType, result: int, argument: int
) -> None:
    inputs = step.random(13, torch.float64, requires_grad=True)
    results = getattr(module, step.name)(*inputs)
    (gradient,) = torch.autograd.grad(results[result].sum(), inputs[argument], allow_unused=True)
    assert gradient is None


def test_derivative_of_the_absolute_difference_is_zero_where_it_vanishes(module: ModuleType) -> None:
    theta = torch.tensor([1.0, 2.0], dtype=torch.float64, requires_grad=True)
    lr = torch.tensor(1.0, dtype=torch.float64)
    _, distances = getattr(module, SGD_STEP.name)(theta, torch.zeros_like(theta), lr, torch.ones_like(theta))
    (gradient,) = torch.autograd.grad(distances[0], theta)
    assert gradient.tolist() == [0.0, 1.0]


def _scalar_of_lr(step: ParameterMap, op: Op) -> tuple[Callable[[Tensor], Tensor], Tensor, Tensor, Tensor]:
    """A scalar function of α, α, and the function's first and second derivative there."""
    inputs = step.random(11, torch.float64)
    values = step.by_name(inputs)
    lr, direction = values["lr"], values[step.direction]

    def function(rate: Tensor) -> Tensor:
        following, sums = op(*inputs[: step.lr], rate, *inputs[step.lr + 1 :])
        return sums[1] if step is not ADJOINT_STEP else following.square().sum() + sums

    end = step.formula(inputs) - (values["target"] if step is not ADJOINT_STEP else 0)
    weights = values.get("weights", torch.ones_like(end))
    return function, lr, -2 * (weights * end * direction).sum(), 2 * (weights * direction.square()).sum()


def test_forward_mode_and_function_transforms(step: ParameterMap, op: Op) -> None:
    function, lr, slope, curvature = _scalar_of_lr(step, op)
    torch.testing.assert_close(torch.func.grad(function)(lr), slope)
    torch.testing.assert_close(torch.func.jvp(function, (lr,), (torch.ones_like(lr),))[1], slope)
    with torch.autograd.forward_ad.dual_level():
        dual = function(torch.autograd.forward_ad.make_dual(lr, torch.ones_like(lr)))
        torch.testing.assert_close(torch.autograd.forward_ad.unpack_dual(dual).tangent, slope)
    torch.testing.assert_close(torch.func.jacfwd(torch.func.grad(function))(lr), curvature)


@compiled_only
@pytest.mark.filterwarnings("ignore:The .grad attribute of a Tensor that is not a leaf:UserWarning")  # opcheck's own
@pytest.mark.parametrize("requires_grad", [False, True])
@pytest.mark.parametrize("dtype", DTYPES)
def test_opcheck(step: ParameterMap, dtype: torch.dtype, requires_grad: bool) -> None:
    for size in (0, 1, 97):
        checks = torch.library.opcheck(step.compiled.default, step.random(size, dtype, requires_grad=requires_grad))
        assert set(checks.values()) == {"SUCCESS"}


def test_meta_tensors_give_shapes(step: ParameterMap, op: Op) -> None:
    following, sums = op(*(value.to("meta") for value in step.random(5, torch.float32)))
    assert (following.shape, following.dtype, following.device.type) == ((5,), torch.float32, "meta")
    assert (sums.shape, sums.dtype, sums.device.type) == (step.sums_shape, torch.float64, "meta")


Spoil = Callable[[Tensor], object]

WRONG_SHAPE_OR_DTYPE: list[tuple[ParameterMap, str, Spoil]] = [
    (SGD_STEP, "theta", lambda v: v.half()),
    (SGD_STEP, "theta", lambda v: v.reshape(5, 1)),
    (SGD_STEP, "target", lambda v: v.reshape(1, 5)),
    (SGD_STEP, "target", lambda v: v.double()),
    (WEIGHTED_SGD_STEP, "weights", lambda v: v[:4]),
    (WEIGHTED_SGD_STEP, "weights", lambda v: v.double()),
    (ADJOINT_STEP, "adjoint", lambda v: v.half()),
    (ADJOINT_STEP, "adjoint", lambda v: v.reshape(5, 1)),
    (ADJOINT_STEP, "product", lambda v: v[:4]),
    (ADJOINT_STEP, "grad", lambda v: v.reshape(1, 5)),
    *((step, "grad", lambda v: v[:4]) for step in MAPS),
    *((step, "grad", lambda v: v.double()) for step in MAPS),
    *((step, "lr", lambda v: v.double()) for step in MAPS),
    *((step, "lr", lambda v: v.reshape(1)) for step in MAPS),
]
WRONG_KIND_OR_DEVICE: list[tuple[ParameterMap, str, Spoil]] = [
    (SGD_STEP, "target", lambda v: v.to("meta")),
    (WEIGHTED_SGD_STEP, "weights", lambda v: v.to("meta")),
    (WEIGHTED_SGD_STEP, "weights", lambda v: 0.5),
    (ADJOINT_STEP, "product", lambda v: v.to("meta")),
    *((step, "grad", lambda v: v.to("meta")) for step in MAPS),
    *((step, "lr", lambda v: v.to("meta")) for step in MAPS),
    *((step, "lr", lambda v: 0.1) for step in MAPS),
]


@pytest.mark.parametrize(("step", "name", "spoil"), WRONG_SHAPE_OR_DTYPE + WRONG_KIND_OR_DEVICE)
def test_bad_input_is_named(step: ParameterMap, module: ModuleType, name: str, spoil: Spoil) -> None:
    inputs: dict[str, object] = dict(step.by_name(step.random(5, torch.float32)))
    inputs[name] = spoil(inputs[name])  # type: ignore[arg-type]
    with pytest.raises(InputError, match=f"{step.name}: {name} "):
        getattr(module, step.name)(**inputs)


@compiled_only
@pytest.mark.parametrize(("step", "name", "spoil"), WRONG_SHAPE_OR_DTYPE)
def test_the_compiled_op_checks_its_arguments_too(
    step: ParameterMap, name: str, spoil: Callable[[Tensor], Tensor]
) -> None:
    inputs = step.by_name(step.random(5, torch.float32))
    inputs[name] = spoil(inputs[name])
    with pytest.raises(ValueError, match=name):
        step.compiled(**inputs)
