"""GPU proofs of backend `fused`; its engine with ATen's convolutions is proved on the CPU."""

from __future__ import annotations

import copy
import gc
import logging
from collections.abc import Iterator
from typing import Any

import pytest
import torch
from torch import Tensor

from pydistill.data.dsa import DsaSettings
from pydistill.engine.student import kept_programs, release_students
from pydistill.matching import Batches, match, match_many
from pydistill.matching.backends import program
from pydistill.ops.build_info import build_config
from tests.matching.problems import Case, assert_same, make_case, same_bits

pytestmark = [
    pytest.mark.cuda,
    pytest.mark.skipif(not torch.cuda.is_available(), reason="no NVIDIA GPU is visible"),
    pytest.mark.skipif(not build_config()["cuda"], reason="the extension has no CUDA kernels"),
]


@pytest.fixture(autouse=True)
def _nothing_kept() -> Iterator[None]:
    release_students()
    program._told.clear()
    yield
    release_students()


@pytest.fixture
def always_the_same_bits() -> Iterator[None]:
    """cuDNN's own algorithms may add in another order on each run."""
    before = torch.backends.cudnn.deterministic
    torch.backends.cudnn.deterministic = True
    yield
    torch.backends.cudnn.deterministic = before


def counts() -> tuple[int, int, int]:
    """Return how many steps of the cached program ran directly, were recorded and were replayed."""
    (program,) = kept_programs._items.values()
    numbers: tuple[int, int, int] = program.engine.counts()
    return numbers


def on_gpu(case: Case) -> Case:
    moved = copy.copy(case)
    for name in ("start", "target", "images", "labels", "lr", "index"):
        setattr(moved, name, getattr(case, name).cuda())
    moved.model = copy.deepcopy(case.model).cuda()
    if case.draws is not None:
        moved.draws = [draw.to(torch.device("cuda")) for draw in case.draws]
    moved.options = {name: value.cuda() if isinstance(value, Tensor) else value for name, value in case.options.items()}
    return moved


@pytest.mark.parametrize(
    "settings",
    [
        {"network": "convnet3-w33", "size": 9},
        {"network": "convnet2-w4", "labels": "soft", "selection": "nearest"},
        {"network": "convnet2-w4", "labels": "logits", "gradient": "truncated"},
        {"network": "mlp", "per_step_lr": True},
        {"network": "convnet2-w4", "dsa": DsaSettings()},
    ],
    ids=str,
)
@pytest.mark.parametrize("weighted", [False, True])
def test_agrees_with_the_whole_graph_on_the_gpu_and_on_the_cpu(settings: dict[str, Any], weighted: bool) -> None:
    case = make_case(**settings)
    if weighted:
        case.options["weights"] = torch.linspace(0, 1, len(case.start), dtype=torch.float64)
    actual = on_gpu(case).run("fused")
    assert_same(actual, on_gpu(case).run("autograd"), 1e-9)
    on_cpu = case.run("autograd")
    moved = (actual[0], {name: value.cpu() for name, value in actual[1].items()})
    assert moved[0].step == on_cpu[0].step
    for name, expected in on_cpu[1].items():
        torch.testing.assert_close(moved[1][name], expected, rtol=1e-8, atol=1e-10)


@pytest.mark.parametrize("dsa", [None, DsaSettings()], ids=["plain", "dsa"])
def test_both_sweeps_wait_for_nothing_but_the_choice_of_step(dsa: DsaSettings | None) -> None:
    case = on_gpu(make_case("convnet3-w33", size=8))
    images = case.images.clone().requires_grad_()
    lr = case.lr.clone().requires_grad_()

    def run() -> None:
        drawn = Batches.draw(
            images, case.labels, steps=3, batch_size=4, generator=torch.Generator().manual_seed(1), dsa=dsa
        )
        match(case.model, case.start, case.target, drawn, lr, backend="fused").loss.backward()

    for _ in range(3):  # libraries load, memory is taken, steps are recorded
        run()
    torch.cuda.synchronize()
    torch.cuda.set_sync_debug_mode("error")
    try:
        run()
    finally:
        torch.cuda.set_sync_debug_mode("default")
    assert torch.isfinite(images.grad).all()
    direct, recorded, replayed = counts()
    assert recorded > 0
    assert replayed > direct


@pytest.mark.usefixtures("always_the_same_bits")
@pytest.mark.parametrize(
    "settings",
    [
        {"network": "convnet3-w33", "size": 9, "dsa": DsaSettings(mode="M")},
        {"network": "convnet2-w4", "labels": "soft", "selection": "nearest", "dsa": DsaSettings()},
        {"network": "mlp", "per_step_lr": True},
    ],
    ids=str,
)
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_replayed_graphs_give_the_bits_of_direct_launches(
    settings: dict[str, Any], dtype: torch.dtype, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    case = on_gpu(make_case(**({"steps": 5} | settings)).to(dtype))
    other = copy.copy(case)
    other.images, other.start = case.images.flip(0) * 2, case.start + 0.1
    with monkeypatch.context() as patched:
        patched.setenv("PYDISTILL_CUDA_GRAPHS", "0")
        expected = [one.run("fused") for one in (case, other, case)]
        assert counts()[1:] == (0, 0)
    assert caplog.messages == [
        "student steps on cuda:0 run kernel by kernel, not as CUDA graphs: PYDISTILL_CUDA_GRAPHS=0"
    ]
    release_students()
    assert all(same_bits(one.run("fused"), before) for one, before in zip((case, other, case), expected, strict=True))
    direct, recorded, replayed = counts()
    assert 0 < direct < 6
    assert recorded >= 2
    assert direct + replayed == sum(5 + outcome.step for outcome, _ in expected)


def test_switches_of_the_libraries_are_followed_after_recording() -> None:
    """A graph keeps to the precision it was recorded in, so another one has another program."""
    case = on_gpu(make_case("convnet3-w33", size=8, steps=4).to(torch.float32))
    convolutions = torch.backends.cudnn.conv
    before = convolutions.fp32_precision
    actual = []
    try:
        for precision in ("ieee", "tf32", "ieee"):
            convolutions.fp32_precision = precision
            actual.append(case.run("fused")[1]["images"])
    finally:
        convolutions.fp32_precision = before
    assert len(kept_programs) == 2
    torch.testing.assert_close(actual[2], actual[0], rtol=1e-4, atol=1e-6)


def test_inside_a_graph_of_the_caller_s_the_steps_become_a_part_of_it(caplog: pytest.LogCaptureFixture) -> None:
    case = on_gpu(make_case("convnet2-w4", steps=4))
    images = case.images.clone().requires_grad_()
    lr = case.lr.clone()

    def run() -> tuple[Tensor, Tensor]:
        loss = match(
            case.model, case.start, case.target, Batches(images, case.labels, case.index), lr, backend="fused"
        ).loss
        return loss.detach(), torch.autograd.grad(loss, images)[0]

    for _ in range(3):
        run()
    torch.cuda.synchronize()
    graph = torch.cuda.CUDAGraph()
    with caplog.at_level(logging.WARNING, logger="pydistill"), torch.cuda.graph(graph):
        loss, gradient = run()
    graph.replay()
    expected = run()
    torch.testing.assert_close(loss, expected[0])
    torch.testing.assert_close(gradient, expected[1])
    said = [record.message for record in caplog.records]
    assert said == [
        "student steps on cuda:0 run kernel by kernel, not as CUDA graphs: the current stream is being recorded already"
    ]


def test_inside_a_pool_of_the_caller_s_nothing_is_recorded(caplog: pytest.LogCaptureFixture) -> None:
    """Its gradients are asked for on this thread: in autograd's own, memory would not come from the pool."""
    case = on_gpu(make_case("convnet2-w4", steps=4))
    expected = case.run("fused")
    release_students()
    pool = torch.cuda.MemPool()
    with caplog.at_level(logging.WARNING, logger="pydistill"), torch.cuda.use_mem_pool(pool):
        with torch.no_grad():
            batches = Batches(case.images, case.labels, case.index)
            for _ in range(2):
                actual = match(case.model, case.start, case.target, batches, case.lr, backend="fused")
        assert counts()[1:] == (0, 0)
    torch.testing.assert_close(actual.distances, expected[0].distances)
    said = [record.message for record in caplog.records]
    assert len(said) == 1
    assert "use_mem_pool" in said[0]


def test_released_programs_give_their_memory_back() -> None:
    def reserved() -> int:
        gc.collect()
        torch.cuda.synchronize()
        torch._C._cuda_clearCublasWorkspaces()
        torch.cuda.empty_cache()
        return torch.cuda.memory_reserved()

    small = on_gpu(make_case("convnet2-w4", steps=3))
    small.run("fused")  # what the libraries keep
    release_students()
    before = reserved()
    case = on_gpu(make_case("convnet3-w33", steps=6, size=32, count=64, batch=64))
    for _ in range(3):
        case.run("fused")
    assert counts()[2] > 0
    assert reserved() > before + (8 << 20)
    release_students()
    del case
    assert reserved() <= before + (4 << 20)


@pytest.mark.usefixtures("always_the_same_bits")
def test_matches_side_by_side_are_those_one_after_the_other() -> None:
    """More than there are streams, several times over; each differs from the others."""
    cases = [
        on_gpu(make_case("convnet3-w33", size=9, steps=6, dsa=DsaSettings(), selection="nearest")) for _ in range(6)
    ]
    for number, case in enumerate(cases):
        case.start = case.start + 0.02 * number
    expected = [case.run("fused", wanted=["images"]) for case in cases]
    for _ in range(4):
        images = cases[0].images.clone().requires_grad_()
        actual = match_many(
            cases[0].model,
            [case.start for case in cases],
            [case.target for case in cases],
            [Batches(images, case.labels, case.index, case.draws) for case in cases],
            cases[0].lr,
            selection="nearest",
            backend="fused",
        )
        torch.stack([outcome.loss for outcome in actual]).sum().backward()
        for one, (other, _) in zip(actual, expected, strict=True):
            assert one.step == other.step
            assert torch.equal(one.loss, other.loss)
            assert torch.equal(one.distances, other.distances)
        total = torch.stack([gradients["images"] for _, gradients in expected]).sum(0)
        torch.testing.assert_close(images.grad, total, rtol=1e-12, atol=1e-14)


def test_runs_on_the_current_stream() -> None:
    case = on_gpu(make_case("convnet2-w4"))
    expected = case.run("fused")
    stream = torch.cuda.Stream()
    stream.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(stream):
        torch.cuda._sleep(50_000_000)  # what is queued elsewhere would overtake this
        case.start = case.start + 0
        actual = case.run("fused")
    stream.synchronize()
    assert_same(actual, expected, 1e-9)


def test_memory_does_not_grow_with_the_steps_beyond_the_vectors() -> None:
    peaks = {}
    for steps in (2, 5, 20):
        case = on_gpu(make_case("convnet3-w33", steps=steps, size=32, count=16, batch=16))
        case.run("fused")
        torch.cuda.synchronize()
        before = torch.cuda.memory_allocated()
        torch.cuda.reset_peak_memory_stats()
        case.run("fused")
        vectors = (steps + 1) * case.start.numel() * case.start.element_size()
        peaks[steps] = torch.cuda.max_memory_allocated() - before - vectors
    assert peaks[20] <= 1.05 * peaks[5]


def test_tensors_on_another_gpu_than_the_current_one() -> None:
    if torch.cuda.device_count() < 2:
        pytest.skip("needs two GPUs")
    case = make_case("convnet2-w4")
    for name in ("start", "target", "images", "labels", "lr", "index"):
        setattr(case, name, getattr(case, name).to("cuda:1"))
    case.model = case.model.to("cuda:1")
    assert_same(case.run("fused"), case.run("autograd"), 1e-9)
