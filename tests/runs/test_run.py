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
from pydistill.errors import FormatError, InputError, MismatchError, OutOfMemoryError
from pydistill.nn import ModelSettings
from pydistill.runs import run as run_module
from pydistill.runs.folder import RunFolder
from pydistill.runs.run import run_distillation
from pydistill.runs.workflow import run_summary
from pydistill.training.experts import train_experts
from pydistill.trajectories import TrajectoryStore
from tests.helpers.blobs import blobs
from tests.helpers.folder_content import content
from tests.helpers.small_runs import EXPERT, BreakAt, assert_same_outcome, experts, recipe

DATA = blobs()
ROOT = Path(__file__).parents[2]


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> TrajectoryStore:
    return experts(tmp_path_factory.mktemp("experts"))


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
    ],
    ids=["att", "mct", "learned", "teacher and augmentation", "several experts"],
)
def test_a_broken_off_run_continues_as_if_it_had_not_been(
    changes: dict[str, Any], store: TrajectoryStore, tmp_path: Path
) -> None:
    work = recipe(evaluate_every=4, **changes)
    run_distillation(work, DATA, store, tmp_path / "whole")
    for iteration in (2, 5, 7):
        with pytest.raises(RuntimeError, match="broken off"):
            run_distillation(work, DATA, store, tmp_path / "parts", resume=True, observer=BreakAt(iteration))
    run_distillation(work, DATA, store, tmp_path / "parts", resume=True)
    assert_same_outcome(tmp_path / "whole", tmp_path / "parts")


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


def test_a_network_with_dropout_continues_as_if_it_had_not_been_broken_off(tmp_path: Path) -> None:
    own = train_experts(DATA, Dropping, EXPERT, tmp_path / "experts")
    torch.rand(3)  # nothing of a run may depend on the global generator
    again = train_experts(DATA, Dropping, EXPERT, tmp_path / "again")
    assert own.digest == again.digest
    run_distillation(recipe(), DATA, own, tmp_path / "whole", network=Dropping)
    with pytest.raises(RuntimeError, match="broken off"):
        run_distillation(recipe(), DATA, own, tmp_path / "parts", network=Dropping, observer=BreakAt(5))
    run_distillation(recipe(), DATA, own, tmp_path / "parts", network=Dropping, resume=True)
    assert_same_outcome(tmp_path / "whole", tmp_path / "parts")


@pytest.mark.parametrize("network", [Own, ModelSettings("tests.runs.test_run:Own")], ids=["object", "import path"])
def test_a_network_of_the_user_s_own(network: Any, tmp_path: Path) -> None:
    own = train_experts(DATA, network, EXPERT, tmp_path / "experts")
    result = run_distillation(recipe(), DATA, own, tmp_path / "run", network=network)
    assert "Own" in result.accuracy_final.model
    assert "Own" in json.loads((tmp_path / "run" / "config.json").read_text())["architecture"]


def test_more_iterations_can_be_added(store: TrajectoryStore, tmp_path: Path) -> None:
    run_distillation(recipe(iterations=8), DATA, store, tmp_path / "whole")
    run_distillation(recipe(iterations=5), DATA, store, tmp_path / "parts")
    run_distillation(recipe(iterations=8), DATA, store, tmp_path / "parts", resume=True)
    whole, parts = (Artefact.load(tmp_path / name) for name in ("whole", "parts"))
    assert torch.equal(whole.images, parts.images)


def test_more_iterations_do_not_change_how_the_range_grows(store: TrajectoryStore, tmp_path: Path) -> None:
    growing = {"method": "mct", "growing": True}
    run_distillation(recipe(iterations=4, **growing), DATA, store, tmp_path)
    with pytest.raises(MismatchError, match=r"began with distill\.grow_iterations = 2, not 4"):
        run_distillation(recipe(iterations=8, **growing), DATA, store, tmp_path, resume=True)
    run_distillation(recipe(iterations=8, grow_iterations=2, **growing), DATA, store, tmp_path, resume=True)


def test_a_run_from_before_a_setting_was_there_can_be_continued(store: TrajectoryStore, tmp_path: Path) -> None:
    """Its configuration lacks what has since been added, whose default is what it did."""
    run_distillation(recipe(iterations=5), DATA, store, tmp_path / "old")
    file = tmp_path / "old" / "config.json"
    config = json.loads(file.read_text())
    assert "experts_per_step" not in config["distill"]
    del config["data"]["pixels"], config["evaluation"]["at_once"]
    file.write_text(json.dumps(config))
    run_distillation(recipe(iterations=8), DATA, store, tmp_path / "old", resume=True)
    run_distillation(recipe(iterations=8), DATA, store, tmp_path / "whole")
    whole, old = (Artefact.load(tmp_path / name) for name in ("whole", "old"))
    assert torch.equal(whole.images, old.images)
    with pytest.raises(MismatchError, match=r"began with distill\.experts_per_step = None, not 2"):
        run_distillation(recipe(iterations=9, experts_per_step=2), DATA, store, tmp_path / "old", resume=True)


def test_how_pictures_are_kept_and_how_many_networks_train_at_once_may_change(
    store: TrajectoryStore, tmp_path: Path
) -> None:
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
    assert [len(each) for each in steps] == [3] * 4
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
    with pytest.raises(MismatchError, match=r"began with trajectories\.digest = "):
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
from pydistill.runs.run import run_distillation, NoCallback
from pydistill.trajectories import TrajectoryStore
from tests.helpers.blobs import blobs
from tests.helpers.small_runs import recipe

class Tell(NoCallback):
    def on_iteration(self, report):
        print(report.iteration, flush=True)

store = TrajectoryStore.open(sys.argv[1])
run_distillation(recipe(iterations=4000, checkpoint_every=7), blobs(), store, sys.argv[2], resume=True, observer=Tell())
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


def test_a_killed_run_leaves_a_whole_checkpoint(store: TrajectoryStore, tmp_path: Path) -> None:
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
    assert torch.equal(RunFolder(out).load_checkpoint()[1]["images"], undisturbed.synthetic.images.detach())


def test_ctrl_c_saves_and_tells_how_to_continue(store: TrajectoryStore, tmp_path: Path) -> None:
    out = tmp_path / "run"
    process = start(store, out)
    wait_for(process, 10)
    process.send_signal(signal.SIGINT)
    _, told = process.communicate(timeout=60)
    assert process.returncode != 0
    assert "of 4000; continue with --resume" in told
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


def test_a_folder_in_use_is_not_overwritten(store: TrajectoryStore, tmp_path: Path) -> None:
    run_distillation(recipe(iterations=1), DATA, store, tmp_path)
    with pytest.raises(InputError, match="already holds a run; continue it with --resume or choose another folder"):
        run_distillation(recipe(iterations=1), DATA, store, tmp_path)


def test_a_run_refused_at_its_start_does_not_block_the_folder(store: TrajectoryStore, tmp_path: Path) -> None:
    with pytest.raises(InputError, match="but the expert trajectories end at epoch 6"):
        run_distillation(recipe(iterations=1, max_start=9), DATA, store, tmp_path)
    run_distillation(recipe(iterations=1), DATA, store, tmp_path)
    assert json.loads((tmp_path / "config.json").read_text())["distill"]["max_start"] == 3


def test_resuming_with_other_settings_names_both_sides(store: TrajectoryStore, tmp_path: Path) -> None:
    run_distillation(recipe(iterations=1), DATA, store, tmp_path)
    with pytest.raises(MismatchError, match=r"began with distill\.steps = 3, not 4"):
        run_distillation(recipe(iterations=1, steps=4), DATA, store, tmp_path, resume=True)


@pytest.mark.parametrize("damaged", [b"", b"not a checkpoint", None])
def test_a_damaged_checkpoint(damaged: bytes | None, store: TrajectoryStore, tmp_path: Path) -> None:
    run_distillation(recipe(iterations=3), DATA, store, tmp_path)
    file = tmp_path / "checkpoint.safetensors"
    file.write_bytes(file.read_bytes()[:-100] if damaged is None else damaged)
    with pytest.raises(FormatError, match=r"checkpoint .* is damaged .* remove it to begin the run anew"):
        run_distillation(recipe(iterations=4), DATA, store, tmp_path, resume=True)


def test_a_checkpoint_that_lacks_a_part(store: TrajectoryStore, tmp_path: Path) -> None:
    run_distillation(recipe(iterations=3), DATA, store, tmp_path)
    folder = RunFolder(tmp_path)
    state, tensors = folder.load_checkpoint()
    del state["format"]
    folder.save_checkpoint(state, {name: value for name, value in tensors.items() if name != "average"})
    with pytest.raises(FormatError, match=r"it lacks 'average'.*; remove it to begin the run anew"):
        run_distillation(recipe(iterations=4), DATA, store, tmp_path, resume=True)


@pytest.mark.parametrize(
    "change",
    [
        {"distiller": []},
        {"distiller": {"iteration": "3"}},
        {"distiller": {"iteration": 3}},
        {"seconds": None},
        {"judge": {"best": 1, "last": None}},
        {"judge": {}},
    ],
)
def test_a_checkpoint_with_a_part_that_is_something_else(
    change: dict[str, Any], store: TrajectoryStore, tmp_path: Path
) -> None:
    folder = run_distillation(recipe(iterations=3), DATA, store, tmp_path).folder
    state, tensors = folder.load_checkpoint()
    del state["format"]
    folder.save_checkpoint(state | change, tensors)
    with pytest.raises(FormatError, match=r"checkpoint .* is damaged \(.*\); remove it to begin the run anew"):
        run_distillation(recipe(iterations=4), DATA, store, tmp_path, resume=True)


def test_metrics_that_are_something_else(store: TrajectoryStore, tmp_path: Path) -> None:
    run_distillation(recipe(iterations=3), DATA, store, tmp_path)
    (tmp_path / "metrics.jsonl").write_text('{"iteration": 1}\n')
    with pytest.raises(FormatError, match=r"metrics.jsonl is damaged: line 1 is no event of a run"):
        run_distillation(recipe(iterations=4), DATA, store, tmp_path, resume=True)


@pytest.mark.parametrize("line", ['{"event": "iterat', "", "\x00\x00"], ids=["torn", "empty", "zeros"])
def test_a_damaged_line_in_the_middle_of_the_metrics_hides_nothing(
    line: str, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """Only the last line, without its end, is one that a killed process was writing."""
    folder = RunFolder(tmp_path)
    whole = [json.dumps({"event": "guard", "iteration": number}) for number in (1, 2, 3)]
    folder.metrics_path.write_text("\n".join([*whole, '{"event": "gua']))
    assert [record["iteration"] for record in folder.metrics()] == [1, 2, 3]
    damaged = "\n".join([whole[0], line, *whole[1:]]) + "\n"
    folder.metrics_path.write_text(damaged)
    message = r"metrics.jsonl is damaged: line 2 is no event of a run; remove the line, or put the file back"
    for size in (None, len(damaged), 10**6):
        with pytest.raises(FormatError, match=message):
            folder.rewind_metrics(3, size)
        assert folder.metrics_path.read_text() == damaged
    assert not caplog.messages  # nothing says that the run goes on
    folder.rewind_metrics(1, len(whole[0]) + 1)
    assert [record["iteration"] for record in folder.metrics()] == [1]


def test_convexified_experts_of_other_waypoints(store: TrajectoryStore, tmp_path: Path) -> None:
    convexified = store.write_convexified(tmp_path / "convexified", waypoints=3)
    with pytest.raises(MismatchError, match=r"convexified with waypoints = \[0, 3, 6\] and this run asks for \[0, 6\]"):
        run_distillation(recipe(method="mct", waypoints=2), DATA, convexified, tmp_path / "run")
    run_distillation(recipe(method="mct"), DATA, convexified, tmp_path / "other")
    assert (tmp_path / "other" / "distilled.safetensors").exists()


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"max_start": 6}, "max_start = 6 and length M = 2 reach up to epoch 8"),
        ({"waypoints": 1}, "waypoints"),
        ({"ipc": 1000}, "ipc=1000 is above the"),
    ],
)
def test_a_refused_run_leaves_no_convexified_experts(
    settings: dict[str, Any], message: str, store: TrajectoryStore, tmp_path: Path
) -> None:
    """So that it can be given again with other settings."""
    with pytest.raises(InputError, match=message):
        run_distillation(recipe(method="mct", **settings), DATA, store, tmp_path / "run")
    assert not (tmp_path / "run").exists()


def test_starts_are_checked_before_experts_are_convexified(
    store: TrajectoryStore, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delattr(TrajectoryStore, "write_convexified")
    with pytest.raises(InputError, match="max_start = 6 and length M = 2 reach up to epoch 8"):
        run_distillation(recipe(method="mct", max_start=6), DATA, store, tmp_path / "run")


def test_a_run_draws_the_experts_of_its_store_only(store: TrajectoryStore, tmp_path: Path) -> None:
    """Convexified ones that lie in the folder, of which the store knows nothing, are no experts of the run."""
    store.write_convexified(tmp_path / "run" / "convexified", waypoints=4)
    fewer = TrajectoryStore.create(tmp_path / "fewer", store.record)
    fewer.add(1, store.recorded(1).snapshots)
    before = content(tmp_path / "run" / "convexified")
    with pytest.raises(MismatchError, match=r"holds experts that .*fewer, does not: 0, 2; remove it to convexify"):
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


@pytest.mark.parametrize(("method", "told"), [("att", True), ("mct", False)])
def test_settings_without_effect_are_told(
    method: str, told: bool, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """Waypoints are of convexified experts alone."""
    work = recipe(method=method, waypoints=3, smoothing="none", iterations=1)
    with caplog.at_level(logging.WARNING, logger="pydistill"):
        run_distillation(work, blobs(), experts(tmp_path / "experts"), tmp_path / "run")
    expected = "distill.waypoints, distill.smoothing: of no effect, since att works on recorded experts, and"
    assert (expected in caplog.text) is told
