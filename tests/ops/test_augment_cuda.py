"""GPU proofs of `augment`; csrc/README.md lists them."""

from __future__ import annotations

import pytest
import torch

import pydistill.ops
import pydistill.reference
from pydistill.errors import InputError
from tests.ops.builds import needs_gpu, needs_kernels
from tests.ops.test_augment import OPERATIONS, Problem

pytestmark = [pytest.mark.cuda, needs_gpu]

# Around the warps of a block and its most threads, and 128 x 128, whose scratch is more than
# shared memory holds in float64: csrc/cuda/augment.cuh.
SHAPES = [(2, 1, 1, 1), (3, 3, 5, 6), (2, 3, 16, 16), (2, 5, 23, 25), (2, 3, 128, 128)]


def on(problem: Problem, device: str) -> Problem:
    problem.images, problem.grad = problem.images.to(device), problem.grad.to(device)
    problem.operations, problem.parameters = problem.operations.to(device), problem.parameters.to(device)
    problem.index = None if problem.index is None else problem.index.to(device)
    return problem


def assert_agrees_with_the_cpu(problem: Problem, tolerance: float = 1e-9) -> None:
    expected = problem.run()
    for actual, other in zip(on(problem, "cuda").run(), expected, strict=True):
        assert actual.is_cuda
        torch.testing.assert_close(actual.cpu(), other, rtol=tolerance, atol=tolerance)


@needs_kernels
@pytest.mark.parametrize("operations", [(), *[(value,) for value in OPERATIONS], OPERATIONS], ids="_".join)
def test_indexing_barriers_and_tails(operations: tuple[str, ...]) -> None:
    for shape in SHAPES:
        assert_agrees_with_the_cpu(Problem(operations, shape))
    assert_agrees_with_the_cpu(Problem(operations, dtype=torch.float32), 1e-4)


@needs_kernels
def test_no_images_and_images_without_pixels() -> None:
    problem = on(Problem(("flip",)), "cuda")
    for shape in ((4, 3, 0, 4), (4, 0, 4, 4)):
        images = torch.empty(shape, device="cuda", dtype=torch.float64)
        assert pydistill.ops.augment(images, problem.operations, problem.parameters).shape == shape
    assert_agrees_with_the_cpu(Problem(("flip",), index=[]))


@needs_kernels
@pytest.mark.parametrize("batch", [1, 31, 32, 33, 255, 256, 257, 600])
def test_every_place_of_an_image_is_found(batch: int) -> None:
    index = [(7 * place) % 5 for place in range(batch)]
    assert_agrees_with_the_cpu(Problem(("crop", "flip"), (6, 2, 5, 4), index=index))


@needs_kernels
def test_more_images_than_blocks_with_a_workspace() -> None:
    assert_agrees_with_the_cpu(Problem(("flip", "color", "crop"), (300, 3, 96, 96)))


@needs_kernels
def test_what_does_not_exist_is_not_a_number() -> None:
    problem = on(Problem(("flip",), index=[0, 3, 1]), "cuda")
    assert problem.index is not None
    problem.index[1] = 4
    batch, gradient = problem.run()
    assert batch[1].isnan().all()
    assert batch[[0, 2]].isfinite().all()
    assert gradient.isfinite().all()
    problem = on(Problem(("flip",)), "cuda")
    problem.operations.fill_(6)
    assert all(value.isnan().all() for value in problem.run())
    problem = on(Problem(("flip",)), "cuda")
    problem.operations.fill_(2)  # a cutout, which has four parameters where there is one
    assert all(value.isnan().all() for value in problem.run())


@needs_kernels
def test_same_bits_on_every_run() -> None:
    problem = on(Problem(shape=(20, 3, 33, 35), dtype=torch.float32, index=[*range(20), *range(20), 3, 3]), "cuda")
    first = problem.run()
    for _ in range(10):
        for one, other in zip(problem.run(), first, strict=True):
            assert torch.equal(one, other)


@needs_kernels
@pytest.mark.slow
def test_more_elements_than_32_bits_count() -> None:
    shape = (3, 1, 2**15, 2**15)
    if torch.cuda.mem_get_info()[0] < 2.2 * 4 * 3 * 2**30:
        pytest.skip("the GPU has too little free memory for 3 * 2**30 numbers twice")
    images = torch.zeros(shape, device="cuda")
    images[2, 0, -1, -1] = 3.0
    flip, mirrors = torch.tensor([3], device="cuda"), torch.ones(1, 1, device="cuda")
    batch = pydistill.ops.augment(images, flip, mirrors)
    assert batch[2, 0, -1, 0].item() == 3.0
    assert batch.sum().item() == 3.0


@needs_kernels
def test_runs_on_the_current_stream() -> None:
    problem = on(Problem(index=[2, 0, 2]), "cuda")
    expected = problem.run()
    stream = torch.cuda.Stream()
    stream.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(stream):
        torch.cuda._sleep(50_000_000)  # a kernel on any other stream would overtake this and read what is written next
        problem.images, problem.grad = problem.images.clone(), problem.grad.clone()
        actual = problem.run()
    torch.cuda.current_stream().wait_stream(stream)
    for one, other in zip(actual, expected, strict=True):
        assert torch.equal(one, other)


@needs_kernels
@pytest.mark.parametrize("index", [None, [2, 0, 2, 1]], ids=["all", "index"])
def test_is_captured_in_a_graph_and_replayed_on_new_values(index: list[int] | None) -> None:
    problem = on(Problem(index=index), "cuda")
    problem.run()
    torch.cuda.synchronize()
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        captured = problem.run()
    other = on(Problem(tuple(reversed(OPERATIONS)), index=index, seed=1), "cuda")
    for name in ("images", "grad", "operations", "parameters"):
        getattr(problem, name).copy_(getattr(other, name))
    graph.replay()
    for one, expected in zip(captured, other.run(), strict=True):
        assert torch.equal(one, expected)


@needs_kernels
def test_runs_on_the_device_of_its_arguments() -> None:
    if torch.cuda.device_count() < 2:
        pytest.skip("needs two GPUs")
    expected = Problem().run()
    for actual, other in zip(on(Problem(), "cuda:1").run(), expected, strict=True):
        assert actual.device == torch.device("cuda:1")
        torch.testing.assert_close(actual.cpu(), other, rtol=1e-9, atol=1e-9)


@needs_kernels
@pytest.mark.filterwarnings("ignore:The .grad attribute of a Tensor that is not a leaf:UserWarning")  # opcheck's own
def test_gradients_and_opcheck() -> None:
    problem = on(Problem(shape=(2, 2, 4, 5), index=[1, 0, 1]), "cuda")
    images = problem.images.requires_grad_()
    rest = (problem.operations, problem.parameters, problem.index)
    assert torch.autograd.gradcheck(lambda x: pydistill.ops.augment(x, *rest), (images,))
    assert torch.autograd.gradgradcheck(lambda x: pydistill.ops.augment(x, *rest), (images,))
    checks = torch.library.opcheck(torch.ops.pydistill.augment.default, (images, *rest, False))
    assert set(checks.values()) == {"SUCCESS"}


def test_devices_must_agree() -> None:
    problem = on(Problem(), "cuda")
    with pytest.raises(InputError, match="parameters"):
        pydistill.ops.augment(problem.images, problem.operations, problem.parameters.cpu())


def test_without_kernels_the_reference_runs() -> None:
    problem = on(Problem(), "cuda")
    for actual, expected in zip(problem.run(), problem.run(pydistill.reference), strict=True):
        torch.testing.assert_close(actual, expected, rtol=1e-9, atol=1e-9)
