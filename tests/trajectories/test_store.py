"""The store returns what was added, a row at a time; kills, full disks and damage lose nothing else."""

from __future__ import annotations

import json
import math
import os
import pickle
import resource
import shutil
import signal
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from pydistill._util.files import WriteError
from pydistill.errors import FormatError, InputError, MismatchError
from pydistill.trajectories import TrajectoryStore, convexify
from pydistill.trajectories.trajectory import TensorRows

from .samples import SIZES, record, walk

ROOT = Path(__file__).parents[2]


@pytest.fixture
def store(tmp_path: Path) -> TrajectoryStore:
    """Three recorded experts, numbers 0, 1 and 2."""
    made = TrajectoryStore.create(tmp_path / "experts", record())
    for number in range(3):
        made.add(number, walk(seed=number), {"test": [0.1 * number] * 11}, {"seed": 100 + number})
    return made


def test_what_goes_in_comes_out_bit_for_bit(store):
    opened = TrajectoryStore.open(store.path)
    assert (len(opened), opened.experts, opened.kind, opened.dtype) == (3, (0, 1, 2), "recorded", "float32")
    assert (opened.end, opened.continuous) == (10, False)
    assert opened.record == record()
    for position, trajectory in enumerate(opened):
        assert trajectory.end == 10
        for epoch in range(11):
            assert torch.equal(trajectory.point(epoch), walk(seed=position)[epoch])
    assert opened.accuracies(2) == {"test": [0.2] * 11}
    assert opened.details(1) == {"seed": 101}
    assert opened.verify() == {}


def test_points_are_the_callers_own(store):
    store[0].point(3).zero_()
    assert torch.equal(store[0].point(3), walk()[3])


def test_bfloat16_halves_the_file_and_gives_float32_points(tmp_path):
    single = TrajectoryStore.create(tmp_path / "single", record(epochs=50))
    half = TrajectoryStore.create(tmp_path / "half", record(epochs=50), dtype="bfloat16")
    for made in (single, half):
        made.add(0, walk(epochs=50))
    sizes = [(made.path / "expert_0000.safetensors").stat().st_size for made in (single, half)]
    assert sizes[0] - sizes[1] == pytest.approx(51 * 23 * 2, abs=16)
    point = TrajectoryStore.open(half.path)[0].point(7)
    assert point.dtype == torch.float32
    assert torch.equal(point, walk(epochs=50)[7].bfloat16().float())


def test_float64_experts_stay_float64(tmp_path):
    made = TrajectoryStore.create(tmp_path, record(), dtype="float64")
    made.add(0, walk(dtype=torch.float64))
    assert torch.equal(made[0].point(5), walk(dtype=torch.float64)[5])


@pytest.mark.parametrize("waypoints", [2, 4, 11])
@pytest.mark.parametrize("rule", ["path", "uniform", "decreasing", "projected"])
def test_convexified_experts_bit_for_bit(store, tmp_path, waypoints, rule):
    written = store.write_convexified(tmp_path / "convex", waypoints=waypoints, fractions=rule)
    opened = TrajectoryStore.open(written.path)
    assert (opened.kind, opened.continuous, opened.end, len(opened)) == ("convexified", True, 10, 3)
    assert opened.convexification["fractions"] == rule
    for position in range(3):
        path = convexify(walk(seed=position), SIZES, waypoints=waypoints, fractions=rule)
        assert opened[position].waypoint_epochs == path.waypoint_epochs
        for t in (0, 0.3, 4, 7.9, 10):
            assert torch.equal(opened[position].point(t), path.point(t))
    assert opened.accuracies(2) == {"test": [0.2] * 11}
    assert opened.details(1)["seed"] == 101
    assert opened.verify() == {}


def test_convexifying_again_keeps_experts_and_refuses_other_settings(store, tmp_path):
    store.write_convexified(tmp_path / "convex")
    file = tmp_path / "convex" / "expert_0001.safetensors"
    before, progress = file.stat().st_mtime_ns, []
    store.write_convexified(tmp_path / "convex", on_progress=lambda done, of: progress.append((done, of)))
    assert file.stat().st_mtime_ns == before
    assert progress == [(1, 3), (2, 3), (3, 3)]
    with pytest.raises(MismatchError, match=r"convexification is .*'path'.* there and .*'uniform'.* here"):
        store.write_convexified(tmp_path / "convex", fractions="uniform")


def test_a_missing_convexified_expert_is_computed_again(store, tmp_path):
    out = store.write_convexified(tmp_path / "convex", waypoints=3)
    digest = out.digest
    (out.path / "expert_0001.safetensors").unlink()
    again = store.write_convexified(tmp_path / "convex", waypoints=3)
    assert again.digest == digest
    assert again.verify() == {}


def test_a_store_does_not_hold_an_expert_whose_file_is_gone(store):
    number = store.experts[0]
    rows, details = store.recorded(0).snapshots, store.details(0)
    kept = torch.stack([rows.row(index) for index in range(rows.shape[0])])
    assert store.holds(number, TensorRows(kept), details)
    (store.path / f"expert_{number:04d}.safetensors").unlink()
    assert not store.holds(number, TensorRows(kept), details)


def test_a_convexified_store_holds_the_experts_of_its_source_only(store, tmp_path):
    store.write_convexified(tmp_path / "convex")
    fewer = TrajectoryStore.create(tmp_path / "fewer", record())
    fewer.add(1, walk(seed=1))
    with pytest.raises(MismatchError, match="0, 2"):
        fewer.write_convexified(tmp_path / "convex")
    assert TrajectoryStore.open(tmp_path / "convex").experts == (0, 1, 2)
    fewer.add(4, walk(seed=4))
    with pytest.raises(MismatchError, match="1, 4"):
        TrajectoryStore.create(tmp_path / "none", record()).write_convexified(fewer.write_convexified(tmp_path).path)


def _peak_kib() -> int:
    status = Path("/proc/self/status").read_text()
    return int(next(line for line in status.splitlines() if line.startswith("VmHWM")).split()[1])


@pytest.mark.parametrize("kind", ["recorded", "convexified"])
def test_a_step_reads_two_rows_and_not_the_file(tmp_path, kind):
    size = 200_000
    facts = record(epochs=40, parameters=(("weight", (size,)),))
    made = TrajectoryStore.create(tmp_path / "recorded", facts)
    made.add(0, torch.rand(41, size))
    if kind == "convexified":
        made = made.write_convexified(tmp_path / "convexified", waypoints=41)
    file = made.path / "expert_0000.safetensors"
    row, whole = size * 4, file.stat().st_size
    trajectory = TrajectoryStore.open(made.path)[0]
    trajectory.point(0)
    try:
        Path("/proc/self/clear_refs").write_text("5")  # forget the peak so far
    except OSError:
        pytest.skip("this kernel does not let a process reset its peak memory")
    before = _peak_kib()
    trajectory.point(17 if kind == "recorded" else 17.5)
    trajectory.point(31)
    grown = (_peak_kib() - before) * 1024
    # Mapped row, its copy, the point, and what the allocator keeps: a few rows, never the 41 of the file.
    assert grown < 10 * row < whole / 4


def test_rows_are_checked_once_and_only_themselves(store):
    flip(store, 1, row=4)
    opened = TrajectoryStore.open(store.path)
    with pytest.raises(FormatError, match=r"expert_0001.safetensors is damaged: row 4 of 'snapshots' is not what was"):
        opened[1].point(4)
    assert torch.equal(opened[1].point(5), walk(seed=1)[5])
    for position in (0, 2):
        assert torch.equal(opened[position].point(4), walk(seed=position)[4])
    assert list(opened.verify()) == [1]
    assert opened.verify(content=False) == {}


def flip(store: TrajectoryStore, number: int, row: int) -> None:
    """Change one bit of one number of one row of an expert's file."""
    file = store.path / f"expert_{number:04d}.safetensors"
    data = bytearray(file.read_bytes())
    data[len(data) - (11 - row) * 23 * 4 + 40] ^= 1
    file.write_bytes(bytes(data))


def _truncate(file: Path) -> None:
    file.write_bytes(file.read_bytes()[:-7])


def _garble_header(file: Path) -> None:
    file.write_bytes(b"\xff" * 64 + file.read_bytes()[64:])


def _other_shape(file: Path) -> None:
    data = file.read_bytes()
    file.write_bytes(data.replace(b'"shape":[11,23]', b'"shape":[23,11]'))


@pytest.mark.parametrize(("damage", "words"), [
    (_truncate, "has 1[0-9]{3} bytes of 1[0-9]{3}; train, import or copy"),
    (lambda file: file.write_bytes(b""), "is missing or empty"),
    (Path.unlink, "is missing or empty"),
    (_garble_header, "is damaged"),
    (_other_shape, r"holds 'snapshots' as F32 \[23, 11\], but its index says F32 \[11, 23\]"),
])  # fmt: skip
def test_a_damaged_file_is_one_error_and_the_others_stay_readable(store, damage, words):
    damage(store.path / "expert_0001.safetensors")
    opened = TrajectoryStore.open(store.path)
    with pytest.raises(FormatError, match=r"expert_0001.safetensors " + words) as caught:
        opened[1]
    assert "\n" not in str(caught.value)
    assert torch.equal(opened[0].point(10), walk()[10])
    assert torch.equal(opened[2].point(10), walk(seed=2)[10])
    assert list(opened.verify(content=False)) == [1]


def test_a_file_damaged_after_it_was_opened_is_noticed(store):
    trajectory = store[1]
    (store.path / "expert_0001.safetensors").write_bytes(b"short")
    with pytest.raises(FormatError):
        trajectory.point(3)
    with pytest.raises(FormatError, match="has 5 bytes"):
        store[1]


def test_experts_swapped_by_hand_are_noticed(store):
    shutil.copyfile(store.path / "expert_0000.safetensors", store.path / "expert_0002.safetensors")
    opened = TrajectoryStore.open(store.path)
    with pytest.raises(FormatError, match=r"expert_0002.safetensors is damaged: row 3"):
        opened[2].point(3)


def test_damaged_fractions_are_noticed(store, tmp_path):
    convex = store.write_convexified(tmp_path / "convex")
    file = convex.path / "expert_0000.safetensors"
    data = bytearray(file.read_bytes())
    start = 8 + int.from_bytes(data[:8], "little")
    header = json.loads(data[8:start])
    data[start + header["fractions"]["data_offsets"][0] + 100] ^= 1
    file.write_bytes(bytes(data))
    with pytest.raises(FormatError, match="'fractions' is not what was written"):
        TrajectoryStore.open(convex.path)[0]


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


def test_a_killed_run_leaves_whole_experts_and_continues_after_them(store, tmp_path):
    # Killed just before a rename: of the new expert's file, of the index, and of a file that replaces another.
    cases = [(tmp_path / "file", 1, 3), (tmp_path / "index", 2, 3), (tmp_path / "replacing", 2, 1)]
    for folder, _, _ in cases:
        shutil.copytree(store.path, folder)
    command = [sys.executable, "-c", KILLED, *(str(word) for case in cases for word in case)]
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}
    ended = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True, check=True)
    assert ended.stdout.split() == [str(int(signal.SIGKILL))] * 3
    for folder, _, number in cases:
        opened = TrajectoryStore.open(folder)
        whole = tuple(kept for kept in (0, 1, 2) if kept != number)
        assert opened.experts == whole
        assert opened.verify() == {}
        assert list(folder.glob(".*.tmp"))
        continued = TrajectoryStore.create(folder, record())
        assert not list(folder.glob(".*.tmp"))
        continued.add(number, walk(seed=7))
        reopened = TrajectoryStore.open(folder)
        assert reopened.experts == tuple(sorted({*whole, number}))
        assert reopened.verify() == {}
        assert torch.equal(reopened[reopened.experts.index(number)].point(2), walk(seed=7)[2])


@pytest.mark.parametrize("room", [600, 2000], ids=["in the file", "in the index"])
def test_a_full_disk_is_one_error_and_costs_no_expert(store, room):
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (room, hard))
    try:
        with pytest.raises(WriteError, match=r"cannot write .*(expert_0003|index)"):
            store.add(3, walk(seed=3))
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    opened = TrajectoryStore.open(store.path)
    assert opened.experts == (0, 1, 2)
    assert opened.verify() == {}
    assert not list(store.path.glob(".*.tmp"))


def test_two_writers_of_one_store_lose_nothing(tmp_path):
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


def test_an_expert_can_be_replaced(store):
    before = store[1].point(3)
    store.add(1, walk(seed=9))
    assert not torch.equal(before, store[1].point(3))
    assert torch.equal(TrajectoryStore.open(store.path)[1].point(3), walk(seed=9)[3])
    assert store.verify() == {}


def test_creating_again_continues_the_same_store(store):
    assert len(TrajectoryStore.create(store.path, record())) == 3
    # What JSON turns into lists is still the same record.
    other = TrajectoryStore.create(store.path / "inner", record(training={"betas": (0.9, 0.99)}))
    assert TrajectoryStore.create(other.path, record(training={"betas": (0.9, 0.99)})).record.training == {
        "betas": [0.9, 0.99]
    }


@pytest.mark.parametrize(("change", "options", "words"), [
    ({"training": {"lr": 0.5}}, {}, r"training is .*0.01.* for the store at .* and .*0.5.* for this run"),
    ({"dataset": "svhn"}, {}, "dataset is digits for the store at .* and svhn for this run"),
    ({}, {"dtype": "bfloat16"}, "dtype is float32 there and bfloat16 here"),
    ({}, {"kind": "convexified"}, "kind is recorded there and convexified here"),
])  # fmt: skip
def test_creating_over_other_experts_is_refused(store, change, options, words):
    with pytest.raises(MismatchError, match=words):
        TrajectoryStore.create(store.path, record(**change), **options)
    assert len(TrajectoryStore.open(store.path)) == 3


@pytest.mark.parametrize(("change", "options"), [
    ({}, {"kind": "other"}),
    ({}, {"dtype": "int8"}),
    ({"epochs": 0}, {}),
    ({"training": {"lr": math.nan}}, {}),
    ({"training": {"model": object()}}, {}),
])  # fmt: skip
def test_creating_with_bad_arguments(tmp_path, change, options):
    with pytest.raises(InputError):
        TrajectoryStore.create(tmp_path / "new", record(**change), **options)
    assert not (tmp_path / "new").exists()


@pytest.mark.parametrize("arguments", [
    ((0, walk(epochs=9))),
    ((0, walk()[:, :22])),
    ((0, walk() * math.inf)),
    ((-1, walk())),
    ((0, walk(), {"test": [math.nan]})),
    ((0, walk(), {}, {"seed": object()})),
])  # fmt: skip
def test_adding_with_bad_arguments(store, arguments):
    with pytest.raises(InputError):
        store.add(*arguments)
    assert TrajectoryStore.open(store.path).verify() == {}


def test_an_expert_that_was_replaced_is_convexified_again(store, tmp_path):
    store.write_convexified(tmp_path / "convex")
    before = store.digest
    store.add(1, walk(seed=9))
    assert store.digest != before
    again = store.write_convexified(tmp_path / "convex")
    for position, seed in enumerate((0, 9, 2)):
        assert torch.equal(again[position].point(5), convexify(walk(seed=seed), SIZES).point(5))


def test_each_kind_of_expert_has_its_kind_of_store(store, tmp_path):
    convex = store.write_convexified(tmp_path / "convex")
    with pytest.raises(InputError):
        convex.add(0, walk())
    with pytest.raises(InputError):
        store.add_convexified(0, convex.convexified(0))
    with pytest.raises(InputError):
        convex.write_convexified(tmp_path / "again")
    with pytest.raises(InputError):
        convex.recorded(0)
    with pytest.raises(InputError):
        store.convexified(0)
    with pytest.raises(InputError):
        convex.add_convexified(0, convexify(walk(epochs=4), SIZES))


@pytest.mark.parametrize("position", [-1, 3])
def test_positions_that_do_not_exist(store, position):
    with pytest.raises(InputError, match=f"position = {position} must be 0 or more and below 3"):
        store[position]


def test_a_folder_without_a_store(tmp_path):
    with pytest.raises(InputError):
        TrajectoryStore.open(tmp_path / "nothing")
    with pytest.raises(InputError):
        TrajectoryStore.open(tmp_path / ("x" * 300))
    with pytest.raises(InputError):
        TrajectoryStore.open(tmp_path)


def test_a_store_can_be_sent_to_another_process(store):
    store[0].point(0)
    copy = pickle.loads(pickle.dumps(store))
    assert torch.equal(copy[2].point(8), walk(seed=2)[8])


def test_write_errors_name_the_folder(tmp_path):
    (tmp_path / "file").write_text("in the way")
    with pytest.raises(WriteError, match=r"cannot write in .*file"):
        TrajectoryStore.create(tmp_path / "file" / "store", record())
