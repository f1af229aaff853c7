"""Autograd through `softmax_xent`: first order and forward mode hold, anything beyond raises."""

from __future__ import annotations

from types import ModuleType

import pytest
import torch
from torch import Tensor

import pydistill.ops
import pydistill.reference
from tests.ops.builds import compiled_only
from tests.ops.softmax_xent import DTYPES, LABELS, arguments, formula, gradients


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
