"""Autograd through `norm_act_pool`: first order and forward mode hold, anything beyond raises."""

from __future__ import annotations

from types import ModuleType

import pytest
import torch
from torch import Tensor

import pydistill.ops
import pydistill.reference
from tests.ops.builds import compiled_only
from tests.ops.norm_act_pool import NORMS, PHASES, POOLINGS, Problem


@pytest.mark.parametrize("pooling", POOLINGS)
@pytest.mark.parametrize("norm", NORMS)
def test_gradcheck(module: ModuleType, norm: str, pooling: str) -> None:
    for shape in ((2, 3, 4, 5), (1, 17, 2, 2), (0, 2, 3, 3), (1, 2, 1, 3)):
        inputs = tuple(
            value.requires_grad_() for value in Problem(shape, norm, pooling).arguments("") if value is not None
        )
        weights = (None,) if norm == "none" else ()

        def run(z: Tensor, *parameters: Tensor, absent: tuple[None, ...] = weights) -> Tensor:
            return module.norm_act_pool(z, *absent, *parameters, norm=norm, pooling=pooling)

        assert torch.autograd.gradcheck(run, inputs)


@compiled_only
@pytest.mark.parametrize("needed", [0, 1, 2])
def test_gradient_of_one_argument_alone(needed: int) -> None:
    actual, expected = (
        torch.autograd.grad(op(*inputs).square().sum(), inputs[needed])[0]
        for op in (pydistill.ops.norm_act_pool, pydistill.reference.norm_act_pool)
        for inputs in [Problem((2, 5, 4, 4)).arguments("")]
        if inputs[needed].requires_grad_() is not None
    )
    torch.testing.assert_close(actual, expected, rtol=1e-10, atol=1e-10)
    assert actual.any()


@compiled_only
@pytest.mark.parametrize("by", [0, 1, 2])
def test_a_second_derivative_raises(by: int) -> None:
    inputs = [value.requires_grad_() for value in Problem((2, 3, 4, 4)).arguments("")]
    (gradient,) = torch.autograd.grad(
        pydistill.ops.norm_act_pool(*inputs).square().sum(), inputs[by], create_graph=True
    )
    penalty = gradient.square().sum() + sum(value.square().sum() for value in inputs)
    with pytest.raises(RuntimeError, match="norm_act_pool"):
        penalty.backward()


@compiled_only
@pytest.mark.parametrize("phase", PHASES[1:])
def test_a_derivative_of_the_derivatives_raises(phase: str) -> None:
    problem = Problem((2, 3, 4, 4))
    problem.z = tuple(value.requires_grad_() for value in problem.z.unbind())
    with pytest.raises(RuntimeError, match="norm_act_pool"):
        problem.run(phase)[0].sum().backward()


@compiled_only
def test_the_statistics_are_no_result_to_be_differentiated() -> None:
    inputs = [value.requires_grad_() for value in Problem((2, 3, 4, 4)).arguments("")]
    out, stats = torch.ops.pydistill.norm_act_pool(*inputs, "instance", "average", 1e-5)
    assert out.requires_grad
    assert not stats.requires_grad


def test_forward_mode_and_function_transforms(module: ModuleType) -> None:
    problem = Problem((2, 3, 4, 4))
    z, z_tangent, weight, _, bias, _ = problem.arguments("_jvp")

    def loss(z: Tensor) -> Tensor:
        return module.norm_act_pool(z, weight, bias).square().sum()

    gradient = torch.autograd.functional.jacobian(
        lambda z: pydistill.reference.norm_act_pool(z, weight, bias).square().sum(), z
    )
    torch.testing.assert_close(torch.func.grad(loss)(z), gradient)
    slope = (gradient * z_tangent).sum()
    torch.testing.assert_close(torch.func.jvp(loss, (z,), (z_tangent,))[1], slope)
    with torch.autograd.forward_ad.dual_level():
        dual = loss(torch.autograd.forward_ad.make_dual(z, z_tangent))
        torch.testing.assert_close(torch.autograd.forward_ad.unpack_dual(dual).tangent, slope)


@compiled_only
@pytest.mark.filterwarnings("ignore:The .grad attribute of a Tensor that is not a leaf:UserWarning")  # opcheck's own
@pytest.mark.parametrize("requires_grad", [False, True])
@pytest.mark.parametrize("norm", NORMS)
def test_opcheck(norm: str, requires_grad: bool) -> None:
    for shape, pooling in (((2, 3, 4, 5), "average"), ((0, 3, 4, 4), "max"), ((2, 1, 1, 3), "none")):
        inputs = [
            value if value is None else value.requires_grad_(requires_grad)
            for value in Problem(shape, norm, pooling, torch.float32).arguments("")
        ]
        checks = torch.library.opcheck(torch.ops.pydistill.norm_act_pool.default, (*inputs, norm, pooling, 1e-5))
        assert set(checks.values()) == {"SUCCESS"}


@compiled_only
@pytest.mark.parametrize("norm", NORMS)
@pytest.mark.parametrize("phase", PHASES[1:])
def test_opcheck_of_the_derivatives(phase: str, norm: str) -> None:
    ops = torch.ops.pydistill
    for shape, pooling in (((2, 3, 4, 5), "average"), ((0, 3, 4, 4), "max"), ((2, 1, 1, 3), "none")):
        problem = Problem(shape, norm, pooling, torch.float32)
        arguments, settings = problem.arguments(phase), (norm, pooling, 1e-5)
        if phase == "_backward":
            arguments = (*arguments, ops.norm_act_pool(*problem.arguments(""), *settings)[1])
        elif phase == "_backward_jvp":
            arguments = (*arguments, ops.norm_act_pool_jvp(*problem.arguments("_jvp"), *settings)[2])
        checks = torch.library.opcheck(getattr(ops, f"norm_act_pool{phase}").default, (*arguments, *settings))
        assert set(checks.values()) == {"SUCCESS"}
