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
from pydistill.errors import InputError, MissingDependencyError
from pydistill.runs.folder import RunFolder
from pydistill.runs.loggers import LogCallback, LogSettings
from pydistill.runs.loggers.tensorboard import TensorBoard
from pydistill.runs.run import run_distillation
from pydistill.runs.workflow import distill_and_report
from pydistill.trajectories import TrajectoryStore
from tests.helpers.blobs import blobs
from tests.helpers.fake_wandb import FakeWandb
from tests.helpers.small_runs import experts, recipe

DATA = blobs()
TENSORBOARD = LogSettings(tensorboard=True)
needs_tensorboard = pytest.mark.skipif(
    importlib.util.find_spec("tensorboard") is None, reason="the package tensorboard is not installed"
)


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> TrajectoryStore:
    return experts(tmp_path_factory.mktemp("experts"))


def distil(store: TrajectoryStore, out: Path, log: LogSettings, *, resume: bool = False, **settings: Any) -> None:
    work = recipe(**settings)
    logs = LogCallback(log, out, work, DATA.preprocessing, DATA.num_classes)
    try:
        run_distillation(work, DATA, store, out, resume=resume, observer=logs)
    finally:
        logs.close()


def events(run: Path) -> Any:
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    return EventAccumulator(str(run / "tensorboard"), size_guidance={"images": 0, "scalars": 0}).Reload()


def scalars(run: Path, name: str) -> list[tuple[int, float]]:
    return [(each.step, each.value) for each in events(run).Scalars(name)]


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
    assert [each.step for each in pictures] == [0, 1, 3, 4, 6, 8]
    assert (pictures[0].width, pictures[0].height) == (4 * 10, 10)


@needs_tensorboard
def test_tensorboard_goes_on_after_a_resume(store: TrajectoryStore, tmp_path: Path) -> None:
    """What a killed process had logged beyond the last checkpoint is there once."""
    run = tmp_path / "run"
    distil(store, run, TENSORBOARD, iterations=3)
    beyond = TensorBoard(run, 3)
    beyond.numbers(4, {"loss": -1.0})
    beyond.numbers(5, {"loss": -1.0})
    beyond.close()
    distil(store, run, TENSORBOARD, resume=True)
    distil(store, tmp_path / "whole", TENSORBOARD)
    assert scalars(run, "loss") == scalars(tmp_path / "whole", "loss")
    assert len(list((run / "tensorboard").iterdir())) == 3


def test_a_run_logs_where_it_can_and_says_once_where_not(
    store: TrajectoryStore, tmp_path: Path, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    class Failing:
        name = "TensorBoard"
        calls = 0

        def __init__(self, *arguments: object) -> None: ...

        def numbers(self, *arguments: object) -> None:
            Failing.calls += 1
            raise OSError(28, "No space left on device\nsecond line")

        picture = close = numbers

    monkeypatch.setattr("pydistill.runs.loggers.observer.TensorBoard", Failing)
    monkeypatch.setattr(LogSettings, "check", lambda self: None)
    with caplog.at_level(logging.WARNING, logger="pydistill"):
        distil(store, tmp_path, TENSORBOARD)
    assert [record.getMessage() for record in caplog.records] == [
        "TensorBoard fails ([Errno 28] No space left on device); the run goes on without it, "
        "metrics.jsonl has everything"
    ]
    assert Failing.calls == 1
    assert (tmp_path / "distilled.safetensors").exists()


def test_a_log_that_nobody_asked_for_and_that_cannot_be_opened(
    store: TrajectoryStore, tmp_path: Path, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A package tensorboard that torch cannot import: told once, or, if it was asked for, an error at the beginning."""
    monkeypatch.setattr("pydistill.runs.loggers.settings._installed", lambda name: True)
    monkeypatch.setitem(sys.modules, "torch.utils.tensorboard", None)
    with caplog.at_level(logging.WARNING, logger="pydistill"):
        distil(store, tmp_path / "default", LogSettings(), iterations=2)
    assert [record.getMessage() for record in caplog.records] == [
        "TensorBoard fails (log.tensorboard needs the package tensorboard; install it with: "
        "pip install 'pydistill[tensorboard]'); the run goes on without it, metrics.jsonl has everything"
    ]
    assert (tmp_path / "default" / "distilled.safetensors").exists()
    with pytest.raises(MissingDependencyError, match=r"log\.tensorboard needs the package tensorboard"):
        distil(store, tmp_path / "asked", TENSORBOARD)
    assert RunFolder(tmp_path / "asked").metrics() == []


@pytest.mark.parametrize(("inside", "found"), [("events", False), ("__init__.py", True)])
def test_a_folder_is_no_package(inside: str, found: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A run's wandb/ or tensorboard/ lies where Python looks for packages when a command is run beside it."""
    name = f"log_of_no_package_{found}"
    (tmp_path / name).mkdir()
    (tmp_path / name / inside).touch()
    monkeypatch.syspath_prepend(tmp_path)
    find_spec = importlib.util.find_spec
    monkeypatch.setattr(importlib.util, "find_spec", lambda _: find_spec(name))
    assert LogSettings().with_tensorboard is found
    if found:
        LogSettings(wandb="offline").check()
    else:
        with pytest.raises(MissingDependencyError, match=r"log\.wandb needs the package wandb"):
            LogSettings(wandb="offline").check()


def test_a_refused_run_leaves_no_log(store: TrajectoryStore, tmp_path: Path) -> None:
    with pytest.raises(InputError, match="but the expert trajectories end"):
        distil(store, tmp_path / "run", LogSettings(), max_start=9)
    assert not (tmp_path / "run" / "tensorboard").exists()


@pytest.mark.parametrize("name", ["tensorboard", "wandb"])
def test_what_is_asked_for_and_not_installed(
    name: str, store: TrajectoryStore, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(importlib.util, "find_spec", lambda _: None)
    asked = LogSettings(tensorboard=name == "tensorboard", wandb="offline" if name == "wandb" else None)
    with pytest.raises(MissingDependencyError, match=rf"log.{name} needs the package .* 'pydistill\[{name}\]'"):
        distil(store, tmp_path / "run", asked)
    assert not (tmp_path / "run").exists()
    assert not LogSettings().with_tensorboard
    LogSettings().check()


def test_a_mode_that_does_not_exist() -> None:
    with pytest.raises(InputError, match=r"log\.wandb must be offline, online or null, not 'yes'"):
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
    losses = [(each["iteration"], each["loss"]) for each in wandb.logged if "loss" in each]
    assert losses == [(line["iteration"], line["loss"]) for line in lines]
    pictures = [each["images"] for each in wandb.logged if "images" in each]
    assert [picture.shape for picture in pictures] == [(10, 40)] * 3
    assert wandb.finished == 1
    distil(store, tmp_path / "first", settings, resume=True)
    assert wandb.begun[1]["id"] == begun["id"]


def test_the_real_wandb_offline(store: TrajectoryStore, tmp_path: Path) -> None:
    """Where it is installed; the tests' own environment has the stand-in alone."""
    pytest.importorskip("wandb")
    distil(store, tmp_path / "first", LogSettings(tensorboard=False, wandb="offline"), iterations=3)
    (kept,) = (tmp_path / "first" / "wandb").glob("offline-run-*/run-*.wandb")
    assert kept.stat().st_size > 1000


def test_wandb_online_that_cannot_be_reached_goes_offline(
    store: TrajectoryStore, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    wandb = fake(monkeypatch, reachable=False)
    with caplog.at_level(logging.WARNING, logger="pydistill"):
        distil(store, tmp_path, LogSettings(tensorboard=False, wandb="online"), iterations=2)
    assert [about["mode"] for about in wandb.begun] == ["online", "offline"]
    assert wandb.torn_down == 1
    assert wandb.begun[0]["settings"]["init_timeout"] == 20
    assert [record.getMessage() for record in caplog.records] == [
        "wandb cannot be reached (no answer); this run is logged offline, `wandb sync` sends it"
    ]
    assert len([each for each in wandb.logged if "loss" in each]) == 2


def test_wandb_online_without_a_key_is_refused_before_the_first_iteration(
    store: TrajectoryStore, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    fake(monkeypatch, key=None)
    with pytest.raises(InputError, match=r"log.wandb = online needs a key: run `wandb login` once, or choose"):
        distil(store, tmp_path, LogSettings(tensorboard=False, wandb="online"))
    assert RunFolder(tmp_path).metrics() == []


def test_the_flags(
    store: TrajectoryStore, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    found: list[LogSettings] = []

    def keep(*arguments: Any, log: LogSettings, **others: Any) -> None:
        found.append(log)
        raise InputError("enough")

    monkeypatch.setattr("pydistill.runs.workflow.distill_and_report", keep)
    monkeypatch.setattr("pydistill.runs.loggers.settings._installed", lambda name: True)
    flags = ["--log.wandb", "offline", "--log.tensorboard", "false", "--log.project", "mine"]
    given = ["distill", "--data.name", "digits", "--experts", str(store.path), "--out", str(tmp_path / "run"), *flags]
    assert main(given) == 2
    assert "enough" in capsys.readouterr().err
    assert found == [LogSettings(tensorboard=False, wandb="offline", project="mine")]


@needs_tensorboard
def test_logging_changes_no_result(store: TrajectoryStore, tmp_path: Path) -> None:
    for name, log in (("with", TENSORBOARD), ("without", LogSettings(tensorboard=False))):
        distill_and_report(DATA, recipe(), store, tmp_path / name, resume=False, quiet=True, log=log)
    sets = [RunFolder(tmp_path / name).load_checkpoint()[1]["images"] for name in ("with", "without")]
    assert torch.equal(*sets)
    configs = [json.loads((tmp_path / name / "config.json").read_text()) for name in ("with", "without")]
    assert configs[0] == configs[1]
