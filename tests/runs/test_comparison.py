"""A run is compared with real images and its experts when it ends, and not twice."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from pydistill.errors import Interrupted
from pydistill.evaluation import baselines
from pydistill.evaluation.baselines import StoredEvaluator, read_baselines
from pydistill.runs.loggers import LogSettings
from pydistill.runs.report import write_report
from pydistill.runs.report.contents import read_run
from pydistill.runs.workflow import distill_and_report
from pydistill.trajectories import TrajectoryStore
from tests.helpers.blobs import blobs
from tests.helpers.small_runs import experts, recipe

DATA = blobs()


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> TrajectoryStore:
    return experts(tmp_path_factory.mktemp("comparison") / "experts", DATA)


def distil(store: TrajectoryStore, out: Path, compared_with: tuple[str, ...], **settings: Any) -> None:
    work = recipe(**{"iterations": 2} | settings)
    evaluation = replace(work.evaluation, baselines=compared_with, full_epochs=1)
    work = replace(work, evaluation=evaluation)
    distill_and_report(DATA, work, store, out, resume=True, quiet=True, log=LogSettings(tensorboard=False))


def names(run: Path) -> list[str]:
    return [name for name, _ in read_baselines(run)]


def test_a_run_ends_with_its_baselines_and_the_experts(store: TrajectoryStore, tmp_path: Path) -> None:
    distil(store, tmp_path, ("random",))
    assert names(tmp_path) == ["4 random real images", "the experts themselves"]
    row = read_baselines(tmp_path)[1][1]
    assert row.accuracies == tuple(store.accuracies(position)["test"][-1] for position in range(3))
    assert row.epochs == 6
    page = (tmp_path / "report.html").read_text(encoding="utf-8")
    for name, row in read_baselines(tmp_path):
        assert name in page
        assert f"{100 * row.mean:.1f} ± {100 * row.std:.1f} %" in page
    assert list(read_run(tmp_path).references) == names(tmp_path)


def test_a_resumed_run_trains_what_is_missing_alone(
    store: TrajectoryStore, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Another baseline may be asked for on resuming; a longer run has another learning rate to try."""
    distil(store, tmp_path, ("random",))
    trained: list[float] = []
    evaluate = baselines.evaluate

    def counted(*arguments: Any, **options: Any) -> Any:
        trained.append(arguments[2])
        return evaluate(*arguments, **options)

    monkeypatch.setattr(baselines, "evaluate", counted)
    distil(store, tmp_path, ("random",))
    assert not trained
    distil(store, tmp_path, ("full",))
    assert trained == [0.01]
    assert "all 48 real images" in names(tmp_path)
    distil(store, tmp_path, ("random",), iterations=3)
    rate = json.loads((tmp_path / "summary.json").read_text())["lr"]
    assert trained == [0.01, rate, rate]


def test_without_baselines_only_the_experts_are_compared(store: TrajectoryStore, tmp_path: Path) -> None:
    distil(store, tmp_path, ())
    assert names(tmp_path) == ["the experts themselves"]


def test_ctrl_c_while_baselines_are_trained_loses_nothing(
    store: TrajectoryStore, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def stopped(*_: Any, **__: Any) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patched:
        patched.setattr(StoredEvaluator, "random_real", stopped)
        with pytest.raises(Interrupted, match="complete but for its baselines"):
            distil(store, tmp_path, ("random",))
    assert (tmp_path / "summary.json").exists()
    assert (tmp_path / "report.html").exists()
    distil(store, tmp_path, ("random",))
    assert names(tmp_path) == ["4 random real images", "the experts themselves"]


def test_a_damaged_file_is_a_sentence_in_the_report(store: TrajectoryStore, tmp_path: Path) -> None:
    distil(store, tmp_path, ())
    (tmp_path / "baselines.json").write_text("{")
    assert "baselines.json is damaged" in write_report(tmp_path).read_text(encoding="utf-8")
