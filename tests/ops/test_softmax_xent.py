"""`softmax_xent` and its derivatives, compiled and reference, on the CPU; its _cuda file has what only a GPU shows."""

from __future__ import annotations

from types import ModuleType

import pytest
import torch
import torch.nn.functional as F

import pydistill.ops
import pydistill.reference
from tests.ops.builds import compiled_only
from tests.ops.softmax_xent import DTYPES, LABELS, arguments, formula, gradients

SHAPES = [(0, 3), (1, 1), (1, 10), (5, 2), (7, 31), (3, 33), (100, 10), (13, 4099)]
INFINITY = float("inf")
NAN = float("nan")


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
