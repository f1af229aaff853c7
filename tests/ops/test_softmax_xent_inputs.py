"""Inputs that `softmax_xent` and its derivatives refuse."""

from __future__ import annotations

from collections.abc import Callable
from types import ModuleType

import pytest
import torch
from torch import Tensor

from pydistill.errors import InputError
from tests.ops.builds import compiled_only
from tests.ops.softmax_xent import arguments

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
