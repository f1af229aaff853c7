"""Writing an expert: kills, full disks and other writers cost no stored expert."""

from __future__ import annotations

import math
import os
import resource
import shutil
import signal
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from pydistill._util.files import WriteError
from pydistill.errors import InputError
from pydistill.trajectories import TrajectoryStore

from .samples import record, stored, walk

ROOT = Path(__file__).parents[2]


@pytest.fixture
def store(tmp_path: Path) -> TrajectoryStore:
    """A store of three recorded experts."""
    return stored(tmp_path / "experts")


KILLED = """
import os, signal, sys
from pydistill.trajectories import TrajectoryStore
from tests.trajectories.samples import record, walk
rename = os.replace
for folder, before, number in zip(sys.argv[1::3], sys.argv[2::3], sys.argv[3::3]):
    child = os.fork()
    if child:
        status = os.waitpid(child, 0)[1]
        print(os.WTERMSIG(status))
        continue
    left = int(before)
    def killing(source, target):
        global left
        left -= 1
        if left == 0:
            os.kill(os.getpid(), signal.SIGKILL)
        rename(source, target)
    os.replace = killing
    TrajectoryStore.create(folder, record()).add(int(number), walk(seed=7))
    os._exit(0)
"""


def test_killed_writer_leaves_complete_experts(store, tmp_path):
    # Killed just before the rename of a new expert's file, of the index, and of a file that replaces an expert.
    cases = [(tmp_path / "file", 1, 3), (tmp_path / "index", 2, 3), (tmp_path / "replacing", 2, 1)]
    for folder, _, _ in cases:
        shutil.copytree(store.path, folder)
    command = [sys.executable, "-c", KILLED, *(str(word) for case in cases for word in case)]
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}
    ended = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True, check=True)
    assert ended.stdout.split() == [str(int(signal.SIGKILL))] * 3
    for folder, _, number in cases:
        opened = TrajectoryStore.open(folder)
        complete = tuple(expert for expert in (0, 1, 2) if expert != number)
        assert opened.experts == complete
        assert opened.verify() == {}
        assert list(folder.glob(".*.tmp"))
        continued = TrajectoryStore.create(folder, record())
        assert not list(folder.glob(".*.tmp"))
        continued.add(number, walk(seed=7))
        reopened = TrajectoryStore.open(folder)
        assert reopened.experts == tuple(sorted({*complete, number}))
        assert reopened.verify() == {}
        assert torch.equal(reopened[reopened.experts.index(number)].point(2), walk(seed=7)[2])


@pytest.mark.parametrize("room", [600, 2000], ids=["in the file", "in the index"])
def test_full_disk_costs_no_expert(store, room):
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (room, hard))
    try:
        with pytest.raises(WriteError, match=r"expert_0003|index"):
            store.add(3, walk(seed=3))
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    opened = TrajectoryStore.open(store.path)
    assert opened.experts == (0, 1, 2)
    assert opened.verify() == {}
    assert not list(store.path.glob(".*.tmp"))


def test_two_writers_lose_no_expert(tmp_path):
    first = TrajectoryStore.create(tmp_path, record())
    second = TrajectoryStore.create(tmp_path, record())
    first.add(5, walk(seed=5))
    second.add(0, walk(seed=0))
    first.add(3, walk(seed=3))
    opened = TrajectoryStore.open(tmp_path)
    assert opened.experts == (0, 3, 5)
    assert [number in opened for number in range(6)] == [True, False, False, True, False, True]
    for position, number in enumerate((0, 3, 5)):
        assert torch.equal(opened[position].point(1), walk(seed=number)[1])


def test_expert_can_be_replaced(store):
    before = store[1].point(3)
    store.add(1, walk(seed=9))
    assert not torch.equal(before, store[1].point(3))
    assert torch.equal(TrajectoryStore.open(store.path)[1].point(3), walk(seed=9)[3])
    assert store.verify() == {}


@pytest.mark.parametrize("arguments", [
    ((0, walk(epochs=9))),
    ((0, walk()[:, :22])),
    ((0, walk() * math.inf)),
    ((-1, walk())),
    ((0, walk(), {"test": [math.nan]})),
    ((0, walk(), {}, {"seed": object()})),
])  # fmt: skip
def test_add_refuses_bad_arguments(store, arguments):
    with pytest.raises(InputError):
        store.add(*arguments)
    assert TrajectoryStore.open(store.path).verify() == {}


def test_write_errors_name_the_folder(tmp_path):
    (tmp_path / "file").write_text("in the way")
    with pytest.raises(WriteError, match="file"):
        TrajectoryStore.create(tmp_path / "file" / "store", record())
