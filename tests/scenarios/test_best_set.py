"""The best set of a run that is killed and resumed: the file and the reported accuracy belong together."""

from __future__ import annotations

from pathlib import Path

import pytest

from pydistill.artefact.file import Artefact
from pydistill.distillation.guard import Guard, Refusal
from pydistill.errors import FormatError
from pydistill.evaluation.evaluate import Evaluation
from pydistill.runs.evaluation import PeriodicEvaluator
from pydistill.runs.folder import RunFolder
from pydistill.runs.run import RunDivergedError, run_distillation
from pydistill.trajectories import TrajectoryStore
from tests.helpers.blobs import blobs
from tests.helpers.small_runs import recipe

DATA = blobs()
BEST = "best.safetensors"


def fix_accuracies(means: dict[int, float], monkeypatch: pytest.MonkeyPatch) -> None:
    """Let evaluations return these accuracies, by iteration."""

    def evaluate(evaluator: PeriodicEvaluator) -> Evaluation:
        return Evaluation("convnet2-w4", (means[evaluator.distiller.iteration],), 1.0)

    monkeypatch.setattr(PeriodicEvaluator, "evaluate", evaluate)


def best_of(run: Path) -> tuple[int, float]:
    """The iteration of the best set and its accuracy, by its file."""
    provenance = Artefact.load(run / BEST).provenance
    return provenance["iteration"], provenance["accuracy"]["mean"]


@pytest.mark.parametrize("broken", [(RunFolder, "save_checkpoint"), (PeriodicEvaluator, "save_best")])
@pytest.mark.parametrize("again", [0.4, 0.9, 0.95])
def test_a_run_killed_while_it_saves_the_best_set(
    broken: tuple[type, str],
    again: float,
    store: TrajectoryStore,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Before the checkpoint, the next process evaluates again (perhaps with another result, as on a GPU); between the
    checkpoint and the file, it writes the file."""
    work = recipe(iterations=6, evaluate_every=2)
    owner, name = broken
    original = getattr(owner, name)
    evaluator: list[PeriodicEvaluator] = []
    record = PeriodicEvaluator.record

    def recorded(self: PeriodicEvaluator, evaluation: Evaluation) -> None:
        evaluator[:] = [self]
        record(self, evaluation)

    def interrupted(*arguments: object) -> None:
        if evaluator and evaluator[0].last is not None and evaluator[0].last[0] == 4:
            raise RuntimeError("interrupted")
        original(*arguments)

    fix_accuracies({2: 0.5, 4: 0.9}, monkeypatch)
    with monkeypatch.context() as patched:
        patched.setattr(PeriodicEvaluator, "record", recorded)
        patched.setattr(owner, name, interrupted)
        with pytest.raises(RuntimeError, match="interrupted"):
            run_distillation(work, DATA, store, tmp_path)
    assert best_of(tmp_path) == (2, 0.5)
    fix_accuracies({4: again, 6: 0.6}, monkeypatch)
    result = run_distillation(work, DATA, store, tmp_path, resume=True)
    final = 0.9 if name == "save_best" else again
    expected = max([(0.5, 2), (final, 4), (0.6, 6)])
    assert (result.accuracy_best.mean, result.best_iteration) == expected
    assert best_of(tmp_path) == (result.best_iteration, result.accuracy_best.mean)
    means = [line["mean"] for line in RunFolder(tmp_path).metrics() if line["event"] == "evaluation"]
    assert means == [0.5, final, 0.6]


def test_a_lost_best_set_is_written_again_if_it_is_the_current_one(
    store: TrajectoryStore, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    fix_accuracies({1: 0.5, 2: 0.9, 3: 0.6, 4: 0.95}, monkeypatch)
    run_distillation(recipe(iterations=2, evaluate_every=1), DATA, store, tmp_path)
    before = (tmp_path / BEST).read_bytes()
    (tmp_path / BEST).unlink()
    run_distillation(recipe(iterations=2, evaluate_every=1), DATA, store, tmp_path, resume=True)
    assert (tmp_path / BEST).read_bytes() == before
    run_distillation(recipe(iterations=3, evaluate_every=1), DATA, store, tmp_path, resume=True)
    (tmp_path / BEST).unlink()
    assert not caplog.messages
    result = run_distillation(recipe(iterations=3, evaluate_every=1), DATA, store, tmp_path, resume=True)
    assert BEST in caplog.messages[0]
    assert (result.best_iteration, result.accuracy_best.mean) == (2, 0.9)
    result = run_distillation(recipe(iterations=4, evaluate_every=1), DATA, store, tmp_path, resume=True)
    assert (result.best_iteration, result.accuracy_best.mean) == best_of(tmp_path) == (4, 0.95)


def test_a_diverged_run_ends_with_its_best_set(
    store: TrajectoryStore, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Without its file, the last good set is evaluated instead; a damaged file is refused."""
    fix_accuracies({1: 0.9, 2: 0.5, 3: 0.3}, monkeypatch)
    run_distillation(recipe(iterations=2, evaluate_every=1), DATA, store, tmp_path)
    complete = (tmp_path / BEST).read_bytes()
    monkeypatch.setattr(Guard, "of_losses", lambda guard, losses: Refusal("loss", "a test"))
    diverging = recipe(iterations=3, evaluate_every=1, max_rejections=0)
    final = tmp_path / "distilled.safetensors"
    with pytest.raises(RunDivergedError):
        run_distillation(diverging, DATA, store, tmp_path, resume=True)
    assert final.read_bytes() == complete
    (tmp_path / BEST).write_bytes(complete[:-10])
    with pytest.raises(FormatError):
        run_distillation(diverging, DATA, store, tmp_path, resume=True)
    (tmp_path / BEST).unlink()
    with pytest.raises(RunDivergedError) as caught:
        run_distillation(diverging, DATA, store, tmp_path, resume=True)
    assert Artefact.load(final).provenance["accuracy"]["mean"] == caught.value.result.accuracy_final.mean
