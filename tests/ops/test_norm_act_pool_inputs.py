"""Inputs that `norm_act_pool` and its derivatives refuse."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch

import pydistill.ops
import pydistill.reference
from pydistill.errors import InputError
from tests.ops.builds import compiled_only
from tests.ops.norm_act_pool import Problem

BAD_INPUT: list[tuple[str, str, Callable[[Any], object], str]] = [
    ("", "z", lambda v: v.half(), r"z is torch\.float16; it must be torch\.float32 or torch\.float64"),
    ("", "z", lambda v: v[0], r"z has shape \[3, 4, 6\]; it must be \[B, C, H, W\] with C, H and W of at least 1"),
    ("", "z", lambda v: v[:, :, :0], r"z has shape \[2, 3, 0, 6\]; it must be \[B, C, H, W\] with"),
    ("", "z", lambda v: v.tolist(), r"z must be a tensor, not list"),
    ("", "weight", lambda v: v[:2], "weight"),
    ("", "weight", lambda v: None, "weight"),
    ("", "bias", lambda v: None, "bias"),
    ("", "bias", lambda v: v.float(), "bias"),
    ("", "bias", lambda v: v.to("meta"), "bias"),
    ("", "norm", lambda v: "batch", "norm=batch"),
    ("", "norm", lambda v: "none", "weight"),
    ("", "pooling", lambda v: "sum", "pooling=sum"),
    ("", "eps", lambda v: -1.0, "eps"),
    ("_backward", "grad_out", lambda v: v[:, :, :1], "grad_out"),
    ("_jvp", "z_tangent", lambda v: v[:1], "z_tangent"),
    ("_jvp", "weight_tangent", lambda v: None, "weight and weight_tangent"),
    ("_jvp", "bias_tangent", lambda v: v.float(), "bias_tangent"),
    ("_backward_jvp", "grad_out_tangent", lambda v: v.float(), "grad_out_tangent"),
]


NAMES = {
    "": ["z", "weight", "bias"],
    "_backward": ["grad_out", "z", "weight", "bias"],
    "_jvp": ["z", "z_tangent", "weight", "weight_tangent", "bias", "bias_tangent"],
}
NAMES["_backward_jvp"] = ["grad_out", "grad_out_tangent", *NAMES["_jvp"]]


def spoilt(phase: str, name: str, spoil: Callable[[Any], object]) -> dict[str, Any]:
    inputs: dict[str, Any] = dict(zip(NAMES[phase], Problem((2, 3, 4, 6)).arguments(phase), strict=True))
    inputs |= {"norm": "instance", "pooling": "average", "eps": 1e-5}
    inputs[name] = spoil(inputs[name])
    return inputs


@pytest.mark.parametrize(("phase", "name", "spoil", "message"), BAD_INPUT)
@pytest.mark.parametrize("where", ["ops", "reference"])
def test_bad_input_is_named(where: str, phase: str, name: str, spoil: Callable[[Any], object], message: str) -> None:
    with pytest.raises(InputError, match=f"norm_act_pool{phase}: {message}"):
        getattr(getattr(pydistill, where), f"norm_act_pool{phase}")(**spoilt(phase, name, spoil))


@compiled_only
@pytest.mark.parametrize(
    ("phase", "name", "spoil", "message"),
    [
        ("", "z", lambda v: v.half(), r"z is Half; it must be float32 or float64"),
        ("", "z", lambda v: v[:, :, :0], r"z has shape \[2, 3, 0, 6\]; it must be \[B, C, H, W\] with"),
        ("", "weight", lambda v: v[:2], "weight"),
        ("", "bias", lambda v: v.float(), "bias"),
        ("", "bias", lambda v: None, "bias"),
        ("", "norm", lambda v: "none", "weight"),
        ("", "norm", lambda v: "batch", "norm=batch"),
        ("", "pooling", lambda v: "sum", "pooling=sum"),
        ("", "eps", lambda v: float("nan"), "eps"),
        ("_backward", "grad_out", lambda v: v[:, :, :1], "grad_out"),
        ("_backward", "stats", lambda v: v[:1], "stats"),
        ("_jvp", "z_tangent", lambda v: v[:1], "z_tangent"),
        ("_jvp", "weight_tangent", lambda v: None, "weight and weight_tangent"),
        ("_backward_jvp", "stats", lambda v: v[:, :2], "stats"),
    ],
)
def test_the_compiled_ops_called_by_themselves_refuse_too(
    phase: str, name: str, spoil: Callable[[Any], object], message: str
) -> None:
    rows = {"_backward": 2, "_backward_jvp": 4}.get(phase)
    inputs = spoilt(phase, "z", lambda v: v)
    if rows is not None:
        inputs["stats"] = torch.ones(2, rows, 3, dtype=torch.float64)
    inputs[name] = spoil(inputs[name])
    with pytest.raises(ValueError, match=f"norm_act_pool{phase}: {message}"):
        getattr(torch.ops.pydistill, f"norm_act_pool{phase}")(**inputs)
