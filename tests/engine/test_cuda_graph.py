"""Work that a GPU replays: when it is run, captured and replayed, and which networks may be. A stand-in plays the GPU
here; the real one is tested at the end of the file where there is one."""

from __future__ import annotations

import logging
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import nn

from pydistill.data import DsaSettings, from_arrays
from pydistill.engine import cuda_graph as graphs
from pydistill.engine.cuda_graph import WARM_CALLS, CudaGraphStep, is_plain
from pydistill.nn import build, flatten, parse
from pydistill.training import epoch as steps
from pydistill.training import train as training
from pydistill.training.train import TrainingSettings, accuracy, epochs_of, train
from tests.helpers.blobs import blobs

GPU = torch.device("cuda")


class Played:
    """In place of the GPU: notes what is done; a graph does the work when it is replayed."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, fails: bool = False) -> None:
        self.done: list[str] = []
        self.fails = fails
        monkeypatch.delenv(graphs.SWITCH, raising=False)
        monkeypatch.setattr(graphs, "_captured", self.captured)
        monkeypatch.setattr(CudaGraphStep, "_warm", lambda replayer: self.warm(replayer))

    def captured(self, work: Callable[[], None], device: torch.device) -> Any:
        self.done.append("capture")
        if self.fails:
            raise RuntimeError("operation not permitted when stream is capturing\nmore lines")
        played = self

        class Graph:
            def replay(self) -> None:
                played.done.append("replay")
                work()

        return Graph()

    def warm(self, replayer: CudaGraphStep) -> None:
        self.done.append("warm")
        replayer._work()


@pytest.fixture
def played(monkeypatch: pytest.MonkeyPatch) -> Played:
    return Played(monkeypatch)


def test_a_few_direct_calls_then_one_capture_then_replays(played: Played) -> None:
    calls: list[int] = []
    work = CudaGraphStep(lambda: calls.append(1), GPU, capture=True)
    for number in range(1, WARM_CALLS + 4):
        work()
        assert len(calls) == number  # every call does the work once, the capture none
        assert (work._graph is not None) == (number > WARM_CALLS)
    assert played.done == ["warm"] * WARM_CALLS + ["capture"] + ["replay"] * 3


def test_forgetting_captures_anew(played: Played) -> None:
    work = CudaGraphStep(lambda: None, GPU, capture=True)
    for _ in range(WARM_CALLS + 2):
        work()
    work.invalidate(capture=True)
    assert work._graph is None
    for _ in range(WARM_CALLS + 1):
        work()
    once = ["warm"] * WARM_CALLS + ["capture", "replay"]
    assert played.done == [*once, "replay", *once]
    work.invalidate(capture=False)
    for _ in range(WARM_CALLS + 1):
        work()
    assert played.done == [*once, "replay", *once]


def test_where_capturing_fails_it_is_told_once_and_the_work_is_done(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    graphs._warn_once.cache_clear()
    played = Played(monkeypatch, fails=True)
    calls: list[int] = []
    work = CudaGraphStep(lambda: calls.append(1), GPU, capture=True)
    other = CudaGraphStep(lambda: None, GPU, capture=True)
    with caplog.at_level(logging.WARNING, "pydistill"):
        for _ in range(WARM_CALLS + 3):
            work()
        assert played.done == ["warm"] * WARM_CALLS + ["capture"]
        for _ in range(WARM_CALLS + 1):
            other()
    assert len(calls) == WARM_CALLS + 3
    assert [record.getMessage() for record in caplog.records] == [
        "a training step could not be captured as a CUDA graph and runs directly: "
        "operation not permitted when stream is capturing"
    ]


@pytest.mark.parametrize("why", ["not wanted", "environment", "cpu"])
def test_what_is_not_captured_runs_directly(why: str, played: Played, monkeypatch: pytest.MonkeyPatch) -> None:
    if why == "environment":
        monkeypatch.setenv(graphs.SWITCH, "0")
    calls: list[int] = []
    device = torch.device("cpu") if why == "cpu" else GPU
    work = CudaGraphStep(lambda: calls.append(1), device, capture=why != "not wanted")
    for _ in range(WARM_CALLS + 2):
        work()
    assert len(calls) == WARM_CALLS + 2
    assert played.done == []


class TestTraining:
    """The training loop with the stand-in for a GPU: everything is captured, and replayed in the same memory."""

    @pytest.fixture(autouse=True)
    def as_on_a_gpu(self, played: Played, monkeypatch: pytest.MonkeyPatch) -> None:
        sgd, begin = training._sgd, CudaGraphStep.__init__
        monkeypatch.setattr(training, "_sgd", lambda *given: (sgd(*given)[0], True))
        monkeypatch.setattr(
            CudaGraphStep, "__init__", lambda work, body, device, *, capture: begin(work, body, GPU, capture=capture)
        )

    def run(self, name: str, epochs: int = 40, on_epoch: Any = None, model: nn.Module | None = None) -> torch.Tensor:
        data, model = blobs(), model or fresh(name)
        settings = TrainingSettings(epochs, 20, 0.05, 0.9, schedule="cosine", dsa=DsaSettings())
        generator = torch.Generator().manual_seed(3)
        train(model, data.train_pictures, data.train_labels, settings, generator=generator, on_epoch=on_epoch)
        return flatten(model)

    @pytest.mark.parametrize("name", ["convnet2-w4", "convnet2-w4-leaky", "resnet18-w2-bn"])
    def test_one_capture_for_each_size_of_batch(
        self, name: str, played: Played, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        found = self.run(name)
        assert (played.done.count("warm"), played.done.count("capture")) == (2 * WARM_CALLS, 2)
        assert played.done.count("replay") == 3 * 40 - 2 * WARM_CALLS
        monkeypatch.setenv(graphs.SWITCH, "0")
        assert torch.equal(self.run(name), found)
        assert played.done.count("capture") == 2

    def test_few_steps_are_not_captured(self, played: Played) -> None:
        self.run("convnet2-w4", epochs=14)  # 28 steps of 20 images, 14 of 8
        assert played.done == []
        self.run("convnet2-w4", epochs=16)
        assert played.done.count("capture") == 1

    def test_what_is_not_plain_is_not_captured(self, played: Played) -> None:
        self.run("", model=nn.Sequential(fresh(), nn.Dropout(0.1)))
        assert played.done == []

    @pytest.mark.parametrize(
        ("name", "change", "anew"),
        [
            ("convnet2-w4-leaky", "memory", 4),
            ("convnet2-w4-leaky", "mode", 4),
            ("convnet2-w4-leaky", "hook", 2),
            ("convnet2-w4-leaky", "values", 2),
        ],
    )
    def test_a_callback_that_changes_the_network_is_noticed(
        self, name: str, change: str, anew: int, played: Played
    ) -> None:
        model = fresh(name)
        seen: list[int] = []

        def on_epoch(epoch: int, *_: Any) -> None:
            if epoch != 20:
                return
            seen.append(played.done.count("capture"))
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

        self.run(name, on_epoch=on_epoch, model=model)
        assert seen == [2]
        assert played.done.count("capture") == anew
        if change == "hook":  # what it does is not captured, so nothing is replayed any more
            assert played.done.count("replay") == 3 * 20 - 2 * WARM_CALLS


class Own(nn.Module):
    """A layer of another package, which may run any Python code."""

    def __init__(self) -> None:
        super().__init__()
        self.layer = nn.Linear(64, 4)

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        return self.layer(images.flatten(1))


def with_hook(model: nn.Module) -> nn.Module:
    next(model.children()).register_forward_hook(lambda *_: None)
    return model


def with_listener(model: nn.Module) -> nn.Module:
    next(model.parameters()).register_hook(lambda gradient: gradient)
    return model


def with_forward(model: nn.Module) -> nn.Module:
    model.forward = model.forward
    return model


def fresh(name: str = "convnet2-w4") -> nn.Module:
    return build(parse(name), 1, 4, 8, seed=0)


@pytest.mark.parametrize("name", ["convnet2-w4", "convnet2-w4-bn", "mlp", "alexnet-w2", "vgg11-w1-bn", "resnet18-w2"])
def test_our_networks_are_plain(name: str) -> None:
    assert is_plain(fresh(name))
    assert is_plain(nn.Sequential(fresh(name), nn.Softmax(1)))


@pytest.mark.parametrize(
    "make",
    [
        Own,
        lambda: nn.Sequential(fresh(), nn.Dropout(0.1)),
        lambda: nn.Sequential(fresh(), nn.RReLU()),
        lambda: with_hook(fresh()),
        lambda: with_listener(fresh()),
        lambda: with_forward(fresh()),
        lambda: nn.utils.parametrizations.weight_norm(nn.Linear(3, 3)),
    ],
    ids=["own", "dropout", "rrelu", "hook", "listener", "forward", "parametrised"],
)
def test_what_is_not_plain(make: Callable[[], nn.Module]) -> None:
    assert not is_plain(make())


COURSE_BOUND = 1e-3
"""Relative to how far a training moves the parameters: above rounding, below a step on another step's row."""


def course_error(found: torch.Tensor, expected: torch.Tensor, name: str = "convnet2-w4") -> float:
    """Return the distance between the ends of two trainings, relative to how far the second moved."""
    start = flatten(fresh(name))
    return float((found - expected).norm() / (expected - start).norm())


@pytest.mark.parametrize("part", ["index", "augmentation"])
def test_a_step_on_another_step_s_row_is_beyond_the_bound(part: str, monkeypatch: pytest.MonkeyPatch) -> None:
    dsa = None if part == "index" else DsaSettings()

    def trained_on_cpu() -> torch.Tensor:
        data, model = blobs(), fresh()
        settings = TrainingSettings(40, 20, 0.01, 0.5, dsa=dsa)
        train(model, data.train_pictures, data.train_labels, settings, generator=torch.Generator().manual_seed(3))
        return flatten(model)

    expected = trained_on_cpu()
    begin = steps.StepRunner.load

    def shifted(self: steps.StepRunner, drawn: steps.EpochDraws) -> None:
        begin(self, drawn)
        for table in (self._index,) if part == "index" else self._augmentation or ():
            table.copy_(table.roll(1, 0))

    monkeypatch.setattr(steps.StepRunner, "load", shifted)
    assert course_error(trained_on_cpu(), expected) > 10 * COURSE_BOUND


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

    def counted(*given: Any) -> Any:
        captures.append(given)
        return capture(*given)

    monkeypatch.setattr(graphs, "_captured", counted)
    for schedule in ("constant", "cosine"):
        captures.clear()
        found, reports = trained(name, monkeypatch, True, dsa=dsa, schedule=schedule)
        assert len(captures) == 2  # batches of 20, and of the 8 that are left
        expected, expected_reports = trained(name, monkeypatch, False, dsa=dsa, schedule=schedule)
        assert len(captures) == 2
        assert course_error(found, expected, name) <= COURSE_BOUND
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
def test_no_step_waits_for_the_gpu(monkeypatch: pytest.MonkeyPatch) -> None:
    """Epochs 21 to 39, new tables among them: PyTorch's own watch raises at the first thing that waits."""
    monkeypatch.setenv(graphs.SWITCH, "1")
    data, model = blobs().to("cuda"), fresh().cuda()
    settings = TrainingSettings(epochs=60, batch_size=20, lr=0.05, dsa=DsaSettings())
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
        found, reports = trained("convnet2-w4", monkeypatch, True)
    assert "could not be captured as a CUDA graph and runs directly" in caplog.text
    assert torch.cuda.current_stream() == stream
    assert len(reports) == 40
    assert course_error(found, expected) <= COURSE_BOUND


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
