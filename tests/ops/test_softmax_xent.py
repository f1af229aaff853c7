"""`softmax_xent` and its derivatives, compiled and reference, on the CPU; its _cuda file has what only a GPU shows."""

from __future__ import annotations

from collections.abc import Callable
from types import ModuleType

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

import pydistill.ops
import pydistill.reference
from pydistill.errors import InputError
from pydistill.ops.build_info import build_config

compiled_only = pytest.mark.skipif(
    not build_config()["compiled"], reason=f"compiled ops only: {build_config()['reason']}"
)
DTYPES = [torch.float32, torch.float64]
LABELS = ["hard", "rows"]
SHAPES = [(0, 3), (1, 1), (1, 10), (5, 2), (7, 31), (3, 33), (100, 10), (13, 4099)]
INFINITY = float("inf")
NAN = float("nan")


@pytest.fixture(params=["ops", "reference"])
def module(request: pytest.FixtureRequest) -> ModuleType:
    return getattr(pydistill, request.param)


def arguments(shape: tuple[int, int], kind: str, dtype: torch.dtype) -> tuple[Tensor, Tensor, Tensor]:
    """Logits, a tangent of theirs, and labels: class numbers, or rows whose mass is not one."""
    generator = torch.Generator().manual_seed(shape[0] * 7919 + shape[1])
    logits, tangent = (torch.randn(shape, dtype=dtype, generator=generator) for _ in range(2))
    rows = torch.rand(shape, dtype=dtype, generator=generator)
    numbers = torch.randint(shape[1], shape[:1], generator=generator)
    return 3 * logits, tangent, numbers if kind == "hard" else rows


def formula(logits: Tensor, labels: Tensor) -> Tensor:
    if labels.dtype == torch.int64:
        return F.cross_entropy(logits, labels)
    return -(labels * F.log_softmax(logits, dim=1)).sum(dim=1).mean()


def gradients(logits: Tensor, labels: Tensor) -> tuple[Tensor, Tensor | None]:
    """By torch.func, of the formula."""
    if labels.dtype == torch.int64:
        return torch.func.grad(formula)(logits, labels), None
    return torch.func.grad(formula, argnums=(0, 1))(logits, labels)


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("kind", LABELS)
@pytest.mark.parametrize("shape", SHAPES, ids=str)
def test_loss_and_gradients_agree_with_float64(
    module: ModuleType, shape: tuple[int, int], kind: str, dtype: torch.dtype
) -> None:
    logits, _, labels = arguments(shape, kind, dtype)
    wide = labels if kind == "hard" else labels.double()
    eps = torch.finfo(dtype).eps
    loss = module.softmax_xent(logits, labels)
    torch.testing.assert_close(
        loss.double(), formula(logits.double(), wide), rtol=16 * eps, atol=16 * eps, equal_nan=True
    )
    grad_logits, grad_labels = module.softmax_xent_backward(torch.tensor(-2.5, dtype=dtype), logits, labels)
    expected = gradients(logits.double(), wide)
    mass = 1.0 if kind == "hard" else shape[1]
    scale = 2.5 / max(1, shape[0])
    torch.testing.assert_close(grad_logits.double(), -2.5 * expected[0], rtol=0, atol=16 * eps * scale * mass)
    assert (loss.dtype, loss.shape, grad_logits.dtype, grad_logits.shape) == (dtype, (), dtype, shape)
    if kind == "hard":
        assert grad_labels is None
    else:
        torch.testing.assert_close(grad_labels.double(), -2.5 * expected[1], rtol=16 * eps, atol=16 * eps * scale)
        assert grad_labels.dtype == dtype


@pytest.mark.parametrize("kind", LABELS)
@pytest.mark.parametrize("shape", SHAPES[1:], ids=str)
def test_tangents_are_those_of_forward_mode(module: ModuleType, shape: tuple[int, int], kind: str) -> None:
    logits, tangent, labels = arguments(shape, kind, torch.float64)
    loss, loss_tangent = module.softmax_xent_jvp(logits, tangent, labels)
    expected = torch.func.jvp(lambda a: formula(a, labels), (logits,), (tangent,))
    torch.testing.assert_close((loss, loss_tangent), expected, rtol=1e-12, atol=1e-12)

    grad_logits, grad_logits_tangent, grad_labels_tangent = module.softmax_xent_backward_jvp(logits, tangent, labels)
    value, moved = torch.func.jvp(lambda a: gradients(a, labels)[0], (logits,), (tangent,))
    torch.testing.assert_close((grad_logits, grad_logits_tangent), (value, moved), rtol=1e-12, atol=1e-12)
    if kind == "hard":
        assert grad_labels_tangent is None
    else:
        _, moved = torch.func.jvp(lambda a: gradients(a, labels)[1], (logits,), (tangent,))
        torch.testing.assert_close(grad_labels_tangent, moved, rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("kind", LABELS)
@pytest.mark.parametrize("shape", SHAPES, ids=str)
def test_tangents_in_float32(module: ModuleType, shape: tuple[int, int], kind: str) -> None:
    logits, tangent, labels = arguments(shape, kind, torch.float32)
    wide = labels if kind == "hard" else labels.double()
    actual = (
        *module.softmax_xent_jvp(logits, tangent, labels),
        *module.softmax_xent_backward_jvp(logits, tangent, labels),
    )
    expected = (
        *pydistill.reference.softmax_xent_jvp(logits.double(), tangent.double(), wide),
        *pydistill.reference.softmax_xent_backward_jvp(logits.double(), tangent.double(), wide),
    )
    mass = 1.0 if kind == "hard" else shape[1]
    for own, exact in zip(actual, expected, strict=True):
        assert (own is None) == (exact is None)
        if own is not None:
            assert own.dtype == torch.float32
            torch.testing.assert_close(own.double(), exact, rtol=3e-6, atol=3e-6 * mass, equal_nan=True)


def test_known_numbers(module: ModuleType) -> None:
    logits = torch.tensor([[0.0, 0.0], [0.0, 0.0]])
    log_2 = torch.tensor(2.0).log()
    torch.testing.assert_close(module.softmax_xent(logits, torch.tensor([1, 0])), log_2)
    rows = torch.tensor([[0.5, 0.5], [2.0, 2.0]])
    torch.testing.assert_close(module.softmax_xent(logits, rows), 2.5 * log_2)
    grad_logits, grad_labels = module.softmax_xent_backward(torch.tensor(4.0), logits, torch.tensor([[1.0, 0.0]] * 2))
    assert grad_logits.tolist() == [[-1.0, 1.0]] * 2
    torch.testing.assert_close(grad_labels, 2 * log_2.expand(2, 2))


@pytest.mark.parametrize("kind", LABELS)
def test_one_class_costs_nothing(module: ModuleType, kind: str) -> None:
    logits, tangent, labels = arguments((4, 1), kind, torch.float32)
    assert module.softmax_xent(logits, labels) == 0
    assert not module.softmax_xent_backward(torch.tensor(1.0), logits, labels)[0].any()
    assert not module.softmax_xent_backward_jvp(logits, tangent, labels)[1].any()


@pytest.mark.parametrize("dtype", DTYPES)
def test_large_logits_do_not_overflow(module: ModuleType, dtype: torch.dtype) -> None:
    large = torch.finfo(dtype).max
    logits = torch.tensor([[large, 0.0], [0.0, -large], [large, large]], dtype=dtype)
    numbers = torch.tensor([0, 0, 1])
    torch.testing.assert_close(module.softmax_xent(logits, numbers), torch.tensor(2.0, dtype=dtype).log() / 3)
    grad_logits, _ = module.softmax_xent_backward(torch.tensor(3.0, dtype=dtype), logits, numbers)
    torch.testing.assert_close(grad_logits, torch.tensor([[0.0, 0], [0, 0], [0.5, -0.5]], dtype=dtype))


@pytest.mark.parametrize(
    "row", [[-INFINITY, 1.0, 2.0], [-INFINITY] * 3, [INFINITY, 1.0, 2.0], [NAN, 1.0, 2.0]], ids=str
)
@pytest.mark.parametrize("kind", [*LABELS, "zero weight"])
def test_what_is_not_finite_is_what_pytorch_makes_of_it(module: ModuleType, row: list[float], kind: str) -> None:
    logits, _, labels = arguments((3, 3), "hard" if kind == "hard" else "rows", torch.float64)
    logits[1] = torch.tensor(row, dtype=torch.float64)
    if kind == "hard":
        labels[1] = 2
    elif kind == "zero weight":
        labels[1, 0] = 0.0
    expected = gradients(logits, labels)
    torch.testing.assert_close(module.softmax_xent(logits, labels), formula(logits, labels), equal_nan=True)
    actual = module.softmax_xent_backward(torch.tensor(1.0, dtype=torch.float64), logits, labels)
    torch.testing.assert_close(actual[0], expected[0], equal_nan=True)
    assert actual[0][[0, 2]].isfinite().all()
    if kind != "hard":
        torch.testing.assert_close(actual[1], expected[1], equal_nan=True)


def test_a_row_without_mass_moves_nothing(module: ModuleType) -> None:
    logits, tangent, rows = arguments((3, 4), "rows", torch.float64)
    rows.zero_()
    assert module.softmax_xent(logits, rows) == 0
    grad_logits, grad_labels = module.softmax_xent_backward(torch.tensor(1.0, dtype=torch.float64), logits, rows)
    assert not grad_logits.any()
    torch.testing.assert_close(grad_labels, -F.log_softmax(logits, dim=1) / 3)
    assert not module.softmax_xent_backward_jvp(logits, tangent, rows)[1].any()


def test_an_empty_batch_has_no_mean(module: ModuleType) -> None:
    logits, tangent, rows = arguments((0, 3), "rows", torch.float32)
    assert module.softmax_xent(logits, rows).isnan()
    assert all(value.isnan() for value in module.softmax_xent_jvp(logits, tangent, rows))
    assert module.softmax_xent_backward(torch.tensor(1.0), logits, rows)[0].shape == (0, 3)


@pytest.mark.parametrize("kind", LABELS)
def test_takes_views_and_leaves_its_arguments_alone(module: ModuleType, kind: str) -> None:
    logits, tangent, labels = (value.clone() for value in arguments((10, 6), kind, torch.float32))
    views = [value[::2, 1::2] if value.dim() == 2 else value[::2] % 3 for value in (logits, tangent, labels)]
    before = [value.clone() for value in (logits, tangent, labels)]
    dense = [value.clone(memory_format=torch.contiguous_format) for value in views]
    one = torch.tensor(1.0)
    for actual, expected in (
        (module.softmax_xent(views[0], views[2]), module.softmax_xent(dense[0], dense[2])),
        (module.softmax_xent_backward(one, views[0], views[2]), module.softmax_xent_backward(one, dense[0], dense[2])),
        (module.softmax_xent_jvp(*views), module.softmax_xent_jvp(*dense)),
        (module.softmax_xent_backward_jvp(*views), module.softmax_xent_backward_jvp(*dense)),
    ):
        torch.testing.assert_close(actual, expected, rtol=0, atol=0)
    assert all(torch.equal(value, old) for value, old in zip((logits, tangent, labels), before, strict=True))


@compiled_only
@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("kind", LABELS)
@pytest.mark.parametrize("shape", [(20_011, 3), (37, 1009)], ids=str)
def test_same_bits_for_any_number_of_threads(shape: tuple[int, int], kind: str, dtype: torch.dtype) -> None:
    logits, tangent, labels = arguments(shape, kind, dtype)
    ops = pydistill.ops
    before = torch.get_num_threads()
    try:
        results = []
        for threads in (1, 2, 3, 5):
            torch.set_num_threads(threads)
            actual = (
                *ops.softmax_xent_backward(torch.tensor(1.0, dtype=dtype), logits, labels),
                *ops.softmax_xent_jvp(logits, tangent, labels),
                *ops.softmax_xent_backward_jvp(logits, tangent, labels),
            )
            results.append([value for value in actual if value is not None])
    finally:
        torch.set_num_threads(before)
    for item in results[1:]:
        assert all(torch.equal(value, first) for value, first in zip(item, results[0], strict=True))


@pytest.mark.parametrize("shape", [(1, 1), (3, 4)], ids=str)
def test_gradcheck(module: ModuleType, shape: tuple[int, int]) -> None:
    logits, _, rows = arguments(shape, "rows", torch.float64)
    inputs = (logits.requires_grad_(), rows.requires_grad_())
    assert torch.autograd.gradcheck(module.softmax_xent, inputs)
    numbers = torch.zeros(shape[0], dtype=torch.int64)
    assert torch.autograd.gradcheck(lambda a: module.softmax_xent(a, numbers), inputs[:1])


@pytest.mark.parametrize("needed", [0, 1])
def test_the_gradient_in_one_argument_alone(module: ModuleType, needed: int) -> None:
    logits, _, rows = arguments((3, 4), "rows", torch.float64)
    inputs = [logits, rows]
    inputs[needed].requires_grad_()
    (actual,) = torch.autograd.grad(module.softmax_xent(*inputs).square(), inputs[needed])
    expected = torch.autograd.grad(formula(*inputs).square(), inputs[needed])
    torch.testing.assert_close(actual, expected[0])


@compiled_only
@pytest.mark.parametrize("first", [0, 1])
@pytest.mark.parametrize("second", [0, 1])
def test_a_second_derivative_raises_and_is_no_silent_zero(first: int, second: int) -> None:
    logits, _, rows = arguments((3, 4), "rows", torch.float64)
    inputs = (logits.requires_grad_(), rows.requires_grad_())
    loss = pydistill.ops.softmax_xent(*inputs)
    (gradient,) = torch.autograd.grad(loss, inputs[first], create_graph=True)
    penalty = gradient.square().sum() + inputs[second].sum()
    with pytest.raises(RuntimeError, match="softmax_xent_backward"):
        torch.autograd.grad(penalty, inputs[second])


@compiled_only
@pytest.mark.parametrize("name", ["softmax_xent_backward", "softmax_xent_jvp", "softmax_xent_backward_jvp"])
@pytest.mark.parametrize("needed", [0, 1, 2])
def test_the_derivatives_have_none_themselves(name: str, needed: int) -> None:
    logits, tangent, rows = arguments((3, 4), "rows", torch.float64)
    inputs = [torch.tensor(1.0, dtype=torch.float64), logits, rows]
    inputs = inputs if name == "softmax_xent_backward" else [logits, tangent, rows]
    inputs[needed].requires_grad_()
    for actual in getattr(pydistill.ops, name)(*inputs):
        with pytest.raises(RuntimeError, match=name):
            torch.autograd.grad(actual.sum(), inputs[needed], retain_graph=True)


def test_forward_mode_and_function_transforms(module: ModuleType) -> None:
    logits, tangent, rows = arguments((3, 4), "rows", torch.float64)

    def loss(values: Tensor) -> Tensor:
        return module.softmax_xent(values, rows)

    expected = gradients(logits, rows)[0]
    slope = (expected * tangent).sum()
    torch.testing.assert_close(torch.func.grad(loss)(logits), expected)
    torch.testing.assert_close(torch.func.jvp(loss, (logits,), (tangent,))[1], slope)
    with torch.autograd.forward_ad.dual_level():
        dual = loss(torch.autograd.forward_ad.make_dual(logits, tangent))
        torch.testing.assert_close(torch.autograd.forward_ad.unpack_dual(dual).tangent, slope)
    curvature = torch.func.jvp(torch.func.grad(loss), (logits,), (tangent,))[1]
    torch.testing.assert_close(curvature, pydistill.reference.softmax_xent_backward_jvp(logits, tangent, rows)[1])


def test_each_derivative_takes_a_tangent_too(module: ModuleType) -> None:
    """torch hands back zeros for an op without a rule; here the plain version runs."""
    logits, tangent, rows = arguments((3, 4), "rows", torch.float64)
    one = torch.ones((), dtype=torch.float64)
    for values, moved in (
        (
            lambda a: module.softmax_xent_backward(one, a, rows)[0],
            module.softmax_xent_backward_jvp(logits, tangent, rows)[1],
        ),
        (lambda a: module.softmax_xent_jvp(a, tangent, rows)[0], module.softmax_xent_jvp(logits, tangent, rows)[1]),
        (
            lambda a: module.softmax_xent_backward_jvp(a, tangent, rows)[0],
            module.softmax_xent_backward_jvp(logits, tangent, rows)[1],
        ),
    ):
        with torch.autograd.forward_ad.dual_level():
            dual = values(torch.autograd.forward_ad.make_dual(logits, tangent))
            torch.testing.assert_close(torch.autograd.forward_ad.unpack_dual(dual).tangent, moved)


@compiled_only
@pytest.mark.filterwarnings("ignore:The .grad attribute of a Tensor that is not a leaf:UserWarning")  # opcheck's own
@pytest.mark.parametrize("requires_grad", [False, True])
@pytest.mark.parametrize("kind", LABELS)
@pytest.mark.parametrize("dtype", DTYPES)
def test_opcheck(dtype: torch.dtype, kind: str, requires_grad: bool) -> None:
    ops = torch.ops.pydistill
    for shape in ((0, 3), (1, 1), (5, 7)):
        logits, tangent, labels = arguments(shape, kind, dtype)
        logits.requires_grad_(requires_grad)
        labels.requires_grad_(requires_grad and kind == "rows")
        checks = []
        if shape[0] > 0:  # the mean of nothing is NaN, which opcheck does not take for equal to itself
            checks.append(torch.library.opcheck(ops.softmax_xent.default, (logits, labels)))
        if shape[0] > 0 and not requires_grad:
            checks.append(torch.library.opcheck(ops.softmax_xent_jvp.default, (logits, tangent, labels)))
        if not requires_grad:  # these have no derivative that could be traced
            inputs = (torch.tensor(1.0, dtype=dtype), logits, labels, kind == "rows")
            checks.append(torch.library.opcheck(ops.softmax_xent_backward.default, inputs))
            checks.append(torch.library.opcheck(ops.softmax_xent_backward_jvp.default, (logits, tangent, labels)))
        assert all(set(check.values()) == {"SUCCESS"} for check in checks)


@pytest.mark.parametrize("kind", LABELS)
def test_meta_tensors_give_shapes(module: ModuleType, kind: str) -> None:
    logits, tangent, labels = (value.to("meta") for value in arguments((5, 3), kind, torch.float32))
    rows = (5, 3) if kind == "rows" else None
    grad_loss = torch.ones((), device="meta")
    actual = [
        [module.softmax_xent(logits, labels)],
        module.softmax_xent_backward(grad_loss, logits, labels),
        module.softmax_xent_jvp(logits, tangent, labels),
        module.softmax_xent_backward_jvp(logits, tangent, labels),
    ]
    shapes = [[None if value is None else tuple(value.shape) for value in item] for item in actual]
    assert shapes == [[()], [(5, 3), rows], [(), ()], [(5, 3), (5, 3), rows]]
    assert all(value is None or value.device.type == "meta" for item in actual for value in item)


BAD_INPUT = [
    ("rows", "logits", lambda v: v.half(), "logits"),
    ("rows", "logits", lambda v: v[0], "logits"),
    ("rows", "logits", lambda v: v[:, :0], "logits"),
    (
        "rows",
        "labels",
        lambda v: v[:4],
        "labels",
    ),
    ("rows", "labels", lambda v: v[0], "labels"),
    ("rows", "labels", lambda v: v.double(), "labels"),
    ("rows", "labels", lambda v: v.int(), "labels"),
    ("rows", "labels", lambda v: v.tolist(), "labels"),
    ("rows", "labels", lambda v: v.to("meta"), "labels"),
    (
        "hard",
        "labels",
        lambda v: v[:4],
        "labels",
    ),
    ("hard", "labels", lambda v: v.to("meta"), "labels"),
    ("hard", "labels", lambda v: v.index_fill(0, torch.tensor(3), 3), r"labels\[3\]"),
    ("hard", "labels", lambda v: v.index_fill(0, torch.tensor(1), -100), r"labels\[1\]"),
]
BAD_TANGENT = [
    (lambda v: v[:4], r"logits_tangent has shape \[4, 3\] where logits has shape \[5, 3\]"),
    (lambda v: v.double(), r"logits_tangent is torch\.float64 where logits is torch\.float32"),
    (lambda v: v.to("meta"), r"logits_tangent is on meta where logits is on cpu"),
    (lambda v: None, r"logits_tangent must be a tensor, not NoneType"),
]
BAD_GRADIENT = [
    (lambda v: v.reshape(1), r"grad_loss has shape \[1\]; it must be a 0-dim tensor"),
    (lambda v: v.double(), r"grad_loss is torch\.float64 where logits is torch\.float32"),
    (lambda v: v.to("meta"), r"grad_loss is on meta where logits is on cpu"),
    (lambda v: 1.0, r"grad_loss must be a tensor, not float"),
]


@pytest.mark.parametrize(("kind", "name", "spoil", "message"), BAD_INPUT)
def test_bad_input_is_named(
    module: ModuleType, kind: str, name: str, spoil: Callable[[Tensor], object], message: str
) -> None:
    inputs = dict(zip(("logits", "tangent", "labels"), arguments((5, 3), kind, torch.float32), strict=True))
    inputs[name] = spoil(inputs[name])
    logits, tangent, labels = inputs.values()
    for call in (
        lambda: module.softmax_xent(logits, labels),
        lambda: module.softmax_xent_backward(torch.tensor(1.0), logits, labels),
        lambda: module.softmax_xent_jvp(logits, tangent, labels),
        lambda: module.softmax_xent_backward_jvp(logits, tangent, labels),
    ):
        with pytest.raises(InputError, match=message):
            call()


@pytest.mark.parametrize(("spoil", "message"), BAD_TANGENT)
def test_a_bad_tangent_is_named(module: ModuleType, spoil: Callable[[Tensor], object], message: str) -> None:
    logits, tangent, labels = arguments((5, 3), "hard", torch.float32)
    for op in (module.softmax_xent_jvp, module.softmax_xent_backward_jvp):
        with pytest.raises(InputError, match=message):
            op(logits, spoil(tangent), labels)


@pytest.mark.parametrize(("spoil", "message"), BAD_GRADIENT)
def test_a_bad_gradient_is_named(module: ModuleType, spoil: Callable[[Tensor], object], message: str) -> None:
    logits, _, labels = arguments((5, 3), "hard", torch.float32)
    with pytest.raises(InputError, match=message):
        module.softmax_xent_backward(spoil(torch.tensor(1.0)), logits, labels)


@compiled_only
@pytest.mark.parametrize(
    ("kind", "name", "spoil", "message"),
    [
        ("rows", "logits", lambda v: v.half(), "logits"),
        ("rows", "logits", lambda v: v[:, :0], "logits"),
        ("rows", "labels", lambda v: v[:4], "labels"),
        ("rows", "labels", lambda v: v.int(), "labels"),
        ("hard", "labels", lambda v: v[:4], "labels"),
        ("hard", "labels", lambda v: v + 3, r"labels\[0\]"),
        ("hard", "labels", lambda v: v - 3, r"labels\[0\]"),
    ],
)
def test_the_compiled_ops_called_by_themselves_refuse_too(
    kind: str, name: str, spoil: Callable[[Tensor], Tensor], message: str
) -> None:
    inputs = dict(zip(("logits", "tangent", "labels"), arguments((5, 3), kind, torch.float32), strict=True))
    inputs[name] = spoil(inputs[name])
    logits, tangent, labels = inputs.values()
    ops = torch.ops.pydistill
    for call in (
        lambda: ops.softmax_xent(logits, labels),
        lambda: ops.softmax_xent_backward(torch.tensor(1.0), logits, labels, False),
        lambda: ops.softmax_xent_jvp(logits, tangent, labels),
        lambda: ops.softmax_xent_backward_jvp(logits, tangent, labels),
    ):
        with pytest.raises(ValueError, match=message):
            call()


@compiled_only
def test_the_compiled_derivatives_called_by_themselves_refuse_too() -> None:
    logits, tangent, numbers = arguments((5, 3), "hard", torch.float32)
    ops = torch.ops.pydistill
    with pytest.raises(ValueError, match="logits_tangent"):
        ops.softmax_xent_jvp(logits, tangent[:4], numbers)
    with pytest.raises(ValueError, match="logits_tangent"):
        ops.softmax_xent_backward_jvp(logits, tangent.double(), numbers)
    with pytest.raises(ValueError, match="grad_loss"):
        ops.softmax_xent_backward(torch.ones(1), logits, numbers, False)
    with pytest.raises(ValueError, match="class numbers"):
        ops.softmax_xent_backward(torch.tensor(1.0), logits, numbers, True)
