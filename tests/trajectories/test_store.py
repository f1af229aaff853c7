"""A trajectory store returns its experts bit for bit, reads single rows, and reports damage."""

from __future__ import annotations

import json
import math
import pickle
import shutil
from pathlib import Path

import pytest
import torch

from pydistill.errors import FormatError, InputError, MismatchError
from pydistill.trajectories import TrajectoryStore, convexify
from pydistill.trajectories.trajectory import TensorRows

from .samples import SIZES, record, stored, walk


@pytest.fixture
def store(tmp_path: Path) -> TrajectoryStore:
    """A store of three recorded experts."""
    return stored(tmp_path / "experts")


def test_recorded_experts_round_trip_bit_for_bit(store):
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


def test_points_are_copies(store):
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
def test_convexified_experts_round_trip_bit_for_bit(store, tmp_path, waypoints, rule):
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


def test_convexifying_again_reuses_experts_and_refuses_other_settings(store, tmp_path):
    store.write_convexified(tmp_path / "convex")
    file = tmp_path / "convex" / "expert_0001.safetensors"
    before, progress = file.stat().st_mtime_ns, []
    store.write_convexified(tmp_path / "convex", on_progress=lambda done, of: progress.append((done, of)))
    assert file.stat().st_mtime_ns == before
    assert progress == [(1, 3), (2, 3), (3, 3)]
    with pytest.raises(MismatchError, match="convexification"):
        store.write_convexified(tmp_path / "convex", fractions="uniform")


def test_missing_convexified_expert_is_recomputed(store, tmp_path):
    out = store.write_convexified(tmp_path / "convex", waypoints=3)
    digest = out.digest
    (out.path / "expert_0001.safetensors").unlink()
    again = store.write_convexified(tmp_path / "convex", waypoints=3)
    assert again.digest == digest
    assert again.verify() == {}


def test_holds_is_false_if_the_file_is_missing(store):
    number = store.experts[0]
    rows, details = store.recorded(0).snapshots, store.details(0)
    snapshots = torch.stack([rows.row(index) for index in range(rows.shape[0])])
    assert store.holds(number, TensorRows(snapshots), details)
    (store.path / f"expert_{number:04d}.safetensors").unlink()
    assert not store.holds(number, TensorRows(snapshots), details)


def test_convexified_store_with_experts_of_another_source_is_refused(store, tmp_path):
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
def test_reading_a_point_does_not_load_the_file(tmp_path, kind):
    size = 200_000
    facts = record(epochs=40, parameters=(("weight", (size,)),))
    made = TrajectoryStore.create(tmp_path / "recorded", facts)
    made.add(0, torch.rand(41, size))
    if kind == "convexified":
        made = made.write_convexified(tmp_path / "convexified", waypoints=41)
    file = made.path / "expert_0000.safetensors"
    row, total = size * 4, file.stat().st_size
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
    # The mapped row, its copy, the point and the allocator's reserve are a few rows, not the 41 of the file.
    assert grown < 10 * row < total / 4


def test_damaged_row_leaves_other_rows_readable(store):
    flip(store, 1, row=4)
    opened = TrajectoryStore.open(store.path)
    with pytest.raises(FormatError, match=r"expert_0001.safetensors.* row 4 of 'snapshots'"):
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


@pytest.mark.parametrize(
    "damage", [_truncate, lambda file: file.write_bytes(b""), Path.unlink, _garble_header, _other_shape]
)
def test_damaged_file_leaves_other_experts_readable(store, damage):
    damage(store.path / "expert_0001.safetensors")
    opened = TrajectoryStore.open(store.path)
    with pytest.raises(FormatError, match=r"expert_0001\.safetensors") as caught:
        opened[1]
    assert "\n" not in str(caught.value)
    assert torch.equal(opened[0].point(10), walk()[10])
    assert torch.equal(opened[2].point(10), walk(seed=2)[10])
    assert list(opened.verify(content=False)) == [1]


def test_file_damaged_after_opening_is_detected(store):
    trajectory = store[1]
    (store.path / "expert_0001.safetensors").write_bytes(b"short")
    with pytest.raises(FormatError):
        trajectory.point(3)
    with pytest.raises(FormatError, match="5 bytes"):
        store[1]


def test_swapped_expert_files_are_detected(store):
    shutil.copyfile(store.path / "expert_0000.safetensors", store.path / "expert_0002.safetensors")
    opened = TrajectoryStore.open(store.path)
    with pytest.raises(FormatError, match=r"expert_0002.safetensors.* row 3"):
        opened[2].point(3)


def test_damaged_fractions_are_detected(store, tmp_path):
    convex = store.write_convexified(tmp_path / "convex")
    file = convex.path / "expert_0000.safetensors"
    data = bytearray(file.read_bytes())
    start = 8 + int.from_bytes(data[:8], "little")
    header = json.loads(data[8:start])
    data[start + header["fractions"]["data_offsets"][0] + 100] ^= 1
    file.write_bytes(bytes(data))
    with pytest.raises(FormatError, match="'fractions'"):
        TrajectoryStore.open(convex.path)[0]


def test_create_opens_an_existing_store(store):
    assert len(TrajectoryStore.create(store.path, record())) == 3
    # JSON turns the tuple into a list; the record still matches.
    other = TrajectoryStore.create(store.path / "inner", record(training={"betas": (0.9, 0.99)}))
    assert TrajectoryStore.create(other.path, record(training={"betas": (0.9, 0.99)})).record.training == {
        "betas": [0.9, 0.99]
    }


@pytest.mark.parametrize(("change", "options", "name"), [
    ({"training": {"lr": 0.5}}, {}, "training"),
    ({"dataset": "svhn"}, {}, "dataset"),
    ({}, {"dtype": "bfloat16"}, "dtype"),
    ({}, {"kind": "convexified"}, "kind"),
])  # fmt: skip
def test_create_refuses_a_store_of_other_experts(store, change, options, name):
    with pytest.raises(MismatchError, match=name):
        TrajectoryStore.create(store.path, record(**change), **options)
    assert len(TrajectoryStore.open(store.path)) == 3


@pytest.mark.parametrize(("change", "options"), [
    ({}, {"kind": "other"}),
    ({}, {"dtype": "int8"}),
    ({"epochs": 0}, {}),
    ({"training": {"lr": math.nan}}, {}),
    ({"training": {"model": object()}}, {}),
])  # fmt: skip
def test_create_refuses_bad_arguments(tmp_path, change, options):
    with pytest.raises(InputError):
        TrajectoryStore.create(tmp_path / "new", record(**change), **options)
    assert not (tmp_path / "new").exists()


def test_replaced_expert_is_convexified_again(store, tmp_path):
    store.write_convexified(tmp_path / "convex")
    before = store.digest
    store.add(1, walk(seed=9))
    assert store.digest != before
    again = store.write_convexified(tmp_path / "convex")
    for position, seed in enumerate((0, 9, 2)):
        assert torch.equal(again[position].point(5), convexify(walk(seed=seed), SIZES).point(5))


def test_recorded_and_convexified_stores_do_not_mix(store, tmp_path):
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
def test_position_out_of_range(store, position):
    with pytest.raises(InputError, match=f"position = {position}"):
        store[position]


def test_folder_without_a_store(tmp_path):
    with pytest.raises(InputError):
        TrajectoryStore.open(tmp_path / "missing")
    with pytest.raises(InputError):
        TrajectoryStore.open(tmp_path / ("x" * 300))
    with pytest.raises(InputError):
        TrajectoryStore.open(tmp_path)


def test_store_can_be_pickled(store):
    store[0].point(0)
    copy = pickle.loads(pickle.dumps(store))
    assert torch.equal(copy[2].point(8), walk(seed=2)[8])
