"""Training with captured steps; the stand-in plays the GPU."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import nn

from pydistill.data import DsaSettings
from pydistill.engine import cuda_graph as graphs
from pydistill.engine.cuda_graph import WARM_CALLS, CudaGraphStep
from pydistill.nn import flatten
from pydistill.training import epoch as steps
from pydistill.training import train as training
from pydistill.training.gsam import SharpnessSettings
from pydistill.training.train import TrainingSettings, train
from tests.engine.captured import COURSE_BOUND, GPU, FakeGraphs, course_error, fresh, with_hook
from tests.helpers.blobs import blobs


@pytest.fixture
def training_gpu(gpu: FakeGraphs, monkeypatch: pytest.MonkeyPatch) -> FakeGraphs:
    """The stand-in, on which the training loop captures its steps and replays them in the same memory."""
    init = CudaGraphStep.__init__
    monkeypatch.setattr(training, "_capturable", lambda parameters: True)
    monkeypatch.setattr(
        CudaGraphStep, "__init__", lambda step, work, device, *, capture: init(step, work, GPU, capture=capture)
    )
    return gpu


def trained(
    name: str,
    epochs: int = 40,
    on_epoch: Any = None,
    model: nn.Module | None = None,
    sharpness: SharpnessSettings | None = None,
) -> torch.Tensor:
    data, model = blobs(), model or fresh(name)
    settings = TrainingSettings(epochs, 20, 0.05, 0.9, schedule="cosine", dsa=DsaSettings(), sharpness=sharpness)
    generator = torch.Generator().manual_seed(3)
    train(model, data.train_pictures, data.train_labels, settings, generator=generator, on_epoch=on_epoch)
    return flatten(model)


@pytest.mark.parametrize("sharpness", [None, SharpnessSettings()], ids=["sgd", "gsam"])
@pytest.mark.parametrize("name", ["convnet2-w4", "convnet2-w4-leaky", "resnet18-w2-bn"])
def test_one_capture_for_each_size_of_batch(
    name: str, sharpness: SharpnessSettings | None, training_gpu: FakeGraphs, monkeypatch: pytest.MonkeyPatch
) -> None:
    """In 31 epochs: 30 batches of a size are worth a capture, and tables are drawn for 20 epochs together."""
    points = trained(name, 31, sharpness=sharpness)
    assert (training_gpu.done.count("warm"), training_gpu.done.count("capture")) == (2 * WARM_CALLS, 2)
    assert training_gpu.done.count("replay") == 3 * 31 - 2 * WARM_CALLS
    monkeypatch.setenv(graphs.SWITCH, "0")
    assert torch.equal(trained(name, 31, sharpness=sharpness), points)
    assert training_gpu.done.count("capture") == 2


def test_few_steps_are_not_captured(training_gpu: FakeGraphs) -> None:
    trained("convnet2-w4", epochs=14)  # 28 steps of 20 images, 14 of 8
    assert training_gpu.done == []
    trained("convnet2-w4", epochs=16)
    assert training_gpu.done.count("capture") == 1


def test_what_is_not_plain_is_not_captured(training_gpu: FakeGraphs) -> None:
    trained("", model=nn.Sequential(fresh(), nn.Dropout(0.1)))
    assert training_gpu.done == []


@pytest.mark.parametrize(("change", "captures"), [("memory", 4), ("mode", 4), ("hook", 2), ("values", 2)])
def test_a_callback_that_changes_the_network_is_noticed(change: str, captures: int, training_gpu: FakeGraphs) -> None:
    model = fresh("convnet2-w4-leaky")
    seen: list[int] = []

    def on_epoch(epoch: int, *_: Any) -> None:
        if epoch != 20:
            return
        seen.append(training_gpu.done.count("capture"))
        parameter = next(model.parameters())
        if change == "memory":
            parameter.data = parameter.data.clone()
        elif change == "mode":
            model.eval()
        elif change == "hook":
            with_hook(model)
        else:
            with torch.no_grad():
                parameter *= 0.9

    trained("", on_epoch=on_epoch, model=model)
    assert seen == [2]
    assert training_gpu.done.count("capture") == captures
    if change == "hook":  # which a replay would not call
        assert training_gpu.done.count("replay") == 3 * 20 - 2 * WARM_CALLS


@pytest.mark.parametrize("part", ["index", "augmentation"])
def test_a_step_on_another_step_s_row_is_beyond_the_bound(part: str, monkeypatch: pytest.MonkeyPatch) -> None:
    dsa = None if part == "index" else DsaSettings()

    def trained_on_cpu() -> torch.Tensor:
        data, model = blobs(), fresh()
        settings = TrainingSettings(40, 20, 0.01, 0.5, dsa=dsa)
        train(model, data.train_pictures, data.train_labels, settings, generator=torch.Generator().manual_seed(3))
        return flatten(model)

    expected = trained_on_cpu()
    load = steps.StepRunner.load

    def shifted(self: steps.StepRunner, drawn: steps.EpochDraws) -> None:
        load(self, drawn)
        for table in (self._index,) if part == "index" else self._augmentation or ():
            table.copy_(table.roll(1, 0))

    monkeypatch.setattr(steps.StepRunner, "load", shifted)
    assert course_error(trained_on_cpu(), expected) > 10 * COURSE_BOUND
