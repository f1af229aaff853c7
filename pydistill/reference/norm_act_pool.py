"""`norm_act_pool` and its derivatives in plain PyTorch, and the checks that they share with the compiled ones."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from pydistill.errors import InputError

NORMS = ("instance", "none")
POOLINGS = ("average", "max", "none")

_vjp: Any = torch.func.vjp
_jvp: Any = torch.func.jvp


def out_shape(z: Tensor, pooling: str) -> tuple[int, int, int, int]:
    """Return the shape of the result for `z`: height and width halved and rounded down if there is a pooling."""
    images, channels, height, width = z.shape
    side = 1 if pooling == "none" else 2
    return images, channels, height // side, width // side


def check_norm_act_pool(
    z: Tensor,
    weight: Tensor | None,
    bias: Tensor | None,
    *,
    norm: str,
    pooling: str,
    eps: float,
    op: str = "norm_act_pool",
) -> None:
    """Check the arguments of `norm_act_pool`.

    Raises:
        InputError: `z` is not a float32 or float64 batch of planes, a parameter does not match it, or a setting is
            unknown.
    """
    if norm not in NORMS:
        raise InputError(f"{op}: norm={norm} is not one of {', '.join(NORMS)}")
    if pooling not in POOLINGS:
        raise InputError(f"{op}: pooling={pooling} is not one of {', '.join(POOLINGS)}")
    if not (math.isfinite(eps) and eps >= 0):
        raise InputError(f"{op}: eps is {eps}; it must be finite and not negative")
    if not isinstance(z, Tensor):
        raise InputError(f"{op}: z must be a tensor, not {type(z).__name__}")
    if z.dtype not in (torch.float32, torch.float64):
        raise InputError(f"{op}: z is {z.dtype}; it must be torch.float32 or torch.float64")
    if z.dim() != 4 or 0 in z.shape[1:]:
        raise InputError(f"{op}: z has shape {list(z.shape)}; it must be [B, C, H, W] with C, H and W of at least 1")
    if norm == "none" and weight is not None:
        raise InputError(f"{op}: weight must be None, as norm=none has no weight")
    for name, value in (("weight", weight), ("bias", bias)):
        if value is not None:
            _check_like_z(op, name, value, (z.shape[1],), z)
        elif norm == "instance":
            raise InputError(f"{op}: {name} is missing; norm=instance needs it")


def check_backward(op: str, grad_out: Tensor, z: Tensor, pooling: str, name: str = "grad_out") -> None:
    """Check that a gradient has the result's shape, and the dtype and device of `z`.

    Raises:
        InputError: it does not.
    """
    _check_like_z(op, name, grad_out, out_shape(z, pooling), z)


def check_tangents(
    op: str,
    z: Tensor,
    z_tangent: Tensor,
    parameters: tuple[Tensor | None, Tensor | None],
    tangents: tuple[Tensor | None, Tensor | None],
) -> None:
    """Check that tangents match their arguments.

    Raises:
        InputError: one has another shape, dtype or device, is missing, or has no argument.
    """
    _check_like_z(op, "z_tangent", z_tangent, tuple(z.shape), z)
    for name, value, tangent in zip(("weight", "bias"), parameters, tangents, strict=True):
        if (value is None) != (tangent is None):
            raise InputError(f"{op}: {name} and {name}_tangent must both be tensors or both be None")
        if tangent is not None:
            _check_like_z(op, f"{name}_tangent", tangent, (z.shape[1],), z)


def _check_like_z(op: str, name: str, value: Tensor, shape: tuple[int, ...], z: Tensor) -> None:
    if not isinstance(value, Tensor):
        raise InputError(f"{op}: {name} must be a tensor, not {type(value).__name__}")
    if tuple(value.shape) != shape:
        raise InputError(
            f"{op}: {name} has shape {list(value.shape)} where z has shape {list(z.shape)}; it must be {list(shape)}"
        )
    if value.dtype != z.dtype:
        raise InputError(f"{op}: {name} is {value.dtype} where z is {z.dtype}")
    if value.device != z.device:
        raise InputError(f"{op}: {name} is on {value.device} where z is on {z.device}")


def norm_act_pool(
    z: Tensor,
    weight: Tensor | None = None,
    bias: Tensor | None = None,
    *,
    norm: str = "instance",
    pooling: str = "average",
    eps: float = 1e-5,
) -> Tensor:
    """`pydistill.ops.norm_act_pool` in plain PyTorch: same arguments, results and errors; any order of derivative."""
    check_norm_act_pool(z, weight, bias, norm=norm, pooling=pooling, eps=eps)
    v = z
    if norm == "instance":
        centred = z - z.mean((2, 3), keepdim=True)
        v = centred * (centred.square().mean((2, 3), keepdim=True) + eps).rsqrt()
    if weight is not None:
        v = v * weight[:, None, None]
    if bias is not None:
        v = v + bias[:, None, None]
    active = v.relu()
    if pooling == "none":
        return _channels_last(active)
    if min(z.shape[2:]) < 2:  # the result is empty, which PyTorch's poolings refuse
        return active[:, :, : z.shape[2] // 2, : z.shape[3] // 2]
    return _channels_last(F.avg_pool2d(active, 2) if pooling == "average" else F.max_pool2d(active, 2))


def norm_act_pool_backward(
    grad_out: Tensor,
    z: Tensor,
    weight: Tensor | None = None,
    bias: Tensor | None = None,
    *,
    norm: str = "instance",
    pooling: str = "average",
    eps: float = 1e-5,
) -> tuple[Tensor, Tensor | None, Tensor | None]:
    """`pydistill.ops.norm_act_pool_backward` by PyTorch's own differentiation of `norm_act_pool`."""
    check_norm_act_pool(z, weight, bias, norm=norm, pooling=pooling, eps=eps, op="norm_act_pool_backward")
    check_backward("norm_act_pool_backward", grad_out, z, pooling)
    forward, present = _function_of_present((z, weight, bias), norm, pooling, eps)
    return _with_nones(_vjp(forward, *present)[1](grad_out), weight, bias)


def norm_act_pool_jvp(
    z: Tensor,
    z_tangent: Tensor,
    weight: Tensor | None = None,
    weight_tangent: Tensor | None = None,
    bias: Tensor | None = None,
    bias_tangent: Tensor | None = None,
    *,
    norm: str = "instance",
    pooling: str = "average",
    eps: float = 1e-5,
) -> tuple[Tensor, Tensor]:
    """`pydistill.ops.norm_act_pool_jvp` by PyTorch's own differentiation of `norm_act_pool`."""
    check_norm_act_pool(z, weight, bias, norm=norm, pooling=pooling, eps=eps, op="norm_act_pool_jvp")
    check_tangents("norm_act_pool_jvp", z, z_tangent, (weight, bias), (weight_tangent, bias_tangent))
    forward, present = _function_of_present((z, weight, bias), norm, pooling, eps)
    out, out_tangent = _jvp(forward, present, _without_nones(z_tangent, weight_tangent, bias_tangent))
    return out, out_tangent


def norm_act_pool_backward_jvp(
    grad_out: Tensor,
    grad_out_tangent: Tensor,
    z: Tensor,
    z_tangent: Tensor,
    weight: Tensor | None = None,
    weight_tangent: Tensor | None = None,
    bias: Tensor | None = None,
    bias_tangent: Tensor | None = None,
    *,
    norm: str = "instance",
    pooling: str = "average",
    eps: float = 1e-5,
) -> tuple[Tensor, Tensor, Tensor | None, Tensor | None, Tensor | None, Tensor | None]:
    """`pydistill.ops.norm_act_pool_backward_jvp` by PyTorch's own differentiation of `norm_act_pool`, twice."""
    op = "norm_act_pool_backward_jvp"
    check_norm_act_pool(z, weight, bias, norm=norm, pooling=pooling, eps=eps, op=op)
    check_backward(op, grad_out, z, pooling)
    check_backward(op, grad_out_tangent, z, pooling, "grad_out_tangent")
    check_tangents(op, z, z_tangent, (weight, bias), (weight_tangent, bias_tangent))
    forward, present = _function_of_present((z, weight, bias), norm, pooling, eps)

    def backward(grad: Tensor, *arguments: Tensor) -> Any:
        return _vjp(forward, *arguments)[1](grad)

    tangents = (grad_out_tangent, *_without_nones(z_tangent, weight_tangent, bias_tangent))
    values, derivatives = _jvp(backward, (grad_out, *present), tangents)
    grad_z, grad_weight, grad_bias = _with_nones(values, weight, bias)
    z_rate, weight_rate, bias_rate = _with_nones(derivatives, weight, bias)
    return grad_z, z_rate, grad_weight, weight_rate, grad_bias, bias_rate


def _channels_last(planes: Tensor) -> Tensor:
    return planes.contiguous(memory_format=torch.channels_last)


def _without_nones(*values: Tensor | None) -> tuple[Tensor, ...]:
    return tuple(value for value in values if value is not None)


def _function_of_present(
    values: tuple[Tensor, Tensor | None, Tensor | None], norm: str, pooling: str, eps: float
) -> tuple[Callable[..., Tensor], tuple[Tensor, ...]]:
    """Return `norm_act_pool` as a function of only those of z, weight and bias that are not None, and these."""

    def forward(*present: Tensor) -> Tensor:
        z, weight, bias = _with_nones(present, *values[1:])
        return norm_act_pool(z, weight, bias, norm=norm, pooling=pooling, eps=eps)

    return forward, _without_nones(*values)


def _with_nones(
    present: tuple[Tensor, ...], weight: Tensor | None, bias: Tensor | None
) -> tuple[Tensor, Tensor | None, Tensor | None]:
    """Reverse `_without_nones` for z, weight and bias."""
    rest = iter(present)
    return next(rest), None if weight is None else next(rest), None if bias is None else next(rest)
