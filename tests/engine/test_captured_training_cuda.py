"""GPU proofs: training from captured steps is training from direct ones."""

from __future__ import annotations

import logging
from typing import Any

import pytest
import torch
from torch import nn

from pydistill.data import DsaSettings, from_arrays
from pydistill.engine import cuda_graph as graphs
from pydistill.nn import flatten
from pydistill.training import epoch as steps
from pydistill.training.gsam import SharpnessSettings
from pydistill.training.train import TrainingSettings, accuracy, epochs_of, train
from tests.engine.captured import COURSE_BOUND, course_error, fresh
from tests.helpers.blobs import blobs

needs_gpu = pytest.mark.skipif(not torch.cuda.is_available(), reason="needs an NVIDIA GPU")


def trained(name: str, monkeypatch: pytest.MonkeyPatch, captured: bool, **settings: Any) -> tuple[Any, list[Any]]:
    """On the GPU, from captured steps or not: the parameters after the last epoch, and the reports."""
    monkeypatch.setenv(graphs.SWITCH, "1" if captured else "0")
    data, model, seen = blobs().to("cuda"), fresh(name).cuda(), []
    recipe = TrainingSettings(**({"epochs": 40, "batch_size": 20, "lr": 0.01, "momentum": 0.5} | settings))
    train(
        model,
        data.train_pictures,
        data.train_labels,
        recipe,
        generator=torch.Generator().manual_seed(3),
        on_epoch=lambda *report: seen.append(report),
    )
    return flatten(model).cpu(), seen


@pytest.mark.cuda
@needs_gpu
@pytest.mark.parametrize("dsa", [None, DsaSettings(), DsaSettings(mode="M")], ids=["plain", "S", "M"])
@pytest.mark.parametrize("name", ["convnet2-w4", "convnet2-w4-leaky", "alexnet-w4", "resnet18-w2-bn"])
def test_replayed_steps_train_as_direct_ones(name: str, dsa: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.backends.cudnn, "deterministic", True)
    captures: list[Any] = []
    capture = graphs._captured

    def counted(*arguments: Any) -> Any:
        captures.append(arguments)
        return capture(*arguments)

    monkeypatch.setattr(graphs, "_captured", counted)
    for recipe in ({"schedule": "constant"}, {"schedule": "cosine"}, {"sharpness": SharpnessSettings()}):
        captures.clear()
        actual, reports = trained(name, monkeypatch, True, dsa=dsa, **recipe)
        assert len(captures) == 2  # batches of 20, and of the 8 that are left
        expected, expected_reports = trained(name, monkeypatch, False, dsa=dsa, **recipe)
        assert len(captures) == 2
        assert course_error(actual, expected, name) <= COURSE_BOUND
        assert [report[0] for report in reports] == list(range(1, 41))
        losses, expected_losses = ([report[1] for report in run] for run in (reports, expected_reports))
        torch.testing.assert_close(losses, expected_losses, rtol=1e-3, atol=1e-5)


@pytest.mark.cuda
@needs_gpu
def test_bytes_are_trained_on_in_captured_steps(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(graphs.SWITCH, "1")
    generator = torch.Generator().manual_seed(0)
    images = torch.randint(0, 256, (48, 1, 8, 8), dtype=torch.uint8, generator=generator)
    labels = torch.arange(48) % 4
    points = []
    for as_bytes in (True, False):
        data = from_arrays(images, labels, images, labels, as_bytes=as_bytes).to("cuda")
        model = fresh().cuda()
        settings = TrainingSettings(epochs=30, batch_size=20, lr=0.01, dsa=DsaSettings())
        train(model, data.train_pictures, data.train_labels, settings, generator=torch.Generator().manual_seed(1))
        points.append(flatten(model).cpu())
    assert course_error(points[0], points[1], "convnet2-w4") <= COURSE_BOUND


@pytest.mark.cuda
@needs_gpu
@pytest.mark.parametrize("sharpness", [None, SharpnessSettings()], ids=["sgd", "gsam"])
def test_no_step_waits_for_the_gpu(sharpness: SharpnessSettings | None, monkeypatch: pytest.MonkeyPatch) -> None:
    """Epochs 21 to 39, new tables among them: PyTorch's own watch raises at the first thing that waits."""
    monkeypatch.setenv(graphs.SWITCH, "1")
    data, model = blobs().to("cuda"), fresh().cuda()
    settings = TrainingSettings(epochs=60, batch_size=20, lr=0.05, dsa=DsaSettings(), sharpness=sharpness)
    generator = torch.Generator().manual_seed(1)
    course = epochs_of(model, data.train_pictures, data.train_labels, settings, generator=generator)
    for _ in range(20):
        next(course)
    torch.cuda.set_sync_debug_mode("error")
    try:
        for _ in range(19):
            next(course)
    finally:
        torch.cuda.set_sync_debug_mode("default")
    assert sum(1 for _ in course) == 21
    assert accuracy(model, data.test_pictures, data.test_labels) > 0.5


@pytest.mark.cuda
@needs_gpu
def test_a_step_that_waits_for_the_gpu_is_not_captured_and_trains_all_the_same(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    graphs._warn_once.cache_clear()
    monkeypatch.setattr(torch.backends.cudnn, "deterministic", True)
    expected, _ = trained("convnet2-w4", monkeypatch, False)
    count_correct = steps.count_correct

    def waiting(logits: torch.Tensor, target: torch.Tensor) -> torch.Tensor:
        return torch.full((), float(count_correct(logits, target)), device=logits.device)

    monkeypatch.setattr(steps, "count_correct", waiting)
    stream = torch.cuda.current_stream()
    with caplog.at_level(logging.WARNING, "pydistill"):
        actual, reports = trained("convnet2-w4", monkeypatch, True)
    assert "could not be captured as a CUDA graph and runs directly" in caplog.text
    assert torch.cuda.current_stream() == stream
    assert len(reports) == 40
    assert course_error(actual, expected) <= COURSE_BOUND


@pytest.mark.cuda
@needs_gpu
def test_a_callback_that_puts_other_memory_in_place_is_noticed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(graphs.SWITCH, "1")
    points = []
    for replaced in (True, False):
        data, model = blobs().to("cuda"), fresh("convnet2-w4-leaky").cuda()

        def on_epoch(epoch: int, *_: Any, model: nn.Module = model, replaced: bool = replaced) -> None:
            for parameter in model.parameters():
                if replaced:
                    parameter.data = parameter.data.clone()

        train(
            model,
            data.train_pictures,
            data.train_labels,
            TrainingSettings(epochs=30, batch_size=20, lr=0.01),
            generator=torch.Generator().manual_seed(1),
            on_epoch=on_epoch,
        )
        points.append(flatten(model).cpu())
    assert course_error(points[0], points[1], "convnet2-w4-leaky") <= COURSE_BOUND
