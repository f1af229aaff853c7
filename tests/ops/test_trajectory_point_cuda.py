"""GPU proofs of `trajectory_point`; csrc/README.md lists them."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from pydistill import ops, reference
from pydistill.errors import InputError
from tests.ops.builds import needs_gpu, needs_kernels

pytestmark = [pytest.mark.cuda, needs_gpu]

# Tensors that end inside a block, at its end (1024 elements, csrc/cuda/map.cuh), and many in one thread's elements.
SIZES = [[], [0], [1], [255, 1], [1023], [1024], [1025], [0, 700, 324, 0, 1], [1] * 1500, [97, 1_048_583, 3]]


def arguments(sizes: list[int], dtype: torch.dtype) -> tuple[Tensor, Tensor, Tensor, list[int]]:
    generator = torch.Generator().manual_seed(len(sizes))
    start, end = (torch.randn(sum(sizes), dtype=dtype, generator=generator).cuda() for _ in range(2))
    weights = 3 * torch.rand(len(sizes), dtype=torch.float64, generator=generator) - 1
    return start, end, weights.cuda(), sizes


@needs_kernels
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("sizes", SIZES, ids=lambda sizes: str(sizes[:5]))
def test_indexing_and_tails(sizes: list[int], dtype: torch.dtype) -> None:
    start, end, weights, _ = arguments(sizes, dtype)
    point = ops.trajectory_point(start, end, weights, sizes)
    expected = reference.trajectory_point(start.cpu().double(), end.cpu().double(), weights.cpu(), sizes)
    torch.testing.assert_close(point.cpu().double(), expected, rtol=0, atol=32 * torch.finfo(dtype).eps)


@needs_kernels
def test_weights_0_and_1_give_the_ends_exactly() -> None:
    start, end, _, _ = arguments([2000], torch.float32)
    weights = torch.tensor([0.0, 1.0], dtype=torch.float64, device="cuda")
    point = ops.trajectory_point(start, 1e6 * end, weights, [999, 1001])
    assert torch.equal(point, torch.cat([start[:999], 1e6 * end[999:]]))


@needs_kernels
@pytest.mark.slow
def test_more_elements_than_32_bits_count() -> None:
    size = 2**31 + 5
    if torch.cuda.mem_get_info()[0] < 4 * 4 * size:
        pytest.skip("the GPU has too little free memory for 2**31 + 5 elements")
    start = torch.zeros(size, device="cuda")
    start[-1] = 4.0
    weights = torch.tensor([0.0, 0.25], dtype=torch.float64, device="cuda")
    assert ops.trajectory_point(start, start * 2, weights, [size - 3, 3])[-3:].tolist() == [0.0, 0.0, 5.0]


@needs_kernels
def test_runs_on_the_current_stream() -> None:
    start, end, weights, sizes = arguments([50_000, 50_003], torch.float64)
    expected = reference.trajectory_point(start, end, weights, sizes)
    stream = torch.cuda.Stream()
    stream.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(stream):
        torch.cuda._sleep(50_000_000)  # a kernel on any other stream would overtake this and read what is written next
        start = start.clone()
        actual = ops.trajectory_point(start, end, weights, sizes)
    torch.cuda.current_stream().wait_stream(stream)
    torch.testing.assert_close(actual, expected)


@needs_kernels
def test_runs_on_the_device_of_its_arguments() -> None:
    if torch.cuda.device_count() < 2:
        pytest.skip("needs two GPUs")
    *tensors, sizes = arguments([5003, 7], torch.float64)
    inputs = [value.to("cuda:1") for value in tensors]
    actual = ops.trajectory_point(*inputs, sizes)
    assert actual.device == inputs[0].device
    torch.testing.assert_close(actual, reference.trajectory_point(*inputs, sizes))


@needs_kernels
def test_opcheck() -> None:
    checks = torch.library.opcheck(torch.ops.pydistill.trajectory_point.default, arguments([3, 0, 2000], torch.float64))
    assert set(checks.values()) == {"SUCCESS"}


def test_devices_must_agree() -> None:
    start, end, weights, sizes = arguments([5], torch.float32)
    with pytest.raises(InputError, match="weights"):
        ops.trajectory_point(start, end, weights.cpu(), sizes)


def test_without_kernels_the_reference_runs() -> None:
    inputs = arguments([1009, 30], torch.float64)
    torch.testing.assert_close(ops.trajectory_point(*inputs), reference.trajectory_point(*inputs))
