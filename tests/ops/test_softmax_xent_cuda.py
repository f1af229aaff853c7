"""GPU proofs of `softmax_xent` and its derivatives; csrc/README.md lists them."""

from __future__ import annotations

from types import ModuleType

import pytest
import torch
from torch import Tensor

from pydistill import ops, reference
from pydistill.errors import InputError
from tests.ops.builds import needs_gpu, needs_kernels

pytestmark = [pytest.mark.cuda, needs_gpu]

LABELS = ["hard", "rows"]
# Around a warp's 32 columns and a block's 8 rows (csrc/cuda/row_map.cuh), and more rows than one block sums.
SHAPES = [(0, 3), (1, 1), (7, 31), (8, 32), (9, 33), (1000, 10), (13, 4099), (10_007, 3)]


def arguments(shape: tuple[int, int], kind: str, dtype: torch.dtype) -> tuple[Tensor, Tensor, Tensor]:
    """Logits, a tangent of theirs, and labels: class numbers, or rows whose mass is not one."""
    generator = torch.Generator().manual_seed(shape[0] * 7919 + shape[1])
    logits, tangent = (torch.randn(shape, dtype=dtype, generator=generator) for _ in range(2))
    rows = torch.rand(shape, dtype=dtype, generator=generator)
    numbers = torch.randint(shape[1], shape[:1], generator=generator)
    return 3 * logits.cuda(), tangent.cuda(), (numbers if kind == "hard" else rows).cuda()


def results(module: ModuleType, logits: Tensor, tangent: Tensor, labels: Tensor) -> list[Tensor]:
    """Of all four ops."""
    actual = (
        module.softmax_xent(logits, labels),
        *module.softmax_xent_backward(logits.new_full((), -2.5), logits, labels),
        *module.softmax_xent_jvp(logits, tangent, labels),
        *module.softmax_xent_backward_jvp(logits, tangent, labels),
    )
    return [value for value in actual if value is not None]


@needs_kernels
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("kind", LABELS)
@pytest.mark.parametrize("shape", SHAPES, ids=str)
def test_indexing_and_tails(shape: tuple[int, int], kind: str, dtype: torch.dtype) -> None:
    logits, tangent, labels = arguments(shape, kind, dtype)
    actual = results(ops, logits, tangent, labels)
    labels = labels.cpu() if kind == "hard" else labels.cpu().double()
    expected = results(reference, logits.cpu().double(), tangent.cpu().double(), labels)
    mass = 1 if kind == "hard" else shape[1]
    tolerance = 32 * torch.finfo(dtype).eps
    for own, exact in zip(actual, expected, strict=True):
        assert own.dtype == dtype
        torch.testing.assert_close(
            own.cpu().double(), exact, rtol=tolerance, atol=tolerance * mass, equal_nan=shape[0] == 0
        )


@needs_kernels
@pytest.mark.parametrize("number", [-1, 10, 2**40])
def test_a_class_that_does_not_exist_makes_its_row_nan(number: int) -> None:
    logits, tangent, labels = arguments((20, 10), "hard", torch.float32)
    labels[7] = number
    assert ops.softmax_xent(logits, labels).isnan()
    assert all(value.isnan() for value in ops.softmax_xent_jvp(logits, tangent, labels))
    grad_logits, _ = ops.softmax_xent_backward(torch.ones((), device="cuda"), logits, labels)
    for gradient in (grad_logits, *ops.softmax_xent_backward_jvp(logits, tangent, labels)[:2]):
        assert gradient[7].isnan().all()
        assert gradient[[6, 8]].isfinite().all()


@needs_kernels
@pytest.mark.parametrize("column", [0, 31, 32, 40])
def test_what_is_not_finite_reaches_every_lane_of_its_row(column: int) -> None:
    logits, tangent, rows = arguments((20, 41), "rows", torch.float64)
    logits[7, column] = float("nan")
    for actual in results(ops, logits, tangent, rows):
        if actual.dim() == 2:
            assert actual[7].isnan().all()
            assert actual[[6, 8]].isfinite().all()
        else:
            assert actual.isnan()
    logits[7, column] = -float("inf")
    for own, exact in zip(results(ops, logits, tangent, rows), results(reference, logits, tangent, rows), strict=True):
        torch.testing.assert_close(own, exact, equal_nan=True)


@needs_kernels
@pytest.mark.slow
def test_more_elements_than_32_bits_count() -> None:
    rows, columns = 2**25 + 1, 64
    if torch.cuda.mem_get_info()[0] < 3 * 4 * rows * columns:
        pytest.skip("the GPU has too little free memory for 2**31 + 64 elements")
    logits = torch.zeros(rows, columns, device="cuda")
    logits[-1, -1] = float("nan")
    labels = torch.zeros(rows, dtype=torch.int64, device="cuda")
    grad_logits, _ = ops.softmax_xent_backward(torch.ones((), device="cuda"), logits, labels)
    assert grad_logits[-1].isnan().all()
    torch.testing.assert_close(grad_logits[-2, 0] * rows, torch.tensor(1 / 64 - 1, device="cuda"))
    logits[-1, -1] = 0.0
    torch.testing.assert_close(ops.softmax_xent(logits, labels), torch.tensor(64.0, device="cuda").log())


@needs_kernels
@pytest.mark.parametrize("kind", LABELS)
def test_same_bits_on_every_run(kind: str) -> None:
    inputs = arguments((10_007, 37), kind, torch.float32)
    first = results(ops, *inputs)
    for _ in range(20):
        assert all(torch.equal(*pair) for pair in zip(results(ops, *inputs), first, strict=True))


@needs_kernels
def test_runs_on_the_current_stream() -> None:
    logits, tangent, rows = arguments((1009, 37), "rows", torch.float64)
    expected = results(reference, logits, tangent, rows)
    stream = torch.cuda.Stream()
    stream.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(stream):
        torch.cuda._sleep(50_000_000)  # a kernel on any other stream would overtake this and read what is written next
        logits = logits.clone()
        actual = results(ops, logits, tangent, rows)
    torch.cuda.current_stream().wait_stream(stream)
    torch.testing.assert_close(actual, expected)


@needs_kernels
@pytest.mark.parametrize("kind", LABELS)
def test_is_captured_in_a_graph_and_replayed_on_new_values(kind: str) -> None:
    inputs = arguments((1009, 10), kind, torch.float64)
    results(ops, *inputs)
    torch.cuda.synchronize()
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        captured = results(ops, *inputs)
    inputs[0].mul_(-2)
    inputs[2].copy_(inputs[2].flip(0))
    graph.replay()
    torch.testing.assert_close(captured, results(reference, *inputs))


@needs_kernels
def test_runs_on_the_device_of_its_arguments() -> None:
    if torch.cuda.device_count() < 2:
        pytest.skip("needs two GPUs")
    inputs = [value.to("cuda:1") for value in arguments((103, 10), "rows", torch.float64)]
    actual = results(ops, *inputs)
    assert all(value.device == inputs[0].device for value in actual)
    torch.testing.assert_close(actual, results(reference, *inputs))


@needs_kernels
@pytest.mark.parametrize("kind", LABELS)
def test_gradients_and_opcheck(kind: str) -> None:
    logits, tangent, labels = arguments((3, 5), kind, torch.float64)
    grad_loss = logits.new_ones(())
    for op, inputs in (
        (torch.ops.pydistill.softmax_xent, (logits, labels)),
        (torch.ops.pydistill.softmax_xent_backward, (grad_loss, logits, labels, kind == "rows")),
        (torch.ops.pydistill.softmax_xent_jvp, (logits, tangent, labels)),
        (torch.ops.pydistill.softmax_xent_backward_jvp, (logits, tangent, labels)),
    ):
        assert set(torch.library.opcheck(op.default, inputs).values()) == {"SUCCESS"}
    labels.requires_grad_(kind == "rows")
    assert torch.autograd.gradcheck(ops.softmax_xent, (logits.requires_grad_(), labels))


def test_devices_must_agree() -> None:
    logits, tangent, labels = arguments((5, 3), "hard", torch.float32)
    with pytest.raises(InputError, match="labels"):
        ops.softmax_xent(logits, labels.cpu())
    with pytest.raises(InputError, match="logits_tangent"):
        ops.softmax_xent_backward_jvp(logits, tangent.cpu(), labels)


@pytest.mark.parametrize("kind", LABELS)
def test_without_kernels_the_reference_runs(kind: str) -> None:
    inputs = arguments((103, 7), kind, torch.float64)
    torch.testing.assert_close(results(ops, *inputs), results(reference, *inputs))
