"""TensorBoard and wandb: what is logged, across a resume, and that no failure of theirs ends a run."""

from __future__ import annotations

import importlib.machinery
import importlib.util
import json
import logging
import sys
from pathlib import Path
from typing import Any

import pytest
import torch

from pydistill.cli import main
from pydistill.distillation.records import IterationReport, Segment
from pydistill.errors import InputError, MissingDependencyError
from pydistill.evaluation.evaluate import Evaluation
from pydistill.runs.folder import RunFolder
from pydistill.runs.loggers import LogSettings, TensorBoardLogger, make_loggers
from pydistill.runs.run import run_distillation
from pydistill.runs.workflow import distill_and_report
from pydistill.trajectories import TrajectoryStore
from tests.helpers.blobs import blobs
from tests.helpers.fake_wandb import FakeWandb
from tests.helpers.small_runs import recipe

DATA = blobs()
TENSORBOARD = LogSettings(tensorboard=True)
needs_tensorboard = pytest.mark.skipif(
    importlib.util.find_spec("tensorboard") is None, reason="the package tensorboard is not installed"
)


def distil(store: TrajectoryStore, out: Path, log: LogSettings, *, resume: bool = False, **settings: Any) -> None:
    work = recipe(**settings)
    run_distillation(work, DATA, store, out, resume=resume, callbacks=make_loggers(log, out, work, DATA))


def events(run: Path) -> Any:
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    return EventAccumulator(str(run / "tensorboard"), size_guidance={"images": 0, "scalars": 0}).Reload()


def scalars(run: Path, name: str) -> list[tuple[int, float]]:
    return [(event.step, event.value) for event in events(run).Scalars(name)]


@needs_tensorboard
def test_tensorboard_holds_what_the_metrics_hold(store: TrajectoryStore, tmp_path: Path) -> None:
    distil(store, tmp_path, TENSORBOARD, evaluate_every=4)
    lines = RunFolder(tmp_path).metrics()
    for name in ("loss", "step", "lr"):
        expected = [(line["iteration"], line[name]) for line in lines if line["event"] == "iteration"]
        assert scalars(tmp_path, name) == [(step, pytest.approx(value)) for step, value in expected]
    means = [(line["iteration"], 100 * line["mean"]) for line in lines if line["event"] == "evaluation"]
    assert scalars(tmp_path, "accuracy/mean") == [(step, pytest.approx(value)) for step, value in means]
    pictures = events(tmp_path).Images("images")
    assert [picture.step for picture in pictures] == [0, 3, 4, 6, 8]
    assert (pictures[0].width, pictures[0].height) == (4 * 10, 10)


@needs_tensorboard
def test_tensorboard_goes_on_after_a_resume(store: TrajectoryStore, tmp_path: Path) -> None:
    """Events that a killed process logged beyond the last checkpoint are not repeated."""
    run = tmp_path / "run"
    distil(store, run, TENSORBOARD, iterations=3)
    killed = TensorBoardLogger(run, recipe(), DATA)
    killed.on_start(3)
    for iteration in (4, 5):
        killed.on_evaluation(iteration, Evaluation("mlp", (-1.0,), 1.0))
        killed.on_iteration(IterationReport(iteration, (Segment(0, 0.0, 1.0, -1.0, 1, (1.0,)),), 0.1))
    killed.on_end()
    distil(store, run, TENSORBOARD, resume=True)
    distil(store, tmp_path / "uninterrupted", TENSORBOARD)
    assert scalars(run, "loss") == scalars(tmp_path / "uninterrupted", "loss")
    assert len(list((run / "tensorboard").iterdir())) == 3


def test_a_log_that_fails_is_named_once_and_left_out(
    store: TrajectoryStore, tmp_path: Path, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    calls = []

    def fail(logger: TensorBoardLogger, iteration: int, values: object) -> None:
        calls.append(iteration)
        raise OSError(28, "No space left on device\nsecond line")

    monkeypatch.setattr(TensorBoardLogger, "_open", lambda logger, iteration: object())
    monkeypatch.setattr(TensorBoardLogger, "_log_picture", lambda logger, iteration, picture: None)
    monkeypatch.setattr(TensorBoardLogger, "_log_numbers", fail)
    monkeypatch.setattr(LogSettings, "_check", lambda self: None)
    with caplog.at_level(logging.WARNING, logger="pydistill"):
        distil(store, tmp_path, TENSORBOARD)
    (message,) = caplog.messages
    assert "TensorBoard" in message
    assert "No space left on device" in message
    assert "second line" not in message
    assert calls == [1]
    assert (tmp_path / "distilled.safetensors").exists()


def test_an_optional_log_that_cannot_be_opened_is_a_warning_and_a_required_one_an_error(
    store: TrajectoryStore, tmp_path: Path, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As of a package tensorboard that torch cannot import."""
    monkeypatch.setattr("pydistill.runs.loggers.settings._installed", lambda name: True)
    monkeypatch.setitem(sys.modules, "torch.utils.tensorboard", None)
    with caplog.at_level(logging.WARNING, logger="pydistill"):
        distil(store, tmp_path / "default", LogSettings(), iterations=2)
    assert len(caplog.messages) == 1
    assert (tmp_path / "default" / "distilled.safetensors").exists()
    with pytest.raises(MissingDependencyError):
        distil(store, tmp_path / "required", TENSORBOARD)
    assert RunFolder(tmp_path / "required").metrics() == []


@pytest.mark.parametrize(("inside", "is_package"), [("events", False), ("__init__.py", True)])
def test_a_folder_is_no_package(inside: str, is_package: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A run's wandb/ or tensorboard/ lies where Python looks for packages when a command is run beside it."""
    name = f"log_of_no_package_{is_package}"
    (tmp_path / name).mkdir()
    (tmp_path / name / inside).touch()
    monkeypatch.syspath_prepend(tmp_path)
    find_spec = importlib.util.find_spec
    monkeypatch.setattr(importlib.util, "find_spec", lambda _: find_spec(name))
    assert LogSettings().with_tensorboard is is_package
    if is_package:
        LogSettings(wandb="offline")
    else:
        with pytest.raises(MissingDependencyError, match="wandb"):
            LogSettings(wandb="offline")


def test_a_refused_run_leaves_no_log(store: TrajectoryStore, tmp_path: Path) -> None:
    with pytest.raises(InputError, match="max_start"):
        distil(store, tmp_path / "run", LogSettings(), max_start=9)
    assert not (tmp_path / "run" / "tensorboard").exists()


@pytest.mark.parametrize("name", ["tensorboard", "wandb"])
def test_what_is_asked_for_and_not_installed(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(importlib.util, "find_spec", lambda _: None)
    with pytest.raises(MissingDependencyError, match=name):
        LogSettings(tensorboard=name == "tensorboard", wandb="offline" if name == "wandb" else None)
    assert not LogSettings().with_tensorboard


def test_a_mode_that_does_not_exist() -> None:
    with pytest.raises(InputError, match="wandb"):
        LogSettings(wandb="yes")  # type: ignore[arg-type]


def fake(monkeypatch: pytest.MonkeyPatch, **about: Any) -> FakeWandb:
    wandb = FakeWandb(**about)
    monkeypatch.setitem(sys.modules, "wandb", wandb)
    return wandb


def test_wandb_offline(store: TrajectoryStore, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    wandb = fake(monkeypatch, key=None)
    settings = LogSettings(tensorboard=False, wandb="offline", project="mine")
    distil(store, tmp_path / "first", settings, iterations=3)
    (begun,) = wandb.begun
    assert (begun["mode"], begun["project"], begun["name"], begun["dir"]) == (
        *("offline", "mine", "first"),
        str(tmp_path / "first"),
    )
    assert begun["config"]["distill"]["iterations"] == 3
    assert ("*", "iteration") in wandb.metrics
    lines = [line for line in RunFolder(tmp_path / "first").metrics() if line["event"] == "iteration"]
    losses = [(entry["iteration"], entry["loss"]) for entry in wandb.logged if "loss" in entry]
    assert losses == [(line["iteration"], line["loss"]) for line in lines]
    pictures = [entry["images"] for entry in wandb.logged if "images" in entry]
    assert [picture.shape for picture in pictures] == [(10, 40)] * 2  # after iterations 0 and 3
    assert wandb.finished == 1
    distil(store, tmp_path / "first", settings, resume=True)
    assert wandb.begun[1]["id"] == begun["id"]


def test_the_real_wandb_offline(store: TrajectoryStore, tmp_path: Path) -> None:
    """Where it is installed; the tests' own environment has the stand-in alone."""
    pytest.importorskip("wandb")
    distil(store, tmp_path / "first", LogSettings(tensorboard=False, wandb="offline"), iterations=3)
    (record,) = (tmp_path / "first" / "wandb").glob("offline-run-*/run-*.wandb")
    assert record.stat().st_size > 1000


def test_wandb_online_that_cannot_be_reached_goes_offline(
    store: TrajectoryStore, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    wandb = fake(monkeypatch, reachable=False)
    with caplog.at_level(logging.WARNING, logger="pydistill"):
        distil(store, tmp_path, LogSettings(tensorboard=False, wandb="online"), iterations=2)
    assert [about["mode"] for about in wandb.begun] == ["online", "offline"]
    assert wandb.torn_down == 1
    assert wandb.begun[0]["settings"]["init_timeout"] == 20
    assert len(caplog.messages) == 1
    assert len([entry for entry in wandb.logged if "loss" in entry]) == 2


def test_wandb_online_without_a_key_is_refused_before_the_first_iteration(
    store: TrajectoryStore, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    fake(monkeypatch, key=None)
    with pytest.raises(InputError, match="wandb login"):
        distil(store, tmp_path, LogSettings(tensorboard=False, wandb="online"))
    assert RunFolder(tmp_path).metrics() == []


def test_the_flags(
    store: TrajectoryStore, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    settings: list[LogSettings] = []

    def keep(*arguments: Any, log: LogSettings, **others: Any) -> None:
        settings.append(log)
        raise InputError("enough")

    monkeypatch.setattr("pydistill.runs.workflow.distill_and_report", keep)
    monkeypatch.setattr("pydistill.runs.loggers.settings._installed", lambda name: True)
    flags = ["--log.wandb", "offline", "--log.tensorboard", "false", "--log.project", "mine"]
    command = ["distill", "--data.name", "digits", "--experts", str(store.path), "--out", str(tmp_path / "run"), *flags]
    assert main(command) == 2
    assert "enough" in capsys.readouterr().err
    assert settings == [LogSettings(tensorboard=False, wandb="offline", project="mine")]


@needs_tensorboard
def test_logging_changes_no_result(store: TrajectoryStore, tmp_path: Path) -> None:
    for name, log in (("with", TENSORBOARD), ("without", LogSettings(tensorboard=False))):
        distill_and_report(DATA, recipe(), store, tmp_path / name, resume=False, quiet=True, log=log)
    sets = [RunFolder(tmp_path / name).load_checkpoint()[1]["images"] for name in ("with", "without")]
    assert torch.equal(*sets)
    configs = [json.loads((tmp_path / name / "config.json").read_text()) for name in ("with", "without")]
    assert configs[0] == configs[1]
