"""Experts: what is recorded, and that a killed run continues as if it had not been."""

from __future__ import annotations

import os
import random
import signal
import subprocess
import sys
from collections.abc import Callable
from dataclasses import replace
from functools import partial
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from torch import nn
from torch.autograd.function import once_differentiable

from pydistill._util.files import WriteError
from pydistill.data.dsa import DsaSettings
from pydistill.errors import DivergedError, FormatError, InputError, Interrupted, MismatchError
from pydistill.nn import ConvNet, ModelSettings, build, flatten, parse, unflatten
from pydistill.recipes.recipe import Recipe
from pydistill.runs.plan import plan
from pydistill.runs.run import run_distillation
from pydistill.training.experts import ExpertSettings, check_disk, experts_record, train_experts
from pydistill.training.train import TrainingSettings, accuracy, derive_seed, train
from pydistill.trajectories import TrajectoryStore
from tests.helpers.blobs import blobs
from tests.helpers.unprivileged import as_unprivileged_user

DATA = blobs()
STUDENT = parse("convnet2-w4")
TRAINING = TrainingSettings(epochs=3, batch_size=20, lr=0.1, dsa=DsaSettings())
SETTINGS = ExpertSettings(count=3, seed=7, training=TRAINING)
ROOT = Path(__file__).parents[2]


def points(store: TrajectoryStore, position: int) -> torch.Tensor:
    trajectory = store[position]
    return torch.stack([trajectory.point(epoch) for epoch in range(int(trajectory.end) + 1)])


def test_a_network_that_does_not_fit_is_refused_before_a_folder_is_written(tmp_path: Path) -> None:
    def own(channels: int, classes: int, size: tuple[int, int]) -> nn.Module:
        return nn.Sequential(nn.Flatten(), nn.Linear(64, classes + 1))

    with pytest.raises(InputError, match=r"logits \[2, 4\]"):
        train_experts(DATA, own, SETTINGS, tmp_path / "experts")
    assert not (tmp_path / "experts").exists()


class Rounded(torch.autograd.Function):
    """Rounding with a straight-through gradient that loses its graph."""

    @staticmethod
    def forward(ctx: Any, x: torch.Tensor) -> torch.Tensor:
        return x.round()

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: torch.Tensor) -> torch.Tensor:
        return 2 * grad


class NoStudent(nn.Module):
    def __init__(self, channels: int, classes: int, plane: tuple[int, int], fault: str) -> None:
        super().__init__()
        self.layers = nn.Sequential(nn.Flatten(), nn.Linear(channels * plane[0] * plane[1], classes))
        self.fault = fault

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        if self.fault == "random":
            images = images + random.random()
        logits: torch.Tensor = self.layers(images)
        return Rounded.apply(logits) if self.fault == "rounded" else logits


rounding_network = partial(NoStudent, fault="rounded")
random_network = partial(NoStudent, fault="random")


@pytest.mark.parametrize(("network", "message"), [("rounding_network", "Rounded"), ("random_network", "second time")])
def test_a_network_that_cannot_be_a_student_is_refused_before_experts_are_trained(
    network: str, message: str, tmp_path: Path
) -> None:
    model = ModelSettings(f"{__name__}:{network}")
    recipe = Recipe(model=model, expert=SETTINGS)
    with pytest.raises(InputError, match=message):
        train_experts(DATA, model, SETTINGS, tmp_path / "experts")
    with pytest.raises(InputError, match=message):
        plan(recipe)
    store = train_experts(DATA, STUDENT, SETTINGS, tmp_path / "of another network")
    with pytest.raises(InputError, match=message):
        run_distillation(recipe, DATA, store, tmp_path / "run")
    assert os.listdir(tmp_path) == ["of another network"]


def test_defaults_are_the_published_recipe() -> None:
    training = ExpertSettings().training
    assert (training.epochs, training.batch_size, training.lr) == (50, 256, 0.01)
    assert (training.momentum, training.weight_decay, training.schedule) == (0, 0, "constant")
    assert training.dsa == DsaSettings()


def test_records_every_epoch_from_the_initialisation_on(tmp_path: Path) -> None:
    seen: list[tuple[int, int, float, float, float]] = []
    store = train_experts(DATA, STUDENT, SETTINGS, tmp_path, on_progress=lambda *report: seen.append(report))
    assert len(store) == 3
    seed = derive_seed("expert", 7, 1)
    network = build(STUDENT, 1, 4, 8, seed=seed)
    rows = [flatten(network)]
    train(
        network,
        DATA.train_images,
        DATA.train_labels,
        TRAINING,
        generator=torch.Generator().manual_seed(seed),
        on_epoch=lambda *_: rows.append(flatten(network)),
    )
    assert torch.equal(points(store, 1), torch.stack(rows))
    assert [report[:2] for report in seen] == [(expert, epoch) for expert in range(3) for epoch in (1, 2, 3)]


def test_accuracies_are_those_of_the_recorded_parameters(tmp_path: Path) -> None:
    seen: list[tuple[int, int, float, float, float]] = []
    store = train_experts(DATA, STUDENT, SETTINGS, tmp_path, on_progress=lambda *report: seen.append(report))
    stored = TrajectoryStore.open(tmp_path).accuracies(2)
    network = ConvNet(1, 4, 8, width=4, depth=2)
    actual = []
    for row in points(store, 2):
        unflatten(network, row)
        actual.append(accuracy(network, DATA.test_images, DATA.test_labels))
    assert stored["test"] == actual
    unflatten(network, points(store, 2)[0])
    assert stored["train"][0] == accuracy(network, DATA.train_images, DATA.train_labels)
    assert stored["train"][1:] == [report[3] for report in seen if report[0] == 2]
    assert stored["test"][1:] == [report[4] for report in seen if report[0] == 2]


def test_experts_learn(tmp_path: Path) -> None:
    settings = ExpertSettings(count=1, training=TrainingSettings(epochs=30, batch_size=16, lr=0.1, dsa=None))
    train_experts(DATA, STUDENT, settings, tmp_path)
    test = TrajectoryStore.open(tmp_path).accuracies(0)["test"]
    assert test[-1] > 0.95 > test[0]


def test_an_expert_does_not_depend_on_the_others_nor_on_the_global_state(tmp_path: Path) -> None:
    torch.manual_seed(3)
    state = torch.get_rng_state()
    three = train_experts(DATA, STUDENT, SETTINGS, tmp_path / "three")
    assert torch.equal(torch.get_rng_state(), state)
    torch.manual_seed(4)
    two = train_experts(DATA, STUDENT, replace(SETTINGS, count=2), tmp_path / "two")
    for position in range(2):
        assert torch.equal(points(three, position), points(two, position))
    assert not torch.equal(points(three, 0), points(three, 1))
    other = train_experts(DATA, STUDENT, replace(SETTINGS, count=1, seed=8), tmp_path / "other")
    assert not torch.equal(points(other, 0), points(three, 0))


KILLED = """
import os, signal, sys
from pathlib import Path
from tests.training.test_experts import DATA, SETTINGS, STUDENT, train_experts

def on_progress(expert, epoch, *_):
    if (expert, epoch) == (1, 2):
        os.kill(os.getpid(), signal.SIGKILL)

train_experts(DATA, STUDENT, SETTINGS, Path(sys.argv[1]), on_progress=on_progress)
"""


def test_a_killed_run_continues_as_if_it_had_not_been(tmp_path: Path) -> None:
    killed = subprocess.run([sys.executable, "-c", KILLED, str(tmp_path / "killed")], cwd=ROOT, check=False)
    assert killed.returncode == -signal.SIGKILL
    assert len(TrajectoryStore.open(tmp_path / "killed")) == 1
    before = (tmp_path / "killed" / "expert_0000.safetensors").stat()
    trained: set[int] = set()
    train_experts(DATA, STUDENT, SETTINGS, tmp_path / "killed", on_progress=lambda expert, *_: trained.add(expert))
    assert trained == {1, 2}
    after = (tmp_path / "killed" / "expert_0000.safetensors").stat()
    assert (after.st_ino, after.st_mtime_ns) == (before.st_ino, before.st_mtime_ns)
    train_experts(DATA, STUDENT, SETTINGS, tmp_path / "whole")
    resumed, complete = TrajectoryStore.open(tmp_path / "killed"), TrajectoryStore.open(tmp_path / "whole")
    assert resumed.experts == complete.experts == (0, 1, 2)
    assert resumed.record == complete.record
    for position in range(3):
        assert torch.equal(points(resumed, position), points(complete, position))
        assert resumed.accuracies(position) == complete.accuracies(position)
        assert resumed.details(position) == complete.details(position)


def test_more_experts_are_added_to_those_there(tmp_path: Path) -> None:
    train_experts(DATA, STUDENT, replace(SETTINGS, count=1), tmp_path)
    trained: set[int] = set()
    store = train_experts(DATA, STUDENT, SETTINGS, tmp_path, on_progress=lambda expert, *_: trained.add(expert))
    assert trained == {1, 2}
    assert len(store) == 3
    assert len(train_experts(DATA, STUDENT, replace(SETTINGS, count=1), tmp_path)) == 3


def _remove(file: Path) -> None:
    file.unlink()


def _cut(file: Path) -> None:
    file.write_bytes(file.read_bytes()[:-1000])


def _empty(file: Path) -> None:
    file.write_bytes(b"")


def _garble_the_header(file: Path) -> None:
    file.write_bytes(b"x" * 12 + file.read_bytes()[12:])


@pytest.mark.parametrize("damage", [_remove, _cut, _empty, _garble_the_header])
@pytest.mark.parametrize("count", [1, 3])
def test_an_expert_whose_file_is_gone_or_damaged_is_trained_again(
    count: int, damage: Callable[[Path], None], tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    digest = train_experts(DATA, STUDENT, SETTINGS, tmp_path).digest
    damage(tmp_path / "expert_0001.safetensors")
    others = [tmp_path / f"expert_000{number}.safetensors" for number in (0, 2)]
    before = [(file.stat().st_ino, file.stat().st_mtime_ns) for file in others]
    trained: set[int] = set()
    needed = replace(SETTINGS, count=count)
    store = train_experts(DATA, STUDENT, needed, tmp_path, on_progress=lambda expert, *_: trained.add(expert))
    assert trained == {1}
    (message,) = caplog.messages
    assert str(tmp_path / "expert_0001.safetensors") in message
    assert before == [(file.stat().st_ino, file.stat().st_mtime_ns) for file in others]
    assert store.digest == TrajectoryStore.open(tmp_path).digest == digest
    assert store.verify() == {}


def test_several_missing_files_are_reported_in_one_line(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    digest = train_experts(DATA, STUDENT, SETTINGS, tmp_path).digest
    for number in range(3):
        _remove(tmp_path / f"expert_000{number}.safetensors")
    assert train_experts(DATA, STUDENT, SETTINGS, tmp_path).digest == digest
    (message,) = caplog.messages
    assert message.startswith(f"3 files in {tmp_path}")
    assert all(f"expert_000{number}.safetensors" in message for number in range(3))


def test_an_expert_that_may_not_be_read_is_not_trained_again(open_folder: Path) -> None:
    """It may be whole: as where a group shares a folder, and one file is its owner's alone."""
    out = open_folder / "experts"
    train_experts(DATA, STUDENT, SETTINGS, out)
    for path in (out, *out.iterdir()):
        if os.geteuid() == 0:
            os.chown(path, 65534, 65534)
    file = out / "expert_0001.safetensors"
    file.chmod(0)
    before = file.stat()
    with as_unprivileged_user(), pytest.raises(FormatError, match="expert_0001"):
        train_experts(DATA, STUDENT, SETTINGS, out)
    assert file.stat().st_ino == before.st_ino


def test_ctrl_c_while_a_damaged_expert_is_trained_again(tmp_path: Path) -> None:
    digest = train_experts(DATA, STUDENT, SETTINGS, tmp_path).digest
    _cut(tmp_path / "expert_0002.safetensors")

    def interrupt(*_: float) -> None:
        raise KeyboardInterrupt

    with pytest.raises(Interrupted, match="expert 3 of 3"):
        train_experts(DATA, STUDENT, replace(SETTINGS, count=1), tmp_path, on_progress=interrupt)
    assert set(TrajectoryStore.open(tmp_path).verify()) == {2}
    assert train_experts(DATA, STUDENT, SETTINGS, tmp_path).digest == digest
    with pytest.raises(Interrupted, match="expert 1 of 3"):
        train_experts(DATA, STUDENT, SETTINGS, tmp_path / "new", on_progress=interrupt)


def test_a_damaged_expert_needs_its_room_on_the_disk_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    train_experts(DATA, STUDENT, SETTINGS, tmp_path)
    monkeypatch.setattr("shutil.disk_usage", lambda _: SimpleNamespace(total=10**9, free=1))
    check_disk(DATA, STUDENT, SETTINGS, tmp_path, "make room")
    _cut(tmp_path / "expert_0002.safetensors")
    with pytest.raises(WriteError, match="1 expert"):
        check_disk(DATA, STUDENT, SETTINGS, tmp_path, "make room")


def test_experts_without_their_index_are_not_written_over(tmp_path: Path) -> None:
    train_experts(DATA, STUDENT, SETTINGS, tmp_path)
    index = (tmp_path / "index.json").read_text()
    (tmp_path / "index.json").unlink()
    before = {file: (file.stat().st_ino, file.stat().st_mtime_ns) for file in tmp_path.glob("expert_*")}
    with pytest.raises(InputError, match="index"):
        train_experts(DATA, STUDENT, replace(SETTINGS, count=1), tmp_path)
    assert not (tmp_path / "index.json").exists()
    assert before == {file: (file.stat().st_ino, file.stat().st_mtime_ns) for file in tmp_path.glob("expert_*")}
    (tmp_path / "index.json").write_text(index)
    assert len(train_experts(DATA, STUDENT, SETTINGS, tmp_path)) == 3


def test_other_experts_in_the_folder_are_refused(tmp_path: Path) -> None:
    train_experts(DATA, STUDENT, replace(SETTINGS, count=1), tmp_path)
    with pytest.raises(MismatchError, match="architecture"):
        train_experts(DATA, parse("convnet2-w8"), SETTINGS, tmp_path)
    with pytest.raises(MismatchError, match=r"0\.1.*0\.2"):
        train_experts(DATA, STUDENT, replace(SETTINGS, training=replace(TRAINING, lr=0.2)), tmp_path)
    with pytest.raises(MismatchError, match=r"seed.*7.*8"):
        train_experts(DATA, STUDENT, replace(SETTINGS, seed=8), tmp_path)
    with pytest.raises(MismatchError, match="dataset digest"):
        train_experts(blobs(seed=1), STUDENT, SETTINGS, tmp_path)
    assert len(TrajectoryStore.open(tmp_path)) == 1


def test_a_diverging_expert_names_itself_and_the_lr(tmp_path: Path) -> None:
    settings = replace(SETTINGS, training=replace(TRAINING, epochs=40, lr=1e30))
    with pytest.raises(DivergedError, match="expert 0"):
        train_experts(DATA, STUDENT, settings, tmp_path)
    assert len(TrajectoryStore.open(tmp_path)) == 0


def test_running_statistics_are_refused(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"features\.1"):
        train_experts(DATA, parse("convnet2-w4-bn"), SETTINGS, tmp_path / "store")
    assert not (tmp_path / "store").exists()


def own_network(in_channels: int, num_classes: int, image_size: tuple[int, int]) -> nn.Module:
    """A user's own network: one linear layer."""
    return nn.Sequential(nn.Flatten(), nn.Linear(in_channels * image_size[0] * image_size[1], num_classes))


def test_a_network_of_ones_own(tmp_path: Path) -> None:
    store = train_experts(DATA, own_network, replace(SETTINGS, count=1), tmp_path)
    assert store.record.architecture == f"{__name__}:own_network"
    assert store.record.parameters == (("1.weight", (4, 64)), ("1.bias", (4,)))


def test_the_record_says_what_the_experts_are() -> None:
    record = experts_record(DATA, STUDENT, SETTINGS)
    assert record.architecture.startswith("convnet(width=4, depth=2, norm=instance")
    assert record.parameters[0] == ("features.0.weight", (4, 1, 3, 3))
    assert (record.dataset, record.dataset_digest) == ("blobs", DATA.digest)
    assert record.preprocessing == DATA.preprocessing.fingerprint
    assert (record.in_channels, record.num_classes, record.image_size) == (1, 4, (8, 8))
    assert (record.epochs, record.training["lr"], record.training["seed"]) == (3, 0.1, 7)
    assert record.training["dsa"]["strategy"] == "color_crop_cutout_flip_scale_rotate"


def test_count_below_one() -> None:
    with pytest.raises(InputError, match="count"):
        ExpertSettings(count=0)
