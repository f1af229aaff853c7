"""What only a GPU can prove of `adjoint_step`: csrc/README.md lists it."""

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
    adjoint, product, grad = (torch.randn(size, dtype=dtype, generator=generator).cuda() for _ in range(3))
    return adjoint, product, grad, torch.tensor(0.3, dtype=dtype, device="cuda")


@needs_kernels
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("size", SIZES)
def test_indexing_and_tails(size: int, dtype: torch.dtype) -> None:
    inputs = arguments(size, dtype)
    adjoint_next, inner = ops.adjoint_step(*inputs)
    expected, expected_inner = reference.adjoint_step(*(value.cpu().double() for value in inputs))
    torch.testing.assert_close(adjoint_next.cpu().double(), expected, rtol=0, atol=8 * torch.finfo(dtype).eps)
    torch.testing.assert_close(inner.cpu(), expected_inner, rtol=0, atol=1e-14 * (1 + size))


@needs_kernels
def test_more_blocks_than_one_block_finishes_in_one_round() -> None:
    size = 300 * ELEMENTS_PER_BLOCK + 1
    ones = torch.ones(size, device="cuda")
    assert ops.adjoint_step(ones, ones, ones * 8, torch.zeros((), device="cuda"))[1].item() == 8.0 * size


@needs_kernels
@pytest.mark.slow
def test_more_elements_than_32_bits_count() -> None:
    size = 2**31 + 5
    if torch.cuda.mem_get_info()[0] < 4 * 4 * size:
        pytest.skip("the GPU has too little free memory for 2**31 + 5 elements")
    adjoint = torch.zeros(size, device="cuda")
    adjoint[-1] = 3.0
    adjoint_next, inner = ops.adjoint_step(adjoint, adjoint, adjoint, torch.full((), 2.0, device="cuda"))
    assert adjoint_next[-1].item() == -3.0
    assert inner.item() == 9.0


@needs_kernels
def test_same_bits_on_every_run() -> None:
    inputs = arguments(1_048_583, torch.float32)
    first = ops.adjoint_step(*inputs)
    for _ in range(20):
        again = ops.adjoint_step(*inputs)
        assert torch.equal(again[0], first[0])
        assert torch.equal(again[1], first[1])


@needs_kernels
def test_runs_on_the_current_stream() -> None:
    adjoint, product, grad, lr = arguments(100_003, torch.float64)
    expected = reference.adjoint_step(adjoint, product, grad, lr)
    stream = torch.cuda.Stream()
    stream.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(stream):
        torch.cuda._sleep(50_000_000)  # a kernel on any other stream would overtake this and read what is written next
        adjoint = adjoint.clone()
        found = ops.adjoint_step(adjoint, product, grad, lr)
    torch.cuda.current_stream().wait_stream(stream)
    torch.testing.assert_close(found, expected)


@needs_kernels
def test_is_captured_in_a_graph_and_replayed_on_new_values() -> None:
    inputs = arguments(10_007, torch.float64)
    ops.adjoint_step(*inputs)
    torch.cuda.synchronize()
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        captured = ops.adjoint_step(*inputs)
    inputs[3].fill_(0.7)
    inputs[0].mul_(-2)
    graph.replay()
    torch.testing.assert_close(captured, reference.adjoint_step(*inputs))


@needs_kernels
def test_runs_on_the_device_of_its_arguments() -> None:
    if torch.cuda.device_count() < 2:
        pytest.skip("needs two GPUs")
    inputs = [value.to("cuda:1") for value in arguments(5003, torch.float64)]
    found = ops.adjoint_step(*inputs)
    assert found[0].device == inputs[0].device
    torch.testing.assert_close(found, reference.adjoint_step(*inputs))


@needs_kernels
@pytest.mark.filterwarnings("ignore:The .grad attribute of a Tensor that is not a leaf:UserWarning")  # opcheck's own
def test_gradients_and_opcheck() -> None:
    inputs = tuple(value.requires_grad_() for value in arguments(7, torch.float64))
    assert torch.autograd.gradcheck(ops.adjoint_step, inputs)
    assert torch.autograd.gradgradcheck(ops.adjoint_step, inputs)
    assert set(torch.library.opcheck(torch.ops.pydistill.adjoint_step.default, inputs).values()) == {"SUCCESS"}


def test_devices_must_agree() -> None:
    adjoint, product, grad, lr = arguments(5, torch.float32)
    with pytest.raises(InputError, match="lr"):
        ops.adjoint_step(adjoint, product, grad, lr.cpu())


def test_without_kernels_the_reference_runs() -> None:
    inputs = arguments(1009, torch.float64)
    torch.testing.assert_close(ops.adjoint_step(*inputs), reference.adjoint_step(*inputs))
