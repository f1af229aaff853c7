"""Runs: what is in the folder, resuming bit for bit, and what happens when things go wrong."""

from __future__ import annotations

import json
import logging
import signal
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

from pydistill.artefact.figures import curves_figure, save_figure
from pydistill.artefact.file import Artefact
from pydistill.data import DsaSettings
from pydistill.distillation.distiller import Distiller
from pydistill.distillation.weighting import MatchedParameters
from pydistill.errors import InputError, MismatchError, OutOfMemoryError
from pydistill.nn import ModelSettings
from pydistill.runs import run as run_module
from pydistill.runs.folder import RunFolder
from pydistill.runs.run import run_distillation
from pydistill.runs.workflow import run_summary
from pydistill.synthesis import initialisation
from pydistill.synthesis.decoders import DecoderSettings, siren
from pydistill.training.experts import train_experts
from pydistill.training.gsam import SharpnessSettings
from pydistill.trajectories import TrajectoryStore
from tests.helpers.blobs import blobs
from tests.helpers.folder_content import content
from tests.helpers.small_runs import EXPERT, BreakAt, assert_same_outcome, recipe

DATA = blobs()
ROOT = Path(__file__).parents[2]


def test_a_run_done_again_writes_the_same_files_of_sets(store: TrajectoryStore, tmp_path: Path) -> None:
    for name in ("one", "other"):
        run_distillation(recipe(iterations=2, evaluate_every=1), DATA, store, tmp_path / name)
    for name in ("distilled.safetensors", "best.safetensors"):
        assert (tmp_path / "one" / name).read_bytes() == (tmp_path / "other" / name).read_bytes()


@pytest.mark.parametrize(
    "changes",
    [
        {},
        {"method": "mct"},
        {"labels": "learned"},
        {"labels": "teacher", "dsa": DsaSettings(), "ipc": 2, "batch_size": 3},
        {"experts_per_step": 2, "dsa": DsaSettings(), "batch_size": 3},
        {"labels": "learned", "label_start": "correct_logits", "momentum_label": 0.9, "initialisation": "correct"},
        {"ipc": 3, "initialisation": "difficulty", "frozen": 0.3, "experts_per_step": 2, "spread_starts": True},
        {"method": "ftd", "ema": 0.9},
        {"method": "datm", "grow_from": 1, "grow_iterations": 6, "skip_loss_above": 2.0, "momentum_label": 0.9},
        {"method": "progressive", "ipc": 3, "redraw_every": 2, "redraw_above": 0.1, "max_start": None},
        {"match_parameters": MatchedParameters("depth", leave_out=0.25)},
        {"match_parameters": MatchedParameters("rank", leave_out=0.25)},
        {"match_parameters": MatchedParameters("paced", threshold=1e-7, growth=2.0, growth_every=1)},
        {"optimiser": "adam", "lr_image": 0.1, "snapshot_every": 2},
        {"decoder": DecoderSettings("upsample")},
        {"decoder": DecoderSettings("mirror"), "labels": "learned"},
        {"decoder": DecoderSettings("dct", coefficients=16), "method": "mtt"},
        {"decoder": DecoderSettings("gaussians", images=3, fit_steps=5), "optimiser": "adam", "lr_image": 0.01},
        {"decoder": DecoderSettings("siren", width=4, layers=1, fit_steps=5), "optimiser": "adam", "lr_image": 0.01},
    ],
    ids=[
        *("att", "mct", "learned", "teacher and augmentation", "several experts"),
        *("momentum of labels", "frozen and spread", "ftd", "datm", "progressive"),
        *("depth", "rank", "paced"),
        *("adam", "upsample", "mirror", "dct", "gaussians", "siren"),
    ],
)
def test_an_interrupted_run_continues_as_the_uninterrupted_one(
    changes: dict[str, Any], store: TrajectoryStore, tmp_path: Path
) -> None:
    work = recipe(evaluate_every=4, **changes)
    run_distillation(work, DATA, store, tmp_path / "uninterrupted")
    for iteration in (2, 5, 7):
        with pytest.raises(RuntimeError, match="interrupted"):
            run_distillation(work, DATA, store, tmp_path / "resumed", resume=True, callbacks=[BreakAt(iteration)])
    run_distillation(work, DATA, store, tmp_path / "resumed", resume=True)
    assert_same_outcome(tmp_path / "uninterrupted", tmp_path / "resumed")


def test_a_resumed_run_does_not_fit_again(
    store: TrajectoryStore, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    steps: list[int] = []
    real = siren.fit

    def recorded(decoder: Any, codes: Any, images: Any, fitting: Any, *, at_once: int) -> Any:
        steps.append(fitting.steps)
        return real(decoder, codes, images, fitting, at_once=at_once)

    monkeypatch.setattr(siren, "fit", recorded)
    work = recipe(iterations=6, decoder=DecoderSettings("siren", width=4, layers=1, fit_steps=5), lr_image=0.01)
    with pytest.raises(RuntimeError, match="interrupted"):
        run_distillation(work, DATA, store, tmp_path, callbacks=[BreakAt(5)])
    run_distillation(work, DATA, store, tmp_path, resume=True)
    assert steps == [5, 0]


def test_a_resumed_run_chooses_no_images_again(
    store: TrajectoryStore, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    work = recipe(iterations=6, initialisation="correct", labels="learned", label_start="correct_logits")
    with pytest.raises(RuntimeError, match="interrupted"):
        run_distillation(work, DATA, store, tmp_path, callbacks=[BreakAt(5)])
    monkeypatch.delattr(initialisation, "correct_images")
    assert run_distillation(work, DATA, store, tmp_path, resume=True).iterations == 6


class Own(nn.Module):
    """A user's network."""

    def __init__(self, in_channels: int, num_classes: int, image_size: tuple[int, int]) -> None:
        super().__init__()
        self.first = nn.Linear(in_channels * image_size[0] * image_size[1], 6)
        self.second = nn.Linear(6, num_classes)

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        return self.second(self.first(images.flatten(1)).tanh())


class Dropping(Own):
    """One that draws random numbers while it trains, from PyTorch's global generator."""

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        return self.second(nn.functional.dropout(self.first(images.flatten(1)).tanh(), 0.5, self.training))


def test_a_network_with_dropout_continues_as_the_uninterrupted_one(tmp_path: Path) -> None:
    own = train_experts(DATA, Dropping, EXPERT, tmp_path / "experts")
    torch.rand(3)  # nothing of a run may depend on the global generator
    again = train_experts(DATA, Dropping, EXPERT, tmp_path / "again")
    assert own.digest == again.digest
    run_distillation(recipe(), DATA, own, tmp_path / "uninterrupted", network=Dropping)
    with pytest.raises(RuntimeError, match="interrupted"):
        run_distillation(recipe(), DATA, own, tmp_path / "resumed", network=Dropping, callbacks=[BreakAt(5)])
    run_distillation(recipe(), DATA, own, tmp_path / "resumed", network=Dropping, resume=True)
    assert_same_outcome(tmp_path / "uninterrupted", tmp_path / "resumed")


@pytest.mark.parametrize("network", [Own, ModelSettings("tests.runs.test_run:Own")], ids=["object", "import path"])
def test_a_network_of_the_user_s_own(network: Any, tmp_path: Path) -> None:
    own = train_experts(DATA, network, EXPERT, tmp_path / "experts")
    result = run_distillation(recipe(), DATA, own, tmp_path / "run", network=network)
    assert "Own" in result.accuracy_final.model
    assert "Own" in json.loads((tmp_path / "run" / "config.json").read_text())["architecture"]


def test_more_iterations_can_be_added(store: TrajectoryStore, tmp_path: Path) -> None:
    run_distillation(recipe(iterations=8), DATA, store, tmp_path / "uninterrupted")
    run_distillation(recipe(iterations=5), DATA, store, tmp_path / "resumed")
    run_distillation(recipe(iterations=8), DATA, store, tmp_path / "resumed", resume=True)
    uninterrupted, resumed = (Artefact.load(tmp_path / name) for name in ("uninterrupted", "resumed"))
    assert torch.equal(uninterrupted.images, resumed.images)


def test_more_iterations_do_not_change_how_the_range_grows(store: TrajectoryStore, tmp_path: Path) -> None:
    growing = {"method": "mct", "growing": True}
    run_distillation(recipe(iterations=4, **growing), DATA, store, tmp_path)
    with pytest.raises(MismatchError, match="grow_iterations"):
        run_distillation(recipe(iterations=8, **growing), DATA, store, tmp_path, resume=True)
    run_distillation(recipe(iterations=8, grow_iterations=2, **growing), DATA, store, tmp_path, resume=True)


def test_pixel_storage_and_parallel_evaluations_may_change_on_resume(store: TrajectoryStore, tmp_path: Path) -> None:
    work = recipe(iterations=5)
    run_distillation(work, DATA, store, tmp_path)
    other = replace(
        recipe(iterations=6),
        data=replace(work.data, pixels="floats"),
        evaluation=replace(work.evaluation, at_once=2),
    )
    assert run_distillation(other, DATA, store, tmp_path, resume=True).folder.load_checkpoint()


def test_several_experts_are_summed_up_and_drawn(
    store: TrajectoryStore, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    work = recipe(iterations=4, experts_per_step=3)
    result = run_distillation(work, DATA, store, tmp_path)
    steps = [line["step"] for line in result.folder.metrics() if line["event"] == "iteration"]
    assert [len(segments) for segments in steps] == [3] * 4
    assert run_summary(work, result)["chosen_steps"] == steps
    line = {"event": "iteration", "iteration": 4, "step": 1}
    lines = [{**line, "loss": float(number)} for number in range(40)] + [{**line, "loss": None}] * 5
    with monkeypatch.context() as patched:
        patched.setattr(result.folder, "metrics", lambda: lines)
        summary = run_summary(work, result)
    assert (summary["loss_first"], summary["loss_last"]) == (0.5, 38.5)  # means over a twentieth of the finite ones
    pytest.importorskip("matplotlib")
    save_figure(curves_figure(result.folder.metrics()), tmp_path / "curves.png")
    assert (tmp_path / "curves.png").stat().st_size > 1000


def test_resuming_with_other_experts_of_the_same_kind(store: TrajectoryStore, tmp_path: Path) -> None:
    run_distillation(recipe(iterations=1), DATA, store, tmp_path / "run")
    others = train_experts(DATA, recipe().model, replace(EXPERT, seed=1), tmp_path / "experts")
    with pytest.raises(MismatchError, match="digest"):
        run_distillation(recipe(iterations=2), DATA, others, tmp_path / "run", resume=True)


def test_the_seconds_of_a_run_are_those_of_all_its_parts(store: TrajectoryStore, tmp_path: Path) -> None:
    folder = run_distillation(recipe(iterations=1), DATA, store, tmp_path).folder
    state, tensors = folder.load_checkpoint()
    assert state["seconds"] > 0
    folder.save_checkpoint({**state, "seconds": 1000.0}, tensors)
    result = run_distillation(recipe(iterations=2), DATA, store, tmp_path, resume=True)
    assert 1000 < folder.load_checkpoint()[0]["seconds"] <= result.seconds


SCRIPT = """
import sys
from pydistill.runs.run import run_distillation, RunCallback
from pydistill.trajectories import TrajectoryStore
from tests.helpers.blobs import blobs
from tests.helpers.small_runs import recipe

class Print(RunCallback):
    def on_iteration(self, report):
        print(report.iteration, flush=True)

store = TrajectoryStore.open(sys.argv[1])
work = recipe(iterations=4000, checkpoint_every=7)
run_distillation(work, blobs(), store, sys.argv[2], resume=True, callbacks=[Print()])
"""


def start(store: TrajectoryStore, out: Path) -> subprocess.Popen[str]:
    command = [sys.executable, "-c", SCRIPT, str(store.path), str(out)]
    return subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)


def wait_for(process: subprocess.Popen[str], iteration: int) -> None:
    assert process.stdout is not None
    for line in process.stdout:
        if int(line) >= iteration:
            return
    raise AssertionError(f"the run ended early: {process.stderr.read() if process.stderr else ''}")


def test_a_killed_run_leaves_a_complete_checkpoint(store: TrajectoryStore, tmp_path: Path) -> None:
    out = tmp_path / "run"
    process = start(store, out)
    wait_for(process, 15)
    process.kill()
    process.communicate()
    state, _ = RunFolder(out).load_checkpoint()
    reached = state["distiller"]["iteration"]
    assert reached >= 14
    assert reached % 7 == 0
    undisturbed = Distiller(
        recipe(iterations=4000).distill, DATA, store, run_module.build(recipe().model, 1, 4, (8, 8), seed=0)
    )
    for _ in range(reached):
        undisturbed.iterate()
    assert torch.equal(RunFolder(out).load_checkpoint()[1]["images"], undisturbed.synthetic.images)


def test_ctrl_c_saves(store: TrajectoryStore, tmp_path: Path) -> None:
    out = tmp_path / "run"
    process = start(store, out)
    wait_for(process, 10)
    process.send_signal(signal.SIGINT)
    _, message = process.communicate(timeout=60)
    assert process.returncode != 0
    assert "Interrupted: stopped after iteration" in message
    stopped = RunFolder(out).load_checkpoint()[0]["distiller"]["iteration"]
    assert stopped == RunFolder(out).metrics()[-1]["iteration"] >= 10


def test_metrics_hold_every_iteration_once(store: TrajectoryStore, tmp_path: Path) -> None:
    result = run_distillation(recipe(evaluate_every=4), DATA, store, tmp_path)
    lines = result.folder.metrics()
    assert [line["iteration"] for line in lines if line["event"] == "iteration"] == list(range(1, 9))
    assert [line["iteration"] for line in lines if line["event"] == "evaluation"] == [4, 8]
    means = [line["mean"] for line in lines if line["event"] == "evaluation"]
    assert result.accuracy_best.mean == max(means)
    assert result.accuracy_final.mean == means[-1]
    assert json.loads((tmp_path / "config.json").read_text())["distill"]["steps"] == 3


@pytest.mark.parametrize("refused", [{"max_start": 9}, {"ipc": 1000}], ids=["start", "ipc"])
@pytest.mark.parametrize("method", ["att", "mct"])
def test_a_refused_run_does_not_block_the_folder(
    method: str, refused: dict[str, Any], store: TrajectoryStore, tmp_path: Path
) -> None:
    with pytest.raises(InputError):
        run_distillation(recipe(iterations=1, method=method, **refused), DATA, store, tmp_path)
    run_distillation(recipe(iterations=1, method=method), DATA, store, tmp_path)
    assert json.loads((tmp_path / "config.json").read_text())["distill"]["max_start"] == 3


def test_resuming_with_other_settings_names_both_sides(store: TrajectoryStore, tmp_path: Path) -> None:
    run_distillation(recipe(iterations=1), DATA, store, tmp_path)
    with pytest.raises(MismatchError, match=r"distill\.steps = 3, not 4"):
        run_distillation(recipe(iterations=1, steps=4), DATA, store, tmp_path, resume=True)


def test_convexified_experts_of_other_waypoints(store: TrajectoryStore, tmp_path: Path) -> None:
    convexified = store.write_convexified(tmp_path / "convexified", waypoints=3)
    with pytest.raises(MismatchError, match=r"convexified with waypoints = \[0, 3, 6\] and this run asks for \[0, 6\]"):
        run_distillation(recipe(method="mct", waypoints=2), DATA, convexified, tmp_path / "run")
    run_distillation(recipe(method="mct"), DATA, convexified, tmp_path / "other")
    assert (tmp_path / "other" / "distilled.safetensors").exists()


@pytest.mark.parametrize(
    ("settings", "message"),
    [({"max_start": 6}, "max_start must be at most 4"), ({"waypoints": 1}, "waypoints")],
)
def test_a_refused_run_leaves_no_convexified_experts(
    settings: dict[str, Any], message: str, store: TrajectoryStore, tmp_path: Path
) -> None:
    with pytest.raises(InputError, match=message):
        run_distillation(recipe(method="mct", **settings), DATA, store, tmp_path / "run")
    assert not (tmp_path / "run").exists()


def test_starts_are_checked_before_experts_are_convexified(
    store: TrajectoryStore, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delattr(TrajectoryStore, "write_convexified")
    with pytest.raises(InputError, match="max_start must be at most 4"):
        run_distillation(recipe(method="mct", max_start=6), DATA, store, tmp_path / "run")


def test_a_run_draws_the_experts_of_its_store_only(store: TrajectoryStore, tmp_path: Path) -> None:
    """Convexified ones that lie in the folder, of which the store knows nothing, are no experts of the run."""
    store.write_convexified(tmp_path / "run" / "convexified", waypoints=4)
    fewer = TrajectoryStore.create(tmp_path / "fewer", store.record)
    fewer.add(1, store.recorded(1).snapshots)
    before = content(tmp_path / "run" / "convexified")
    with pytest.raises(MismatchError, match="0, 2"):
        run_distillation(recipe(method="mct", waypoints=4), DATA, fewer, tmp_path / "run")
    assert content(tmp_path / "run" / "convexified") == before


@pytest.mark.parametrize(
    ("model", "dataset", "message"),
    [
        (ModelSettings("convnet", width=5, depth=2), DATA, r"architecture is convnet\(width=4.*width=5"),
        (None, blobs(seed=1), "digest"),
        (None, blobs(size=12), "image size is 8×8 for the experts and 12×12 for this run"),
        (None, replace(DATA, name="spots"), "dataset is blobs for the experts and spots for this run"),
    ],
    ids=["architecture", "digest", "image size", "name"],
)
def test_experts_that_do_not_fit(
    model: ModelSettings | None, dataset: Any, message: str, store: TrajectoryStore, tmp_path: Path
) -> None:
    work = recipe() if model is None else replace(recipe(), model=model)
    with pytest.raises(MismatchError, match=message):
        run_distillation(work, dataset, store, tmp_path / "run")
    assert not (tmp_path / "run").exists()


def test_experts_of_another_preprocessing(store: TrajectoryStore, tmp_path: Path) -> None:
    from pydistill.data import Normalise

    other = Normalise(mean=torch.tensor([0.1]), std=torch.tensor([0.7]))
    with pytest.raises(MismatchError, match=r"preprocessing is .* for the experts and .* for this run"):
        run_distillation(recipe(), replace(DATA, preprocessing=other), store, tmp_path / "run")


@pytest.mark.parametrize(
    ("backend", "remedy"),
    [("autograd", "distill.backend = torch needs the memory of one step"), ("torch", "smaller distill.batch_size")],
)
def test_out_of_memory_names_what_lowers_it(
    backend: str, remedy: str, store: TrajectoryStore, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def too_much(self: Distiller) -> None:
        torch.empty(10**13)  # PyTorch's own refusal

    monkeypatch.setattr(Distiller, "iterate", too_much)
    with pytest.raises(OutOfMemoryError, match=rf"out of memory .*40000000000000 bytes.*{remedy}"):
        run_distillation(recipe(backend=backend), DATA, store, tmp_path)


@pytest.mark.parametrize(("method", "warns"), [("att", True), ("mct", False)])
def test_settings_without_effect_are_named_in_a_warning(
    method: str, warns: bool, store: TrajectoryStore, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """Waypoints and smoothing belong to convexified experts."""
    work = recipe(method=method, waypoints=3, smoothing="none", iterations=1)
    with caplog.at_level(logging.WARNING, logger="pydistill"):
        run_distillation(work, DATA, store, tmp_path / "run")
    assert ("waypoints, smoothing" in caplog.text) is warns


@pytest.mark.parametrize(("method", "warns"), [("ftd", True), ("datm", True), ("mtt", False)])
def test_methods_of_flat_experts_mention_plain_ones(
    method: str, warns: bool, store: TrajectoryStore, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    with caplog.at_level(logging.WARNING, logger="pydistill"):
        run_distillation(recipe(method=method, iterations=1, grow_from=1), DATA, store, tmp_path / "run")
    assert ("train them with sharpness" in caplog.text) is warns


def test_flat_experts_are_not_mentioned(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    flat = replace(EXPERT, count=1, training=replace(EXPERT.training, sharpness=SharpnessSettings()))
    work = replace(recipe(method="ftd", iterations=1), expert=flat)
    flat_store = train_experts(DATA, work.model, flat, tmp_path / "flat")
    with caplog.at_level(logging.WARNING, logger="pydistill"):
        run_distillation(work, DATA, flat_store, tmp_path / "run")
    assert not caplog.messages
