"""GPU proofs of `norm_act_pool`; csrc/README.md lists them."""

from __future__ import annotations

import pytest
import torch

import pydistill.ops
import pydistill.reference
from tests.ops.builds import needs_gpu, needs_kernels
from tests.ops.norm_act_pool import NORMS, PHASES, POOLINGS, Problem, assert_same

pytestmark = [pytest.mark.cuda, needs_gpu]

# Around the block's 32 channels, and planes that take 1, 2, 4 and 16 rows of threads: csrc/cuda/plane.cuh.
SHAPES = [(2, 1, 4, 4), (1, 31, 5, 6), (3, 32, 1, 9), (2, 33, 7, 7), (2, 65, 33, 31), (0, 3, 4, 4), (1, 130, 2, 3)]


def on(problem: Problem, device: str) -> Problem:
    problem.z, problem.grad = problem.z.to(device), problem.grad.to(device)
    problem.weight, problem.bias = (
        value.to(device) if isinstance(value, torch.Tensor) else value for value in (problem.weight, problem.bias)
    )
    return problem


@needs_kernels
@pytest.mark.parametrize("phase", PHASES)
@pytest.mark.parametrize("pooling", POOLINGS)
@pytest.mark.parametrize("norm", NORMS)
def test_indexing_barriers_and_tails(norm: str, pooling: str, phase: str) -> None:
    for shape in SHAPES:
        actual = on(Problem(shape, norm, pooling), "cuda").run(phase)
        assert all(value is None or value.is_cuda for value in actual)
        expected = Problem(shape, norm, pooling).run(phase, pydistill.reference)
        assert_same(tuple(value if value is None else value.cpu() for value in actual), expected, 1e-9)


@needs_kernels
@pytest.mark.parametrize("phase", PHASES)
def test_float32_is_as_accurate_as_on_the_cpu(phase: str) -> None:
    exact = Problem((2, 40, 32, 32))
    exact.z[0] += 1000
    exact.bias[0] += 200  # every pixel on the linear side of the ReLU's kink
    single = Problem((2, 40, 32, 32))
    single.z, single.grad = exact.z.float(), exact.grad.float()
    single.weight, single.bias = exact.weight.float(), exact.bias.float()
    exact.z = single.z.double()
    on_cpu = single.run(phase)
    for actual, same, truth in zip(on(single, "cuda").run(phase), on_cpu, exact.run(phase), strict=True):
        assert actual is not None
        assert same is not None
        assert truth is not None
        floor = 8 * torch.finfo(torch.float32).eps * truth.abs().max()
        assert (actual.cpu() - truth).abs().max() <= 2 * (same - truth).abs().max() + floor


@needs_kernels
@pytest.mark.parametrize("phase", PHASES)
def test_same_bits_on_every_run(phase: str) -> None:
    problem = on(Problem((5, 130, 33, 35), dtype=torch.float32), "cuda")
    first = problem.run(phase)
    for _ in range(10):
        for one, other in zip(problem.run(phase), first, strict=True):
            assert one is not None
            assert other is not None
            assert torch.equal(one, other)


@needs_kernels
@pytest.mark.slow
def test_more_elements_than_32_bits_count() -> None:
    if torch.cuda.mem_get_info()[0] < 3 * 4 * 2**31:
        pytest.skip("the GPU has too little free memory for 2**31 numbers")
    z = torch.zeros(2, 64, 4096, 4097, device="cuda").contiguous(memory_format=torch.channels_last)
    z[1, 63, 4095, 4095] = 3.0
    out = pydistill.ops.norm_act_pool(z, norm="none")
    assert out[1, 63, 2047, 2047].item() == 0.75
    assert out.sum().item() == 0.75


@needs_kernels
@pytest.mark.parametrize("phase", PHASES)
def test_runs_on_the_current_stream(phase: str) -> None:
    problem = on(Problem((4, 40, 12, 12)), "cuda")
    expected = problem.run(phase)
    stream = torch.cuda.Stream()
    stream.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(stream):
        torch.cuda._sleep(50_000_000)  # a kernel on any other stream would overtake this and read what is written next
        problem.z = problem.z.clone()
        actual = problem.run(phase)
    torch.cuda.current_stream().wait_stream(stream)
    assert_same(actual, expected, 0)


@needs_kernels
@pytest.mark.parametrize("phase", PHASES)
def test_is_captured_in_a_graph_and_replayed_on_new_values(phase: str) -> None:
    problem = on(Problem((4, 40, 12, 12)), "cuda")
    problem.run(phase)
    torch.cuda.synchronize()
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        captured = problem.run(phase)
    problem.z.mul_(-2)
    problem.grad.add_(0.5)
    graph.replay()
    assert_same(captured, problem.run(phase), 0)


@needs_kernels
@pytest.mark.parametrize("phase", PHASES)
def test_runs_on_the_device_of_its_arguments(phase: str) -> None:
    if torch.cuda.device_count() < 2:
        pytest.skip("needs two GPUs")
    actual = on(Problem((2, 33, 5, 6)), "cuda:1").run(phase)
    assert actual[0] is not None
    assert actual[0].device == torch.device("cuda:1")
    assert_same(
        tuple(value if value is None else value.cpu() for value in actual), Problem((2, 33, 5, 6)).run(phase), 1e-9
    )


@needs_kernels
@pytest.mark.filterwarnings("ignore:The .grad attribute of a Tensor that is not a leaf:UserWarning")  # opcheck's own
def test_gradients_and_opcheck() -> None:
    inputs = tuple(value.requires_grad_() for value in on(Problem((2, 3, 4, 5)), "cuda").arguments(""))
    assert torch.autograd.gradcheck(pydistill.ops.norm_act_pool, inputs)
    checks = torch.library.opcheck(torch.ops.pydistill.norm_act_pool.default, (*inputs, "instance", "average", 1e-5))
    assert set(checks.values()) == {"SUCCESS"}


@pytest.mark.parametrize("phase", PHASES)
def test_without_kernels_the_reference_runs(phase: str) -> None:
    problem = on(Problem((2, 5, 6, 6)), "cuda")
    assert_same(problem.run(phase), problem.run(phase, pydistill.reference), 1e-9)
