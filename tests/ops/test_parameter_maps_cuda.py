"""GPU proofs of `sgd_step` and `adjoint_step`; csrc/README.md lists them."""

from __future__ import annotations

import pytest
import torch

from pydistill.errors import InputError
from tests.ops.builds import needs_gpu, needs_kernels
from tests.ops.parameter_maps import ADJOINT_STEP, MAPS, WEIGHTED_SGD_STEP, Inputs, ParameterMap

pytestmark = [pytest.mark.cuda, needs_gpu]

ELEMENTS_PER_BLOCK = 4096  # csrc/cuda/map_reduce.cuh
SIZES = [0, 1, 31, 255, 256, 257, 1023, 1025, 4095, 4096, 4097, 1_048_583]


@pytest.fixture(params=MAPS, ids=lambda step: step.case)
def step(request: pytest.FixtureRequest) -> ParameterMap:
    return request.param


def arguments(step: ParameterMap, size: int, dtype: torch.dtype) -> Inputs:
    return step.random(size, dtype, "cuda")


@needs_kernels
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("size", SIZES)
def test_indexing_and_tails(step: ParameterMap, size: int, dtype: torch.dtype) -> None:
    inputs = arguments(step, size, dtype)
    following, sums = step.op(*inputs)
    expected, expected_sums = step.reference(*(value.cpu().double() for value in inputs))
    torch.testing.assert_close(following.cpu().double(), expected, rtol=0, atol=8 * torch.finfo(dtype).eps)
    if step is not ADJOINT_STEP:
        torch.testing.assert_close(sums, step.sums(following, step.by_name(inputs)), rtol=1e-12, atol=0)
    else:
        torch.testing.assert_close(sums.cpu(), expected_sums, rtol=0, atol=1e-14 * (1 + size))


@needs_kernels
def test_more_blocks_than_one_block_finishes_in_one_round(step: ParameterMap) -> None:
    size = 300 * ELEMENTS_PER_BLOCK + 1
    factors, sums_of_one = step.of_ones
    ones = torch.ones(size, device="cuda")
    _, sums = step.op(*step.inputs(tuple(ones * factor for factor in factors), torch.zeros((), device="cuda")))
    assert sums.flatten().tolist() == [size * term for term in sums_of_one]


@needs_kernels
@pytest.mark.slow
def test_more_elements_than_32_bits_count(step: ParameterMap) -> None:
    size = 2**31 + 5
    if torch.cuda.mem_get_info()[0] < 5 * 4 * size:
        pytest.skip("the GPU has too little free memory for 2**31 + 5 elements")
    first, others = torch.zeros(size, device="cuda"), torch.zeros(size, device="cuda")
    first[-1] = 3.0
    if step is not ADJOINT_STEP:
        weights = (first,) if step is WEIGHTED_SGD_STEP else ()
        following, distances = step.op(first, others, torch.ones((), device="cuda"), others, *weights)
        assert following[-1].item() == 3.0
        assert distances.tolist() == ([9.0, 27.0] if weights else [3.0, 9.0])
    else:
        following, inner = step.op(first, first, first, torch.full((), 2.0, device="cuda"))
        assert following[-1].item() == -3.0
        assert inner.item() == 9.0


@needs_kernels
def test_same_bits_on_every_run(step: ParameterMap) -> None:
    inputs = arguments(step, 1_048_583, torch.float32)
    first = step.op(*inputs)
    for _ in range(20):
        again = step.op(*inputs)
        assert torch.equal(again[0], first[0])
        assert torch.equal(again[1], first[1])


@needs_kernels
def test_runs_on_the_current_stream(step: ParameterMap) -> None:
    first, *others = arguments(step, 100_003, torch.float64)
    expected = step.reference(first, *others)
    stream = torch.cuda.Stream()
    stream.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(stream):
        torch.cuda._sleep(50_000_000)  # a kernel on any other stream would overtake this and read what is written next
        first = first.clone()
        results = step.op(first, *others)
    torch.cuda.current_stream().wait_stream(stream)
    torch.testing.assert_close(results, expected)


@needs_kernels
def test_is_captured_in_a_graph_and_replayed_on_new_values(step: ParameterMap) -> None:
    inputs = arguments(step, 10_007, torch.float64)
    step.op(*inputs)
    torch.cuda.synchronize()
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        captured = step.op(*inputs)
    inputs[step.lr].fill_(0.7)
    inputs[0].mul_(-2)
    graph.replay()
    torch.testing.assert_close(captured, step.reference(*inputs))


@needs_kernels
def test_runs_on_the_device_of_its_arguments(step: ParameterMap) -> None:
    if torch.cuda.device_count() < 2:
        pytest.skip("needs two GPUs")
    inputs = [value.to("cuda:1") for value in arguments(step, 5003, torch.float64)]
    results = step.op(*inputs)
    assert results[0].device == inputs[0].device
    torch.testing.assert_close(results, step.reference(*inputs))


@needs_kernels
@pytest.mark.filterwarnings("ignore:The .grad attribute of a Tensor that is not a leaf:UserWarning")  # opcheck's own
def test_gradients_and_opcheck(step: ParameterMap) -> None:
    inputs = tuple(value.requires_grad_() for value in arguments(step, 7, torch.float64))
    assert torch.autograd.gradcheck(step.op, inputs)
    assert torch.autograd.gradgradcheck(step.op, inputs)
    assert set(torch.library.opcheck(step.compiled.default, inputs).values()) == {"SUCCESS"}


def test_devices_must_agree(step: ParameterMap) -> None:
    inputs = list(arguments(step, 5, torch.float32))
    inputs[step.lr] = inputs[step.lr].cpu()
    with pytest.raises(InputError, match="lr"):
        step.op(*inputs)


def test_without_kernels_the_reference_runs(step: ParameterMap) -> None:
    inputs = arguments(step, 1009, torch.float64)
    torch.testing.assert_close(step.op(*inputs), step.reference(*inputs))
