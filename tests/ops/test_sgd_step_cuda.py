"""What only a GPU can prove of `sgd_step`: csrc/README.md lists it."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from pydistill import ops, reference
from pydistill.errors import InputError
from pydistill.ops.build_info import build_config

needs_gpu = pytest.mark.skipif(not torch.cuda.is_available(), reason="no NVIDIA GPU is visible")
needs_kernels = pytest.mark.skipif(not build_config()["cuda"], reason="built without CUDA kernels")
pytestmark = [pytest.mark.cuda, needs_gpu]

ELEMENTS_PER_BLOCK = 4096  # csrc/cuda/map_reduce.cuh
SIZES = [0, 1, 31, 255, 256, 257, 1023, 1025, 4095, 4096, 4097, 1_048_583]


def arguments(size: int, dtype: torch.dtype) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    generator = torch.Generator().manual_seed(size)
    theta, grad, target = (torch.randn(size, dtype=dtype, generator=generator).cuda() for _ in range(3))
    return theta, grad, torch.tensor(0.3, dtype=dtype, device="cuda"), target


@needs_kernels
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("size", SIZES)
def test_indexing_and_tails(size: int, dtype: torch.dtype) -> None:
    inputs = arguments(size, dtype)
    theta_next, distances = ops.sgd_step(*inputs)
    expected, _ = reference.sgd_step(*(value.cpu().double() for value in inputs))
    torch.testing.assert_close(theta_next.cpu().double(), expected, rtol=0, atol=8 * torch.finfo(dtype).eps)
    gap = (theta_next - inputs[3]).double()
    torch.testing.assert_close(distances, torch.stack([gap.abs().sum(), gap.square().sum()]), rtol=1e-12, atol=0)


@needs_kernels
def test_more_blocks_than_one_block_finishes_in_one_round() -> None:
    size = 300 * ELEMENTS_PER_BLOCK + 1
    ones = torch.ones(size, device="cuda")
    _, distances = ops.sgd_step(ones, ones, torch.zeros((), device="cuda"), ones * 9)
    assert distances.tolist() == [8.0 * size, 64.0 * size]


@needs_kernels
@pytest.mark.slow
def test_more_elements_than_32_bits_count() -> None:
    size = 2**31 + 5
    if torch.cuda.mem_get_info()[0] < 5 * 4 * size:
        pytest.skip("the GPU has too little free memory for 2**31 + 5 elements")
    theta = torch.zeros(size, device="cuda")
    theta[-1] = 3.0
    grad = torch.zeros(size, device="cuda")
    theta_next, distances = ops.sgd_step(theta, grad, torch.ones((), device="cuda"), grad)
    assert theta_next[-1].item() == 3.0
    assert distances.tolist() == [3.0, 9.0]


@needs_kernels
def test_same_bits_on_every_run() -> None:
    inputs = arguments(1_048_583, torch.float32)
    first = ops.sgd_step(*inputs)
    for _ in range(20):
        again = ops.sgd_step(*inputs)
        assert torch.equal(again[0], first[0])
        assert torch.equal(again[1], first[1])


@needs_kernels
def test_runs_on_the_current_stream() -> None:
    theta, grad, lr, target = arguments(100_003, torch.float64)
    expected = reference.sgd_step(theta, grad, lr, target)
    stream = torch.cuda.Stream()
    stream.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(stream):
        torch.cuda._sleep(50_000_000)  # a kernel on any other stream would overtake this and read what is written next
        theta = theta.clone()
        found = ops.sgd_step(theta, grad, lr, target)
    torch.cuda.current_stream().wait_stream(stream)
    torch.testing.assert_close(found, expected)


@needs_kernels
def test_is_captured_in_a_graph_and_replayed_on_new_values() -> None:
    inputs = arguments(10_007, torch.float64)
    ops.sgd_step(*inputs)
    torch.cuda.synchronize()
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        captured = ops.sgd_step(*inputs)
    inputs[2].fill_(0.7)
    inputs[0].mul_(-2)
    graph.replay()
    torch.testing.assert_close(captured, reference.sgd_step(*inputs))


@needs_kernels
def test_runs_on_the_device_of_its_arguments() -> None:
    if torch.cuda.device_count() < 2:
        pytest.skip("needs two GPUs")
    inputs = [value.to("cuda:1") for value in arguments(5003, torch.float64)]
    found = ops.sgd_step(*inputs)
    assert found[0].device == inputs[0].device
    torch.testing.assert_close(found, reference.sgd_step(*inputs))


@needs_kernels
@pytest.mark.filterwarnings("ignore:The .grad attribute of a Tensor that is not a leaf:UserWarning")  # opcheck's own
def test_gradients_and_opcheck() -> None:
    inputs = tuple(value.requires_grad_() for value in arguments(7, torch.float64))
    assert torch.autograd.gradcheck(ops.sgd_step, inputs)
    assert torch.autograd.gradgradcheck(ops.sgd_step, inputs)
    assert set(torch.library.opcheck(torch.ops.pydistill.sgd_step.default, inputs).values()) == {"SUCCESS"}


def test_devices_must_agree() -> None:
    theta, grad, lr, target = arguments(5, torch.float32)
    with pytest.raises(InputError, match="lr"):
        ops.sgd_step(theta, grad, lr.cpu(), target)


def test_without_kernels_the_reference_runs() -> None:
    inputs = arguments(1009, torch.float64)
    torch.testing.assert_close(ops.sgd_step(*inputs), reference.sgd_step(*inputs))
