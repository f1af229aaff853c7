"""`norm_act_pool`: instance norm, ReLU and pooling in one pass, with its backward and the tangents of both."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from pydistill import reference
from pydistill.ops.extension import load_extension
from pydistill.ops.modes import needs_plain_torch
from pydistill.ops.no_derivative import refuse_derivative
from pydistill.reference.norm_act_pool import check_backward, check_norm_act_pool, check_tangents, out_shape

_COMPILED_FOR = load_extension().device_types


def norm_act_pool(
    z: Tensor,
    weight: Tensor | None = None,
    bias: Tensor | None = None,
    *,
    norm: str = "instance",
    pooling: str = "average",
    eps: float = 1e-5,
) -> Tensor:
    """Compute one block of a ConvNet without its convolution.

    Formula: p = pool(relu(v)), v = γu + β, u = (z − mean z) / √(var z + eps) over the H·W pixels of each image and
    channel; without a norm v = z + β.

    The statistics are computed without cancellation, however large the mean is relative to the spread. On one kind of
    device the result is the same, bit for bit, on every run and for any number of threads.

    Args:
        z: [B, C, H, W], float32 or float64; fastest in channels-last memory.
        weight: γ, [C], dtype and device of `z`; none without a norm.
        bias: β, likewise; optional without a norm.
        norm: "instance" or "none".
        pooling: "average" or "max" over 2 × 2 pixels (an odd last row or column takes part in the norm alone), or
            "none".
        eps: added to the variance.

    Returns:
        p, [B, C, H // 2, W // 2] ([B, C, H, W] without pooling), in channels-last memory. NaN propagates.

    Raises:
        InputError: an argument is not as above.

    Derivatives: first order in z, weight and bias; a second one raises RuntimeError. In forward mode and under
    torch.func's transforms the plain PyTorch version runs, which gives any order.

    Equivalent to:
        v = F.instance_norm(z, weight=weight, bias=bias, eps=eps)
        return F.avg_pool2d(v.relu(), 2)
    """
    check_norm_act_pool(z, weight, bias, norm=norm, pooling=pooling, eps=eps)
    if _runs_compiled(z, weight, bias):
        out: Tensor = torch.ops.pydistill.norm_act_pool(z, weight, bias, norm, pooling, eps)[0]
        return out
    return reference.norm_act_pool(z, weight, bias, norm=norm, pooling=pooling, eps=eps)


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
    """Compute the gradients of ⟨`grad_out`, norm_act_pool(z, weight, bias)⟩.

    Formula, with r = 1 / √(var z + eps) and M = H·W: dv = [v > 0] · unpool(dp), dβ = Σ dv, dγ = Σ dv·u,
    dz = γ r (dv − Σ dv / M − u Σ dv·u / M).

    Args:
        grad_out: dp, of the result's shape, dtype and device of `z`.
        z, weight, bias, norm, pooling, eps: as in `norm_act_pool`.

    Returns:
        dz [B, C, H, W] in channels-last memory, dγ [C] and dβ [C]; None for an omitted parameter.

    Raises:
        InputError: an argument is not as above.

    Derivatives: none; differentiating the compiled op raises RuntimeError.
    """
    check_norm_act_pool(z, weight, bias, norm=norm, pooling=pooling, eps=eps, op="norm_act_pool_backward")
    check_backward("norm_act_pool_backward", grad_out, z, pooling)
    if _runs_compiled(grad_out, z, weight, bias):
        ops, settings = torch.ops.pydistill, (norm, pooling, eps)
        _, stats = ops.norm_act_pool(z, weight, bias, *settings)
        grad_z, sums = ops.norm_act_pool_backward(grad_out, z, weight, bias, stats, *settings)
        return grad_z, *_of_parameters(sums, weight, bias)
    return reference.norm_act_pool_backward(grad_out, z, weight, bias, norm=norm, pooling=pooling, eps=eps)


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
    """Compute `norm_act_pool` and its derivative in the direction of the tangents.

    Formula: u̇ = r (ż − mean ż) − r u mean(u ż), v̇ = γ̇u + γu̇ + β̇, ṗ = pool([v > 0] v̇); max pooling takes v̇ of the pixel
    with the maximum.

    Args:
        z_tangent, weight_tangent, bias_tangent: tangents with the shape, dtype and device of their arguments, omitted
            with them.
        z, weight, bias, norm, pooling, eps: as in `norm_act_pool`.

    Returns:
        p and ṗ, in channels-last memory.

    Raises:
        InputError: an argument is not as above.

    Derivatives: none; differentiating the compiled op raises RuntimeError.
    """
    check_norm_act_pool(z, weight, bias, norm=norm, pooling=pooling, eps=eps, op="norm_act_pool_jvp")
    check_tangents("norm_act_pool_jvp", z, z_tangent, (weight, bias), (weight_tangent, bias_tangent))
    arguments = (z, z_tangent, weight, weight_tangent, bias, bias_tangent)
    if _runs_compiled(*arguments):
        out, out_tangent, _ = torch.ops.pydistill.norm_act_pool_jvp(*arguments, norm, pooling, eps)
        return out, out_tangent
    return reference.norm_act_pool_jvp(*arguments, norm=norm, pooling=pooling, eps=eps)


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
    """Compute `norm_act_pool_backward` and its derivative in the direction of the tangents: forward over reverse.

    Formula: the derivative of the formula of `norm_act_pool_backward`, with [v > 0] and the maximum's pixel held fixed.

    Args:
        grad_out_tangent: shape, dtype and device of `grad_out`.
        grad_out: as in `norm_act_pool_backward`.
        z, …, bias_tangent, norm, pooling, eps: as in `norm_act_pool_jvp`.

    Returns:
        dz, its tangent, dγ, its tangent, dβ, its tangent; None for an omitted parameter.

    Raises:
        InputError: an argument is not as above.

    Derivatives: none; differentiating the compiled op raises RuntimeError.
    """
    op = "norm_act_pool_backward_jvp"
    check_norm_act_pool(z, weight, bias, norm=norm, pooling=pooling, eps=eps, op=op)
    check_backward(op, grad_out, z, pooling)
    check_backward(op, grad_out_tangent, z, pooling, "grad_out_tangent")
    check_tangents(op, z, z_tangent, (weight, bias), (weight_tangent, bias_tangent))
    arguments = (z, z_tangent, weight, weight_tangent, bias, bias_tangent)
    if _runs_compiled(grad_out, grad_out_tangent, *arguments):
        ops, settings = torch.ops.pydistill, (norm, pooling, eps)
        _, _, stats = ops.norm_act_pool_jvp(*arguments, *settings)
        grad_z, grad_z_tangent, sums = ops.norm_act_pool_backward_jvp(
            grad_out, grad_out_tangent, *arguments, stats, *settings
        )
        grad_weight, grad_bias = _of_parameters(sums[:2], weight, bias)
        weight_rate, bias_rate = _of_parameters(sums[2:], weight, bias)
        return grad_z, grad_z_tangent, grad_weight, weight_rate, grad_bias, bias_rate
    return reference.norm_act_pool_backward_jvp(
        grad_out, grad_out_tangent, *arguments, norm=norm, pooling=pooling, eps=eps
    )


def _runs_compiled(*tensors: Tensor | None) -> bool:
    present = [tensor for tensor in tensors if tensor is not None]
    return present[0].device.type in _COMPILED_FOR and not needs_plain_torch(*present)


def _of_parameters(sums: Tensor, weight: Tensor | None, bias: Tensor | None) -> tuple[Tensor | None, Tensor | None]:
    """Return the rows of weight and bias; None for an omitted parameter."""
    return None if weight is None else sums[0], None if bias is None else sums[1]


def _planes(z: Tensor, shape: tuple[int, ...]) -> Tensor:
    return torch.empty(shape, dtype=z.dtype, device=z.device, memory_format=torch.channels_last)


def _stats(z: Tensor, norm: str, rows: int) -> Tensor:
    return z.new_empty(z.shape[0], rows if norm == "instance" else 0, z.shape[1])


def _fake(z: Tensor, weight: Any, bias: Any, norm: str, pooling: str, eps: float) -> tuple[Tensor, ...]:
    return _planes(z, out_shape(z, pooling)), _stats(z, norm, 2)


def _fake_backward(
    grad_out: Tensor, z: Tensor, weight: Any, bias: Any, stats: Tensor, norm: str, pooling: str, eps: float
) -> tuple[Tensor, ...]:
    return _planes(z, tuple(z.shape)), z.new_empty(2, z.shape[1])


def _fake_jvp(
    z: Tensor,
    z_tangent: Tensor,
    weight: Any,
    weight_tangent: Any,
    bias: Any,
    bias_tangent: Any,
    norm: str,
    pooling: str,
    eps: float,
) -> tuple[Tensor, ...]:
    out, out_tangent = (_planes(z, out_shape(z, pooling)) for _ in range(2))
    return out, out_tangent, _stats(z, norm, 4)


def _fake_backward_jvp(
    grad_out: Tensor,
    grad_out_tangent: Tensor,
    z: Tensor,
    z_tangent: Tensor,
    weight: Any,
    weight_tangent: Any,
    bias: Any,
    bias_tangent: Any,
    stats: Tensor,
    norm: str,
    pooling: str,
    eps: float,
) -> tuple[Tensor, ...]:
    grad_z, grad_z_tangent = (_planes(z, tuple(z.shape)) for _ in range(2))
    return grad_z, grad_z_tangent, z.new_empty(4, z.shape[1])


def _setup_context(ctx: Any, inputs: tuple[Any, ...], output: tuple[Tensor, ...]) -> None:
    z, weight, bias, *ctx.settings = inputs
    stats = output[1]
    ctx.save_for_backward(z, weight, bias, stats)
    ctx.mark_non_differentiable(stats)
    ctx.set_materialize_grads(False)


def _backward(ctx: Any, of_out: Tensor | None, of_stats: Tensor | None) -> tuple[Any, ...]:
    """Compute the gradients by an op whose derivative raises, so that a second derivative is never a silent zero."""
    if of_out is None:
        return (None,) * 6
    z, weight, bias, stats = ctx.saved_tensors
    grad_z, sums = torch.ops.pydistill.norm_act_pool_backward(of_out, z, weight, bias, stats, *ctx.settings)
    grads = (grad_z, *_of_parameters(sums, weight, bias))
    return *(grad if needed else None for grad, needed in zip(grads, ctx.needs_input_grad, strict=False)), *(None,) * 3


if _COMPILED_FOR:
    torch.library.register_fake("pydistill::norm_act_pool", _fake)
    torch.library.register_fake("pydistill::norm_act_pool_backward", _fake_backward)
    torch.library.register_fake("pydistill::norm_act_pool_jvp", _fake_jvp)
    torch.library.register_fake("pydistill::norm_act_pool_backward_jvp", _fake_backward_jvp)
    torch.library.register_autograd("pydistill::norm_act_pool", _backward, setup_context=_setup_context)
    for _name in ("backward", "jvp", "backward_jvp"):
        refuse_derivative(f"norm_act_pool_{_name}")
