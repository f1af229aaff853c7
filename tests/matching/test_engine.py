"""The engine's student by itself against the whole graph of one step: any network, slices, convolutions, threads."""

from __future__ import annotations

import ctypes
import os
import platform
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st
from torch import Tensor

from pydistill.nn import MLP, ConvNet, layout_of
from tests.matching.architectures import networks
from tests.matching.engine import GradientBackend, Network, by_autograd, by_engine, point_of, student_of, worst_error
from tests.matching.problems import needs_engine

pytestmark = needs_engine

BOUND = 1e-10
SLICE_BYTES = [0, 1, 1 << 12, 1 << 14, 1 << 16, 1 << 18]  # 0: as the engine chooses; 1: one image at a time
CONVOLUTIONS = ["builtin", "aten"]  # the second is what a GPU runs
LIBTORCH_CPU = Path(torch.__file__).parent / "lib" / "libtorch_cpu.so"


def convnet(
    *, image_size: int | tuple[int, int] = 8, channels: int = 2, classes: int = 3, **changes: object
) -> ConvNet:
    with torch.random.fork_rng():
        torch.manual_seed(0)
        return ConvNet(channels, classes, image_size, **({"width": 5, "depth": 2} | changes)).double()


def mlp() -> MLP:
    with torch.random.fork_rng():
        torch.manual_seed(0)
        return MLP(2, 3, (5, 7), width=6).double()


def same_bits(one: GradientBackend, other: GradientBackend) -> bool:
    return all(torch.equal(value, vars(other)[name]) for name, value in vars(one).items())


def without_linear_weights(model: Network, passes: GradientBackend) -> GradientBackend:
    """Return the results with zeros for the gradients of linear layers' weights."""
    layout = layout_of(model)

    def cleared(flat: Tensor) -> Tensor:
        pieces = layout.split(flat.clone())
        return layout.join([piece * (piece.ndim != 2) for piece in pieces.values()])

    return replace(passes, gradient=cleared(passes.gradient), product=cleared(passes.product))


@pytest.fixture
def threads() -> Iterator[None]:
    """Puts the number of threads back."""
    before = torch.get_num_threads()
    yield
    torch.set_num_threads(before)


ANY_CASE = {
    "model": networks(),
    "batch": st.integers(1, 9),
    "labels": st.sampled_from(["hard", "soft"]),
    "slice_bytes": st.sampled_from(SLICE_BYTES),
    "seed": st.integers(0, 1000),
}


@pytest.mark.parametrize("convolutions", CONVOLUTIONS)
@settings(derandomize=True, deadline=None, max_examples=300, suppress_health_check=list(HealthCheck))
@example(model=convnet(channels=20, classes=1), batch=3, labels="soft", slice_bytes=1, seed=0)
@example(model=convnet(image_size=(9, 12), width=33, depth=3), batch=9, labels="hard", slice_bytes=1 << 18, seed=0)
@given(**ANY_CASE)
def test_any_network(model: Network, batch: int, labels: str, slice_bytes: int, seed: int, convolutions: str) -> None:
    at = point_of(model, batch, labels=labels, seed=seed)
    student = student_of(model, batch, convolutions=convolutions, slice_bytes=slice_bytes)
    assert student.parameters() == at.theta.numel()
    assert worst_error(by_engine(student, at), by_autograd(model, at)) <= BOUND


@pytest.mark.slow
@pytest.mark.parametrize("convolutions", CONVOLUTIONS)
@settings(derandomize=True, deadline=None, max_examples=800, suppress_health_check=list(HealthCheck))
@given(**ANY_CASE)
def test_many_networks(model: Network, batch: int, labels: str, slice_bytes: int, seed: int, convolutions: str) -> None:
    test_any_network.hypothesis.inner_test(model, batch, labels, slice_bytes, seed, convolutions)


@pytest.mark.parametrize("convolutions", CONVOLUTIONS)
@pytest.mark.parametrize("pooling", ["average", "max", "none"])
@pytest.mark.parametrize("norm", ["instance", "none"])
def test_slices_of_every_size(norm: str, pooling: str, convolutions: str) -> None:
    """Seven images in slices of 1, 2, … 7, with a last one that is not full."""
    model = convnet(image_size=(9, 11), norm=norm, pooling=pooling)
    at = point_of(model, 7, labels="soft")
    expected = by_autograd(model, at)
    seen = []
    for slice_bytes in range(1, 600_000, 9_000):
        actual = by_engine(student_of(model, 7, convolutions=convolutions, slice_bytes=slice_bytes), at)
        assert worst_error(actual, expected) <= BOUND
        seen.append(actual.gradient)
    assert len({tuple(gradient.tolist()) for gradient in seen}) > 1, "all slices are alike, so nothing is compared"


@pytest.mark.parametrize("convolutions", CONVOLUTIONS)
@pytest.mark.parametrize("model", [convnet(), mlp()], ids=["convnet", "mlp"])
def test_batches_of_several_sizes_in_turn(model: Network, convolutions: str) -> None:
    """A student takes any batch up to its largest, and what it did before leaves no trace."""
    student = student_of(model, 9, convolutions=convolutions, slice_bytes=1 << 14)
    for seed, batch in enumerate([9, 1, 4, 9, 3, 2, 9]):
        at = point_of(model, batch, seed=seed, labels=["hard", "soft"][seed % 2])
        actual = by_engine(student, at)
        assert worst_error(actual, by_autograd(model, at)) <= BOUND
        fresh = student_of(model, 9, convolutions=convolutions, slice_bytes=1 << 14)
        assert same_bits(actual, by_engine(fresh, at))


@pytest.mark.parametrize("convolutions", CONVOLUTIONS)
@pytest.mark.parametrize("model", [convnet(), convnet(norm="none", pooling="max"), mlp()], ids=["in", "none", "mlp"])
def test_numbers_that_are_not_finite_leave_no_trace(model: Network, convolutions: str) -> None:
    student = student_of(model, 5, convolutions=convolutions, slice_bytes=1 << 14)
    at = point_of(model, 5)
    before = by_engine(student, at)
    broken = point_of(model, 5)
    broken.theta.fill_(torch.nan)
    broken.direction.fill_(torch.nan)
    assert by_engine(student, broken).gradient.isnan().any()
    assert same_bits(by_engine(student, at), before)


@pytest.mark.parametrize("convolutions", CONVOLUTIONS)
@pytest.mark.parametrize("model", [convnet(), mlp()], ids=["convnet", "mlp"])
def test_arguments_that_do_not_fit_are_refused_and_leave_no_trace(model: Network, convolutions: str) -> None:
    student = student_of(model, 5, convolutions=convolutions, slice_bytes=1)
    at = point_of(model, 5)
    before = by_engine(student, at)
    with pytest.raises(ValueError, match="labels"):
        student.gradient(at.theta, at.images, at.labels[:2])
    with pytest.raises(ValueError, match="labels"):
        student.adjoint(at.theta, at.direction, at.images, torch.zeros(5, 2).double(), True, True, True)
    with pytest.raises(ValueError, match="a tensor"):
        student.gradient(at.theta, at.images.float(), at.labels)
    with pytest.raises(ValueError, match="parameters"):
        student.adjoint(at.theta, at.direction[1:], at.images, at.labels, True, True, False)
    assert same_bits(by_engine(student, at), before)


@pytest.mark.parametrize("convolutions", CONVOLUTIONS)
def test_classify_gives_the_logits(convolutions: str) -> None:
    model = convnet()
    at = point_of(model, 5)
    student = student_of(model, 5, convolutions=convolutions, slice_bytes=1 << 14)
    assert torch.equal(student.classify(at.theta, at.images), student.gradient(at.theta, at.images, at.labels)[2])


@pytest.mark.parametrize("convolutions", CONVOLUTIONS)
def test_what_is_not_wanted_is_not_computed(convolutions: str) -> None:
    model = convnet()
    at = point_of(model, 4, labels="soft")
    student = student_of(model, 4, convolutions=convolutions)
    everything = by_engine(student, at)
    expected = (everything.inner, everything.product, everything.images, everything.labels)
    for choice in range(8):
        wanted = [bool(choice & bit) for bit in (1, 2, 4)]
        actual = student.adjoint(at.theta, at.direction, at.images, at.labels, *wanted)
        assert torch.equal(actual[0], expected[0])
        for value, full, is_wanted in zip(actual[1:], expected[1:], wanted, strict=True):
            assert torch.equal(value, full) if is_wanted else value is None


@pytest.mark.parametrize("number", [-1, 3, 1 << 40])
def test_a_label_that_is_no_class_makes_its_image_s_share_nan(number: int) -> None:
    """`match` refuses such labels on the CPU; on a GPU, where nobody looks, they must not be read as an address."""
    model = convnet()
    at = point_of(model, 3)
    at.labels[1] = number
    gradient, losses, logits = student_of(model, 3).gradient(at.theta, at.images, at.labels)
    assert losses.isnan().tolist() == [False, True, False]
    assert gradient.isnan().any()
    assert torch.isfinite(logits).all()


@pytest.mark.parametrize(
    ("largest_batch", "batch", "channels", "parameters", "message"),
    [
        (4, 5, 2, 0, "a batch"),
        (4, 0, 2, 0, "a batch"),
        (4, 4, 3, 0, "images"),
        (4, 4, 2, 1, "parameters"),
        (0, 4, 2, 0, "the largest batch"),
    ],
)
def test_message(largest_batch: int, batch: int, channels: int, parameters: int, message: str) -> None:
    model = convnet()
    at = point_of(model, 4)
    images = torch.zeros(batch, channels, 8, 8, dtype=torch.float64)
    with pytest.raises(ValueError, match=message):
        student_of(model, largest_batch).gradient(at.theta[parameters:], images, torch.zeros(batch, dtype=torch.int64))


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize(
    "model",
    [
        convnet(image_size=16, channels=3, classes=10, width=32, depth=3),
        convnet(image_size=(13, 10), channels=3, classes=10, width=37, depth=2, norm="none", pooling="max"),
        mlp(),
    ],
    ids=["convnet", "odd", "mlp"],
)
@pytest.mark.usefixtures("threads")
def test_bits_do_not_depend_on_the_number_of_threads(model: Network, dtype: torch.dtype) -> None:
    """But for the weight gradients of linear layers, which are ATen's: its float32 products differ in their last bits.
    With one number of threads every call gives the same."""
    at = point_of(model, 20, labels="soft").to(dtype)
    torch.set_num_threads(1)
    student = student_of(model, 20, dtype)
    expected = by_engine(student, at)
    assert same_bits(by_engine(student, at), expected)
    for count in (2, 3):
        torch.set_num_threads(count)
        actual = by_engine(student, at)
        assert same_bits(by_engine(student, at), actual)
        assert same_bits(by_engine(student_of(model, 20, dtype), at), actual)
        assert worst_error(actual, expected) <= 10 * torch.finfo(dtype).eps
        assert same_bits(without_linear_weights(model, actual), without_linear_weights(model, expected))


NARROWER = """
import torch
from tests.matching.engine import by_autograd, by_engine, point_of, student_of, worst_error
from tests.matching.test_engine import convnet, mlp
torch.set_num_threads(1)
changes = [{}, {"norm": "none", "pooling": "max"}, {"pooling": "none", "first_padding": 3}]
widths = (1, 7, 24, 40)
models = [convnet(image_size=(9, 13), width=width, channels=3, **change) for change in changes for width in widths]
for model in [*models, mlp()]:
    at = point_of(model, 5, labels="soft")
    print(worst_error(by_engine(student_of(model, 5, slice_bytes=1 << 16), at), by_autograd(model, at)))
"""


@pytest.mark.skipif(platform.machine() != "x86_64", reason="other processors have one instruction set only")
@pytest.mark.parametrize("isa", ["baseline", "avx2"])
def test_narrower_instruction_sets(isa: str) -> None:
    root = Path(__file__).parents[2]
    environment = os.environ | {"PYDISTILL_ISA": isa}
    ran = subprocess.run(
        [sys.executable, "-c", NARROWER], cwd=root, env=environment, capture_output=True, text=True, timeout=300
    )
    if "this processor has baseline at most" in ran.stderr:
        pytest.skip("this processor has no AVX2")
    assert ran.returncode == 0, ran.stderr
    errors = [float(line) for line in ran.stdout.split()]
    assert len(errors) == 13
    assert max(errors) <= BOUND


@pytest.mark.usefixtures("threads")
@pytest.mark.parametrize("batch", [3, 7])
def test_a_batch_of_much_work_takes_two_threads(batch: int) -> None:
    """So much work that two threads share the slices (csrc/engine/student.cpp: kWorthDesks)."""
    model = ConvNet(3, 10, 16, width=128, depth=3)
    student = student_of(model, 7, slice_bytes=1 << 22)
    at = point_of(model, batch, labels="soft")
    torch.set_num_threads(2)
    actual = by_engine(student, at)
    assert worst_error(actual, by_autograd(model, at)) <= 1e-10
    assert same_bits(by_engine(student, at), actual)
    for count in (1, 3):
        torch.set_num_threads(count)
        assert worst_error(by_engine(student, at), actual) <= 1e-13
        assert torch.equal(by_engine(student, at).images, actual.images)


@pytest.mark.parametrize("threads_set", [0, 2, 3])
def test_a_batch_of_little_work_starts_no_second_thread(threads_set: int) -> None:
    """On a busy machine the first thread would wait for the second for many times as long as the work takes.

    A process has as many threads as ever ran together: passes over ten small images leave it with those that it had,
    one over many begins another.
    """
    script = """
import os
import torch
from pydistill.nn import ModelSettings, build, flatten
from pydistill.engine.student import fused_student

def threads():
    return len(os.listdir("/proc/self/task"))

if THREADS_SET:
    torch.set_num_threads(THREADS_SET)
model = build(ModelSettings("convnet", width=32, depth=2), 1, 10, (8, 8), seed=0)
images, labels = torch.randn(400, 1, 8, 8), torch.arange(400) % 10
student, theta = fused_student(model, [10, 1, 8, 8], images), flatten(model)
before = threads()
for _ in range(2):
    student.gradient(theta, images[:10], labels[:10])
    student.classify(theta, images[:10])
    student.adjoint(theta, theta, images[:10], labels[:10], True, True, False)
few, taken = threads(), torch.get_num_threads()
fused_student(model, [400, 1, 8, 8], images).gradient(theta, images, labels)
print(few - before, taken, threads() - before)
"""
    few, taken, many = (int(word) for word in _printed(script.replace("THREADS_SET", str(threads_set))).split())
    if not threads_set and taken == 1:
        pytest.skip("of its own accord PyTorch takes one thread here, as of two threads of one core")
    assert taken == (threads_set or 2)
    assert few == 0
    assert many == taken - 1


@pytest.mark.parametrize("threads_set", [0, 2, 3])
def test_a_batch_of_little_work_leaves_mkl_its_threads(threads_set: int) -> None:
    """MKL, inside PyTorch, has a number of its own as soon as torch.set_num_threads was called."""
    if not (LIBTORCH_CPU.exists() and hasattr(ctypes.CDLL(str(LIBTORCH_CPU)), "MKL_Get_Max_Threads")):
        pytest.skip("this PyTorch has no MKL in its libtorch_cpu.so")
    script = """
import ctypes
import torch
from pydistill.nn import ModelSettings, build
from pydistill.training.train import TrainingSettings, train

if THREADS_SET:
    torch.set_num_threads(THREADS_SET)
threads = ctypes.CDLL(LIBTORCH_CPU).MKL_Get_Max_Threads
before = threads()
model = build(ModelSettings("convnet", width=32, depth=2), 1, 10, (8, 8), seed=0)
images, labels = torch.randn(10, 1, 8, 8), torch.arange(10)
train(model, images, labels, TrainingSettings(epochs=2, batch_size=10), generator=torch.Generator(), engine=True)
print(before, threads())
"""
    filled = script.replace("THREADS_SET", str(threads_set)).replace("LIBTORCH_CPU", repr(str(LIBTORCH_CPU)))
    before, after = (int(word) for word in _printed(filled).split())
    if not threads_set and before == 1:
        pytest.skip("MKL takes one thread of its own accord here")
    assert before == (threads_set or 2)
    assert after == before


def _printed(script: str) -> str:
    """Return what the script prints in a process with two OpenMP threads."""
    environment = os.environ | {"OMP_NUM_THREADS": "2"}
    return subprocess.run(
        [sys.executable, "-c", script], capture_output=True, text=True, env=environment, check=True
    ).stdout
