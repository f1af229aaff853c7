"""`augment` and its backward on the CPU, compiled and reference; a GPU's part is in test_augment_cuda.py."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Sequence
from types import ModuleType
from typing import Any

import pytest
import torch
from torch import Tensor

import pydistill.ops
import pydistill.reference
from pydistill.data.dsa import COLUMNS, DsaSettings, draw_tables
from pydistill.errors import InputError
from tests.ops.builds import compiled_only

DTYPES = [torch.float32, torch.float64]
OPERATIONS = tuple(COLUMNS)
SHAPES = [(1, 1, 1, 1), (2, 3, 1, 9), (2, 2, 7, 1), (3, 1, 8, 8), (2, 4, 5, 6), (2, 5, 9, 12), (2, 3, 33, 31)]


class Problem:
    """Images, and numbers drawn for a batch of them."""

    def __init__(
        self,
        operations: Sequence[str] = OPERATIONS,
        shape: tuple[int, int, int, int] = (4, 3, 8, 7),
        dtype: torch.dtype = torch.float64,
        index: Sequence[int] | None = None,
        shared: bool = False,
        seed: int = 0,
    ) -> None:
        generator = torch.Generator().manual_seed(seed)
        batch = shape[0] if index is None else len(index)
        settings = DsaSettings(strategy="_".join(operations), mode="M", shared=shared)
        draw = settings.draw(batch, *shape[2:], generator)
        operation_table, parameter_table = draw_tables([draw], "cpu", dtype)
        self.operations, self.parameters = operation_table[0], parameter_table[0]
        self.images = torch.randn(shape, dtype=dtype, generator=generator)
        self.grad = torch.randn(batch, *shape[1:], dtype=dtype, generator=generator)
        self.index = None if index is None else torch.tensor(index, dtype=torch.int64)

    @property
    def arguments(self) -> tuple[Tensor, Tensor, Tensor, Tensor | None]:
        return self.images, self.operations, self.parameters, self.index

    def run(self, where: Any = pydistill.ops) -> tuple[Tensor, Tensor]:
        """The batch, and the gradient of the images."""
        count = self.images.shape[0]
        rest = (self.operations, self.parameters, self.index)
        return where.augment(self.images, *rest), where.augment_backward(self.grad, *rest, count)


def assert_agrees(problem: Problem, tolerance: float) -> None:
    for actual, expected in zip(problem.run(), problem.run(pydistill.reference), strict=True):
        assert actual.shape == expected.shape
        torch.testing.assert_close(actual, expected, rtol=tolerance, atol=tolerance)


@compiled_only
@pytest.mark.parametrize("shared", [False, True], ids=["each", "shared"])
@pytest.mark.parametrize("operation", OPERATIONS)
def test_agrees_with_the_reference(operation: str, shared: bool) -> None:
    for shape, seed in itertools.product(SHAPES, range(3)):
        assert_agrees(Problem((operation,), shape, shared=shared, seed=seed), 1e-12)


@compiled_only
@pytest.mark.parametrize("operation", OPERATIONS)
def test_float32_is_as_accurate_as_pytorch(operation: str) -> None:
    for seed in range(3):
        single = Problem((operation,), (3, 3, 32, 30), torch.float32, seed=seed)
        exact = Problem((operation,), (3, 3, 32, 30), seed=seed)
        exact.images, exact.grad = single.images.double(), single.grad.double()
        exact.parameters = single.parameters.double()
        truths = exact.run(pydistill.reference)
        for actual, plain, truth in zip(single.run(), single.run(pydistill.reference), truths, strict=True):
            assert actual.dtype == torch.float32
            floor = 4 * torch.finfo(torch.float32).eps * truth.abs().max()
            assert (actual - truth).abs().max() <= 2 * (plain - truth).abs().max() + floor


@compiled_only
def test_every_order_of_the_operations() -> None:
    for number, operations in enumerate(itertools.permutations(OPERATIONS)):
        if number % 7 == 0:  # of 720 orders, spread over all first and all last operations
            assert_agrees(Problem(operations, (2, 2, 5, 6), seed=number), 1e-11)


@compiled_only
def test_every_pair_and_an_operation_twice() -> None:
    for operations in itertools.product(OPERATIONS, repeat=2):
        assert_agrees(Problem(operations, (2, 3, 6, 5)), 1e-12)


@compiled_only
@pytest.mark.parametrize("index", [[2], [3, 0], [1, 1, 3, 1, 0, 3, 3], []], ids=str)
@pytest.mark.parametrize("shared", [False, True], ids=["each", "shared"])
def test_images_may_be_named_any_number_of_times(index: list[int], shared: bool) -> None:
    problem = Problem(index=index, shared=shared and bool(index))
    assert_agrees(problem, 1e-12)
    for image in set(range(4)) - set(index):
        assert not problem.run()[1][image].any()


def test_a_list_ends_at_minus_one(module: ModuleType) -> None:
    problem = Problem(("flip",))
    expected = problem.run(module)
    problem.operations = torch.tensor([3, -1, 17])
    problem.parameters = torch.cat([problem.parameters, torch.full((4, 3), 9.0)], dim=1)
    for actual, same in zip(problem.run(module), expected, strict=True):
        assert torch.equal(actual, same)


def test_without_operations_the_batch_is_gathered(module: ModuleType) -> None:
    for operations in ([], [-1, 3]):
        problem = Problem((), index=[2, 2, 0])
        problem.operations = torch.tensor(operations, dtype=torch.int64)
        problem.parameters = torch.ones(3, 1, dtype=torch.float64)
        batch, gradient = problem.run(module)
        assert torch.equal(batch, problem.images[[2, 2, 0]])
        assert torch.equal(gradient[2], problem.grad[0] + problem.grad[1])
        assert torch.equal(gradient[0], problem.grad[2])


def test_a_new_tensor_even_where_nothing_changes(module: ModuleType) -> None:
    problem = Problem(())
    before = problem.images.clone()
    module.augment(*problem.arguments).zero_()
    assert torch.equal(problem.images, before)


def test_known_numbers(module: ModuleType) -> None:
    image = torch.tensor([[[[1.0, 2.0], [3.0, 4.0]]]])

    def run(operation: int, *parameters: float) -> list[list[float]]:
        return module.augment(image, torch.tensor([operation]), torch.tensor([parameters]))[0, 0].tolist()

    assert run(0, 0.5, 1.0, 2.0) == [[0.0, 2.0], [4.0, 6.0]]
    assert run(1, 1.0, -1.0) == [[0.0, 3.0], [0.0, 0.0]]
    assert run(2, 0.0, 1.0, 1.0, 2.0) == [[1.0, 0.0], [3.0, 4.0]]
    assert run(3, 1.0) == [[2.0, 1.0], [4.0, 3.0]]
    assert run(3, 0.0) == [[1.0, 2.0], [3.0, 4.0]]
    assert run(4, 0.0, 1.0) == [[1.5, 1.5], [3.5, 3.5]]
    assert run(5, 0.0) == [[1.0, 2.0], [3.0, 4.0]]


def test_the_backward_is_the_transpose(module: ModuleType) -> None:
    """⟨A x, y⟩ = ⟨x, Aᵀ y⟩ with A the part without brightness."""
    for seed, index in itertools.product(range(5), (None, [0, 2, 2, 1, 3])):
        problem = Problem(index=index, seed=seed)
        batch, gradient = problem.run(module)
        problem.images = torch.zeros_like(problem.images)
        linear = batch - problem.run(module)[0]
        problem = Problem(index=index, seed=seed)
        torch.testing.assert_close((linear * problem.grad).sum(), (problem.images * gradient).sum())


@pytest.mark.parametrize("operations", [*[(value,) for value in OPERATIONS], OPERATIONS], ids="_".join)
@pytest.mark.parametrize("index", [None, [1, 0, 1]], ids=["all", "index"])
def test_gradcheck_and_gradgradcheck(module: ModuleType, operations: tuple[str, ...], index: list[int] | None) -> None:
    problem = Problem(operations, (2, 2, 4, 5), index=index)
    rest = (problem.operations, problem.parameters, problem.index)
    assert torch.autograd.gradcheck(lambda x: module.augment(x, *rest), (problem.images.requires_grad_(),))
    assert torch.autograd.gradcheck(lambda g: module.augment_backward(g, *rest, 2), (problem.grad.requires_grad_(),))
    if module is pydistill.ops or not {"scale", "rotate"} & set(operations):
        assert torch.autograd.gradgradcheck(lambda x: module.augment(x, *rest).square(), (problem.images,))


@compiled_only
def test_brightness_is_no_part_of_the_derivative() -> None:
    problem = Problem(("color",))
    grad = problem.grad.requires_grad_()
    gradient = pydistill.ops.augment_backward(grad, problem.operations, problem.parameters, None, 4)
    (actual,) = torch.autograd.grad(gradient, grad, torch.zeros_like(gradient))
    assert not actual.any()


def test_gradients_in_the_parameters_come_from_plain_pytorch() -> None:
    problem = Problem(("color", "rotate"))
    parameters = problem.parameters.clone().requires_grad_()
    actual, expected = (
        torch.autograd.grad(op.augment(problem.images, problem.operations, parameters).square().sum(), parameters)[0]
        for op in (pydistill.ops, pydistill.reference)
    )
    assert actual.any()
    assert torch.equal(actual, expected)


@compiled_only
def test_the_compiled_op_called_by_itself_refuses_a_gradient_in_the_parameters() -> None:
    problem = Problem(("color",))
    parameters = problem.parameters.requires_grad_()
    batch = torch.ops.pydistill.augment(problem.images, problem.operations, parameters, None, False)
    with pytest.raises(RuntimeError, match="augment"):
        batch.sum().backward()


@compiled_only
@pytest.mark.parametrize("operations", [("crop",), ("color", "rotate"), OPERATIONS], ids="_".join)
def test_takes_every_order_in_memory_and_leaves_its_arguments_alone(operations: tuple[str, ...]) -> None:
    plain = Problem(operations)
    expected = plain.run()
    orders: list[Callable[[Tensor], Tensor]] = [
        lambda x: x.contiguous(memory_format=torch.channels_last),
        lambda x: torch.stack([x, x], dim=-1)[..., 0],
        lambda x: x.transpose(-1, -2).contiguous().transpose(-1, -2),
        lambda x: x.flip(0).flip(0)[:, :1].expand(-1, 3, -1, -1),
    ]
    for number, order in enumerate(orders):
        problem = Problem(operations)
        problem.images, problem.grad = order(problem.images), order(problem.grad)
        problem.parameters = torch.stack([problem.parameters, problem.parameters], dim=-1)[..., 1]
        before = problem.images.clone()
        actual = problem.run()
        if number < 3:
            for one, other in zip(actual, expected, strict=True):
                torch.testing.assert_close(one, other, rtol=1e-12, atol=1e-12)
        assert_agrees(problem, 1e-12)
        assert torch.equal(problem.images, before)
        assert actual[0].is_contiguous(memory_format=torch.channels_last if number == 0 else torch.contiguous_format)


@compiled_only
@pytest.mark.parametrize("dtype", DTYPES)
def test_same_bits_for_any_number_of_threads(dtype: torch.dtype) -> None:
    index = [*range(40), *range(0, 40, 3), *[7] * 30]
    problem = Problem(shape=(40, 3, 17, 19), dtype=dtype, index=index)
    before = torch.get_num_threads()
    try:
        results = []
        for threads in (1, 2, 3, 5):
            torch.set_num_threads(threads)
            results.append(problem.run())
    finally:
        torch.set_num_threads(before)
    for batch, gradient in results[1:]:
        assert torch.equal(batch, results[0][0])
        assert torch.equal(gradient, results[0][1])


@compiled_only
@pytest.mark.parametrize("operation", ["crop", "cutout", "flip", "scale", "rotate"])
def test_not_a_number_reaches_those_that_read_it(operation: str) -> None:
    problem = Problem((operation,), (2, 2, 7, 6), seed=1)
    problem.images[0, 1, 3, 2] = torch.nan
    problem.grad[0, 1, 3, 2] = torch.nan
    for actual, expected in zip(problem.run(), problem.run(pydistill.reference), strict=True):
        spoilt = actual.isnan()
        assert not (spoilt & ~expected.isnan()).any()
        torch.testing.assert_close(actual[~spoilt], expected.nan_to_num()[~spoilt], rtol=1e-9, atol=1e-9)


def test_other_floating_dtypes_take_plain_pytorch() -> None:
    problem = Problem(("color", "flip"), dtype=torch.float32)
    images, parameters = problem.images.bfloat16(), problem.parameters.bfloat16()
    actual = pydistill.ops.augment(images, problem.operations, parameters)
    assert actual.dtype == torch.bfloat16
    assert torch.equal(actual, pydistill.reference.augment(images, problem.operations, parameters))


def test_forward_mode_and_function_transforms(module: ModuleType) -> None:
    problem = Problem(("color", "crop", "flip"))
    rest = (problem.operations, problem.parameters)

    def loss(images: Tensor) -> Tensor:
        return module.augment(images, *rest).square().sum()

    images, tangent = problem.images, torch.randn_like(problem.images)
    slope = (torch.func.grad(loss)(images) * tangent).sum()
    torch.testing.assert_close(torch.func.jvp(loss, (images,), (tangent,))[1], slope)
    with torch.autograd.forward_ad.dual_level():
        dual = loss(torch.autograd.forward_ad.make_dual(images, tangent))
        torch.testing.assert_close(torch.autograd.forward_ad.unpack_dual(dual).tangent, slope)


@compiled_only
@pytest.mark.filterwarnings("ignore:The .grad attribute of a Tensor that is not a leaf:UserWarning")  # opcheck's own
@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("index", [None, [1, 3, 1]], ids=["all", "index"])
def test_opcheck(dtype: torch.dtype, index: list[int] | None) -> None:
    for order in (torch.contiguous_format, torch.channels_last):
        problem = Problem(dtype=dtype, index=index)
        rest = (problem.operations, problem.parameters, problem.index)
        images = problem.images.contiguous(memory_format=order).requires_grad_()
        grad = problem.grad.contiguous(memory_format=order).requires_grad_()
        for linear in (False, True):
            checks = torch.library.opcheck(torch.ops.pydistill.augment.default, (images, *rest, linear))
            assert set(checks.values()) == {"SUCCESS"}
        checks = torch.library.opcheck(torch.ops.pydistill.augment_backward.default, (grad, *rest, 4))
        assert set(checks.values()) == {"SUCCESS"}


@compiled_only
def test_meta_tensors_give_shapes() -> None:
    images, operations, parameters, index = (
        value.to("meta") for value in Problem(index=[1, 2, 2, 0, 0]).arguments if value is not None
    )
    batch = torch.ops.pydistill.augment(images, operations, parameters, index, False)
    assert (batch.shape, batch.device.type) == ((5, 3, 8, 7), "meta")
    gradient = torch.ops.pydistill.augment_backward(batch, operations, parameters, index, 4)
    assert gradient.shape == (4, 3, 8, 7)


NAMES = ("images", "operations", "parameters", "index")
BAD_INPUT = [
    ("images", lambda v: v.long(), "images"),
    ("images", lambda v: v[0], "images"),
    ("images", lambda v: [v], "images"),
    ("operations", lambda v: v.int(), "operations"),
    ("operations", lambda v: v[None], "operations"),
    (
        "operations",
        lambda v: v + 1,
        r"operations\[5\]",
    ),
    ("operations", lambda v: v - 2, r"operations\[0\]"),
    ("parameters", lambda v: v.float(), "parameters"),
    ("parameters", lambda v: v[:2], "parameters"),
    ("parameters", lambda v: v[:, :12], "parameters"),
    ("parameters", lambda v: v.to("meta"), "parameters"),
    ("index", lambda v: v.double(), "index"),
    ("index", lambda v: v + 2, r"index\[1\]"),
    ("index", lambda v: v - 1, r"index\[2\]"),
]


@pytest.mark.parametrize(("name", "spoil", "message"), BAD_INPUT)
def test_bad_input_is_named(module: ModuleType, name: str, spoil: Callable[[Tensor], object], message: str) -> None:
    inputs: dict[str, Any] = dict(zip(NAMES, Problem(index=[1, 2, 0]).arguments, strict=True))
    inputs[name] = spoil(inputs[name])
    with pytest.raises(InputError, match=f"augment: {message}"):
        module.augment(**inputs)


def test_a_gradient_of_another_batch_is_refused(module: ModuleType) -> None:
    problem = Problem()
    with pytest.raises(InputError, match="grad_out"):
        module.augment_backward(problem.grad, problem.operations, problem.parameters, torch.tensor([0, 1, 2]), 4)
    with pytest.raises(InputError, match="grad_out"):
        module.augment_backward(problem.grad, problem.operations, problem.parameters, None, 5)


@compiled_only
@pytest.mark.parametrize(
    ("name", "spoil", "message"),
    [
        ("images", lambda v: v.half(), "images"),
        ("images", lambda v: v[0], "images"),
        ("operations", lambda v: v.int(), "operations"),
        ("operations", lambda v: v + 1, r"operations\[5\]"),
        ("parameters", lambda v: v.float(), "parameters"),
        ("parameters", lambda v: v[:2], "parameters"),
        ("parameters", lambda v: v[:, :12], "parameters"),
        ("index", lambda v: v.double(), "index"),
        ("index", lambda v: v + 2, r"index\[1\]"),
    ],
)
def test_the_compiled_op_called_by_itself_refuses_too(
    name: str, spoil: Callable[[Tensor], Tensor], message: str
) -> None:
    inputs: dict[str, Any] = dict(zip(NAMES, Problem(index=[1, 2, 0]).arguments, strict=True))
    inputs[name] = spoil(inputs[name])
    with pytest.raises(ValueError, match=message):
        torch.ops.pydistill.augment(*inputs.values(), False)
