"""`norm_act_pool` and its derivatives on the CPU, compiled and reference; a GPU's part is in …_cuda.py."""

from __future__ import annotations

import itertools
import os
import subprocess
import sys
from collections.abc import Callable
from types import ModuleType

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

import pydistill.ops
import pydistill.reference
from pydistill.ops.build_info import build_config
from tests.ops.builds import compiled_only
from tests.ops.norm_act_pool import DTYPES, NORMS, PHASES, POOLINGS, Problem, assert_same

CHANNELS = [1, 3, 15, 16, 17, 31, 64, 65, 128, 130]  # around vectors and groups of them: csrc/cpu/simd/norm_act_pool.h
ISA_FLAGS = {
    "baseline": set(),
    "avx2": {"avx2", "fma"},
    "avx512": {"avx512f", "avx512bw", "avx512dq", "avx512vl"},
}
SIDES = [1, 2, 3, 5, 8, 9]  # around windows, segments of four of them and chunks of eight pixels


@compiled_only
@pytest.mark.parametrize("phase", PHASES)
@pytest.mark.parametrize("pooling", POOLINGS)
@pytest.mark.parametrize("norm", NORMS)
def test_agrees_with_the_reference(norm: str, pooling: str, phase: str) -> None:
    shapes = {(2, channels, 5, 8) for channels in CHANNELS}
    shapes |= {(1, 17, height, width) for height, width in itertools.product(SIDES, SIDES)}
    shapes |= {(images, 20, 4, 6) for images in (0, 1, 3)}
    for shape in sorted(shapes):
        problem = Problem(shape, norm, pooling)
        assert_same(problem.run(phase), problem.run(phase, pydistill.reference), 1e-9 if shape[2:] != (1, 1) else 1e-7)


@compiled_only
@pytest.mark.parametrize("phase", PHASES)
@pytest.mark.parametrize("pooling", POOLINGS)
@pytest.mark.parametrize("norm", NORMS)
def test_float32_is_as_accurate_as_pytorch(norm: str, pooling: str, phase: str) -> None:
    """Planes without a number near a kink, so that the errors compared are those of rounding."""
    problem = Problem((2, 33, 10, 12), norm, pooling, torch.float32)
    if norm == "instance":
        problem.bias[0] += 9.0  # far to one side of the ReLU's kink
    exact = Problem((2, 33, 10, 12), norm, pooling)
    exact.z, exact.grad = problem.z.double(), problem.grad.double()
    exact.weight = problem.weight.double() if norm == "instance" else exact.weight
    exact.bias = problem.bias.double()
    expected = exact.run(phase, pydistill.reference)
    for actual, plain, truth in zip(problem.run(phase), problem.run(phase, pydistill.reference), expected, strict=True):
        if truth is None:
            assert actual is None
            continue
        assert actual is not None
        assert plain is not None
        assert actual.dtype == torch.float32
        floor = 4 * torch.finfo(torch.float32).eps * truth.abs().max()
        assert (actual - truth).abs().max() <= 2 * (plain - truth).abs().max() + floor


@compiled_only
@pytest.mark.parametrize("outlier", [None, 1e4], ids=["level", "outlier-first"])
def test_statistics_do_not_cancel(outlier: float | None) -> None:
    """Mean 1000 and spread 1 in float32: not worse than PyTorch's own instance norm, both against float64."""
    torch.manual_seed(0)
    z = 1000 + torch.randn(4, 40, 32, 32)
    if outlier is not None:
        z[:, :, 0, 0] += outlier
    weight, bias = torch.ones(40), torch.full((40,), 200.0)  # every u shows, on the linear side of the ReLU
    truth = F.instance_norm(z.double()) + 200
    own = F.instance_norm(z) + 200
    actual = pydistill.ops.norm_act_pool(z, weight, bias, pooling="none")
    floor = 2 * torch.finfo(torch.float32).eps * truth.abs().max()
    assert (actual - truth).abs().max() <= (own - truth).abs().max() + floor
    tangent = torch.randn_like(z) + 1000
    pair = (z, tangent, weight, torch.zeros(40), bias, torch.zeros(40))
    rate = pydistill.ops.norm_act_pool_jvp(*pair, pooling="none")[1]
    plain_rate = pydistill.reference.norm_act_pool_jvp(*pair, pooling="none")[1]
    true_rate = pydistill.reference.norm_act_pool_jvp(*(value.double() for value in pair), pooling="none")[1]
    assert (rate - true_rate).abs().max() <= 2 * (plain_rate - true_rate).abs().max()


def test_equal_pixels_have_no_spread(module: ModuleType) -> None:
    z = torch.full((1, 17, 7, 6), 1000.1, dtype=torch.float64)
    out = module.norm_act_pool(z, torch.ones(17, dtype=torch.float64), torch.full((17,), 0.5, dtype=torch.float64))
    torch.testing.assert_close(out, torch.full_like(out, 0.5), rtol=0, atol=1e-6)


@pytest.mark.parametrize("pooling", POOLINGS)
def test_is_pytorchs_instance_norm_relu_and_pooling(module: ModuleType, pooling: str) -> None:
    problem = Problem((3, 5, 7, 9), pooling=pooling)
    z, weight, bias = problem.arguments("")
    v = F.instance_norm(z, weight=weight, bias=bias, eps=0.25).relu()
    pool: dict[str, Callable[[Tensor], Tensor]] = {
        "average": lambda v: F.avg_pool2d(v, 2),
        "max": lambda v: F.max_pool2d(v, 2),
        "none": lambda v: v,
    }
    out = module.norm_act_pool(z, weight, bias, pooling=pooling, eps=0.25)
    torch.testing.assert_close(out, pool[pooling](v), rtol=1e-12, atol=1e-12)
    assert out.is_contiguous(memory_format=torch.channels_last)


def test_known_numbers(module: ModuleType) -> None:
    z = torch.tensor([[[[1.0, -2.0], [3.0, 0.5]]]])
    assert module.norm_act_pool(z, bias=torch.tensor([-0.5]), norm="none").tolist() == [[[[0.75]]]]
    assert module.norm_act_pool(z, norm="none", pooling="max").tolist() == [[[[3.0]]]]
    assert module.norm_act_pool(z, norm="none", pooling="none").tolist() == [[[[1.0, 0.0], [3.0, 0.5]]]]


@compiled_only
@pytest.mark.parametrize("phase", PHASES)
def test_without_a_bias(phase: str) -> None:
    problem = Problem((2, 19, 4, 5), "none", bias=False)
    assert_same(problem.run(phase), problem.run(phase, pydistill.reference), 1e-12)


@compiled_only
@pytest.mark.parametrize("phase", PHASES)
def test_takes_views_and_leaves_its_arguments_alone(phase: str) -> None:
    problem = Problem((2, 19, 6, 5))
    expected = problem.run(phase)
    view = Problem((2, 19, 6, 5))
    view.z = torch.stack([view.z, view.z], dim=-1)[..., 0]
    view.grad = view.grad.transpose(-1, -2).contiguous().transpose(-1, -2)
    view.weight, view.bias = (torch.stack([value, value], dim=-1)[..., 1] for value in (view.weight, view.bias))
    before = [value.clone() for value in view.arguments(phase)]
    assert_same(view.run(phase), expected, 0)
    for value, copy in zip(view.arguments(phase), before, strict=True):
        assert torch.equal(value, copy)


@compiled_only
@pytest.mark.parametrize("phase", PHASES)
@pytest.mark.parametrize("pooling", POOLINGS)
@pytest.mark.parametrize("norm", NORMS)
def test_not_a_number_goes_where_pytorch_lets_it(norm: str, pooling: str, phase: str) -> None:
    problem = Problem((2, 18, 6, 7), norm, pooling)
    problem.z[0][0, 3, 2, 3] = torch.nan  # in the middle of a window
    problem.z[0][1, 17, 0, 0] = torch.nan  # the first of two in a window
    problem.z[0][1, 17, 1, 1] = torch.nan
    problem.z[0][1, 4, 5, 6] = torch.nan  # in a column that is not pooled
    actual, expected = problem.run(phase), problem.run(phase, pydistill.reference)
    for one, other in zip(actual, expected, strict=True):
        if other is not None:
            assert one is not None
            torch.testing.assert_close(one, other, rtol=1e-9, atol=1e-9, equal_nan=True)
    assert expected[0] is not None
    assert expected[0].isnan().any() == (phase in ("", "_jvp") or norm == "instance")


@pytest.mark.parametrize("pooling", ["max", "average"])
def test_zeros_and_equal_maxima(pooling: str) -> None:
    """The first of equal maxima takes the gradient, and a pixel at zero none, as in PyTorch."""
    z = torch.tensor([[[[2.0, 2.0, 0.0, 0.0], [1.0, 2.0, -1.0, 0.0]]]], dtype=torch.float64)
    grad = torch.tensor([[[[4.0, 8.0]]]], dtype=torch.float64)
    grad_z, grad_weight, grad_bias = pydistill.ops.norm_act_pool_backward(grad, z, norm="none", pooling=pooling)
    first = [[4.0, 0, 0, 0], [0, 0, 0, 0]] if pooling == "max" else [[1.0, 1.0, 0, 0], [1.0, 1.0, 0, 0]]
    assert grad_z.tolist() == [[first]]
    assert grad_weight is None
    assert grad_bias is None


@compiled_only
@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("phase", PHASES)
def test_same_bits_for_any_number_of_threads(phase: str, dtype: torch.dtype) -> None:
    problem = Problem((7, 130, 17, 19), dtype=dtype)
    before = torch.get_num_threads()
    try:
        results = []
        for threads in (1, 2, 3, 5):
            torch.set_num_threads(threads)
            results.append(problem.run(phase))
    finally:
        torch.set_num_threads(before)
    for result in results[1:]:
        for one, other in zip(result, results[0], strict=True):
            assert one is not None
            assert other is not None
            assert torch.equal(one, other)


@compiled_only
@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("phase", PHASES)
def test_planes_too_large_for_the_cache_are_as_those_of_one_image(phase: str, dtype: torch.dtype) -> None:
    """Above 8 MB results are stored past the caches (csrc/cpu/norm_act_pool.cpp); here an image alone is below."""
    problem = Problem((5, 64, 96, 96), pooling="none", dtype=dtype)
    complete = problem.run(phase)[: 2 if "jvp" in phase else 1]
    images = []
    for image in range(5):
        alone = Problem((1, 64, 96, 96), pooling="none", dtype=dtype)
        alone.z, alone.grad = problem.z[:, image : image + 1], problem.grad[:, image : image + 1]
        alone.weight, alone.bias = problem.weight, problem.bias
        images.append(alone.run(phase))
    for index, planes in enumerate(complete):
        assert planes is not None
        assert planes.numel() * planes.element_size() > 8 * 2**20
        assert torch.equal(planes, torch.cat([value[index] for value in images]))


@compiled_only
def test_keeps_the_mean_and_the_reciprocal_spread() -> None:
    problem = Problem((2, 19, 4, 5))
    _, _, stats = torch.ops.pydistill.norm_act_pool_jvp(*problem.arguments("_jvp"), "instance", "average", 1e-5)

    def mean_and_root(z: Tensor) -> Tensor:
        variance, mean = torch.var_mean(z, (2, 3), correction=0)
        return torch.stack([mean, (variance + 1e-5).rsqrt()], dim=1)

    expected = torch.func.jvp(mean_and_root, (problem.z[0],), (problem.z[1],))
    torch.testing.assert_close(stats, torch.cat(expected, dim=1), rtol=1e-11, atol=1e-11)


@compiled_only
@pytest.mark.parametrize("isa", [isa for isa in ISA_FLAGS if isa != build_config()["isa"]])
def test_every_instruction_set(isa: str) -> None:
    """The tests above in another process, since the choice is made once; this process has the widest set."""
    if not ISA_FLAGS[isa] <= processor_flags():
        pytest.skip(f"this processor has no {isa}")
    tests = ["test_agrees_with_the_reference", "test_float32_is_as_accurate_as_pytorch", "test_not_a_number_goes_where"]
    command = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", __file__, "-k", " or ".join(tests)]
    environment = {**os.environ, "PYDISTILL_ISA": isa}
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout[-2000:]
    assert "72 passed" in done.stdout


def processor_flags() -> set[str]:
    try:
        with open("/proc/cpuinfo") as file:
            return {flag for line in file if line.startswith("flags") for flag in line.split(":")[1].split()}
    except FileNotFoundError:
        return set()


def test_meta_tensors_give_shapes(module: ModuleType) -> None:
    z, weight, bias = (value.to("meta") for value in Problem((2, 3, 5, 8)).arguments(""))
    out = module.norm_act_pool(z, weight, bias)
    assert (out.shape, out.dtype, out.device.type) == ((2, 3, 2, 4), torch.float64, "meta")
