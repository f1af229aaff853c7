"""What of backend `fused` only a GPU shows; its engine with ATen's convolutions is proved on the CPU."""

from __future__ import annotations

import copy
from typing import Any

import pytest
import torch

from pydistill.build import build_config
from pydistill.data.dsa import DsaSettings
from pydistill.matching import Batches, match
from tests.matching.problems import Case, assert_same, make_case

pytestmark = [
    pytest.mark.cuda,
    pytest.mark.skipif(not torch.cuda.is_available(), reason="no NVIDIA GPU is visible"),
    pytest.mark.skipif(not build_config()["cuda"], reason="the extension has no CUDA kernels"),
]


def on_gpu(case: Case) -> Case:
    moved = copy.copy(case)
    for name in ("start", "target", "images", "labels", "lr", "index"):
        setattr(moved, name, getattr(case, name).cuda())
    moved.model = copy.deepcopy(case.model).cuda()
    if case.draws is not None:
        moved.draws = [draw.to(torch.device("cuda")) for draw in case.draws]
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
def test_agrees_with_the_whole_graph_on_the_gpu_and_on_the_cpu(settings: dict[str, Any]) -> None:
    case = make_case(**settings)
    found = on_gpu(case).run("fused")
    assert_same(found, on_gpu(case).run("autograd"), 1e-9)
    on_cpu = case.run("autograd")
    moved = (found[0], {name: each.cpu() for name, each in found[1].items()})
    assert moved[0].step == on_cpu[0].step
    for name, expected in on_cpu[1].items():
        torch.testing.assert_close(moved[1][name], expected, rtol=1e-8, atol=1e-10)


def test_both_sweeps_wait_for_nothing_but_the_choice_of_step() -> None:
    case = on_gpu(make_case("convnet3-w33", size=8))
    case.run("fused")  # libraries load, memory is taken
    images = case.images.clone().requires_grad_()
    lr = case.lr.clone().requires_grad_()
    torch.cuda.synchronize()
    torch.cuda.set_sync_debug_mode("error")
    try:
        outcome = match(
            case.model, case.start, case.target, Batches(images, case.labels, case.index), lr, backend="fused",
            selection="last",
        )  # fmt: skip
        outcome.loss.backward()
    finally:
        torch.cuda.set_sync_debug_mode("default")
    assert torch.isfinite(images.grad).all()


def test_runs_on_the_current_stream() -> None:
    case = on_gpu(make_case("convnet2-w4"))
    expected = case.run("fused")
    stream = torch.cuda.Stream()
    stream.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(stream):
        torch.cuda._sleep(50_000_000)  # what is queued elsewhere would overtake this
        case.start = case.start + 0
        found = case.run("fused")
    stream.synchronize()
    assert_same(found, expected, 1e-9)


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
