"""MCT's files: exact round trips; files that contradict one another or miss their partner are refused."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from pydistill.errors import FormatError, InputError
from pydistill.trajectories import (
    TrajectoryStore,
    convexify,
    export_mct,
    import_mct,
)
from pydistill.trajectories.formats.mct import partner
from tests.trajectories.formats.files import mct_nested, same, write_mct
from tests.trajectories.samples import SIZES, record, walk


def test_changed_fractions_are_imported_again(tmp_path):
    file = write_mct(tmp_path / "mct", 4, "_ip4")
    before = import_mct(file, tmp_path / "store", record()).digest
    steps = torch.load(partner(file), weights_only=True)
    steps[1][0][1][0] = steps[1][0][1][0] / 2
    torch.save(steps, partner(file))
    after = import_mct(file, tmp_path / "store", record())
    assert after.digest != before
    assert after.digest == import_mct(file, tmp_path / "new", record()).digest


@pytest.mark.parametrize(("waypoints", "tag", "rule"), [
    (4, "_ip4", "path"), (3, "_ip3", "path"), (2, "", "path"), (2, "_uni", "uniform"), (2, "_dec", "decreasing"),
    (2, "_proj", "projected"),
])  # fmt: skip
def test_mct_round_trip_is_exact(tmp_path, waypoints, tag, rule):
    file = write_mct(tmp_path / "mct", waypoints, tag)
    store = import_mct(tmp_path / "mct", tmp_path / "store", record())
    assert (len(store), store.kind, store.convexification["fractions"]) == (2, "convexified", rule)
    expected = convexify(walk(seed=1), SIZES, waypoints=waypoints)
    assert store.convexified(1).waypoint_epochs == expected.waypoint_epochs
    for t in (0, 0.5, 4, 6.2, 9.99, 10):
        torch.testing.assert_close(store[1].point(t), expected.point(t), rtol=1e-6, atol=1e-6)
    for epoch in expected.waypoint_epochs:
        assert torch.equal(store[1].point(epoch), expected.point(epoch))
    (out,) = export_mct(store, tmp_path / "out")
    assert out.name == file.name
    for name in (file.name, file.name.replace("waypoint", "step")):
        before, after = (torch.load(tmp_path / folder / name, weights_only=True) for folder in ("mct", "out"))
        assert same(before, after)


def test_mct_fractions_are_imported_unchanged(tmp_path):
    # Unlike ours, MCT's decreasing fractions begin above 0, and those of a tensor that never moves end at 0.
    points, steps = mct_nested(walk(), 2)
    for row in steps:
        row[1] = torch.tensor(0.0)
    steps[0] = [torch.tensor(0.125) for _ in steps[0]]
    torch.save([points], tmp_path / "waypoint_buffer_dec_0.pt")
    torch.save([steps], tmp_path / "step_buffer_dec_0.pt")
    store = import_mct(tmp_path, tmp_path / "store", record())
    start, end = walk()[0], walk()[10]
    torch.testing.assert_close(store[0].point(0), start + 0.125 * (end - start))
    assert torch.equal(store[0].point(10)[6:8], start[6:8])
    assert torch.equal(store[0].point(10)[8:], end[8:])


def test_fractions_are_exported_in_float32(tmp_path):
    recorded = TrajectoryStore.create(tmp_path / "recorded", record())
    recorded.add(0, walk())
    convex = recorded.write_convexified(tmp_path / "convex")
    export_mct(convex, tmp_path / "out")
    back = import_mct(tmp_path / "out", tmp_path / "back", record())
    for i in range(4):
        assert torch.equal(back.convexified(0).waypoints.row(i), convex.convexified(0).waypoints.row(i))
    assert torch.equal(back.convexified(0).fractions, convex.convexified(0).fractions.float().double())


def _no_partner(folder: Path) -> None:
    (folder / "step_buffer_ip4_0.pt").unlink()


def _other_partner(folder: Path) -> None:
    torch.save([mct_nested(walk(), 4)[1]], folder / "step_buffer_ip4_0.pt")


def _fewer_segments(folder: Path) -> None:
    torch.save([mct_nested(walk(), 3)[1]] * 2, folder / "step_buffer_ip4_0.pt")


def _fewer_tensors(folder: Path) -> None:
    steps = [[[row[:3] for row in piece] for piece in mct_nested(walk(), 4)[1]]] * 2
    torch.save(steps, folder / "step_buffer_ip4_0.pt")


def _nan_fraction(folder: Path) -> None:
    steps = mct_nested(walk(), 4)[1]
    steps[1][2][0] = torch.tensor(float("nan"))
    torch.save([steps] * 2, folder / "step_buffer_ip4_0.pt")


def _short_segment(folder: Path) -> None:
    steps = mct_nested(walk(), 4)[1]
    torch.save([[steps[0], steps[1][:1], steps[2]]] * 2, folder / "step_buffer_ip4_0.pt")


def _other_epochs(folder: Path) -> None:
    steps = [mct_nested(walk(seed=seed), 4)[1] for seed in range(2)]
    steps[1] = [steps[1][0] + steps[1][1][1:2], steps[1][1][1:], steps[1][2]]
    torch.save(steps, folder / "step_buffer_ip4_0.pt")


@pytest.mark.parametrize(("damage", "words"), [
    (_other_partner, "holds 2 experts and its partner step_buffer_ip4_0.pt 1"),
    (_fewer_segments, "expert 0 has 4 waypoints and fractions for 2 segments"),
    (_fewer_tensors, "fractions of segment 0 are not one number for each of 4 parameter tensors"),
    (_nan_fraction, "fractions of segment 1 hold NaN or infinity"),
    (_short_segment, "fractions of segment 1 cover no epoch"),
    (_other_epochs, r"expert 1 has its waypoints at epochs \[0, 5, 7, 10\] and the first expert at \[0, 4, 7, 10\]"),
])  # fmt: skip
def test_mismatched_mct_files(tmp_path, damage, words):
    write_mct(tmp_path / "mct", 4, "_ip4")
    damage(tmp_path / "mct")
    with pytest.raises(FormatError, match=words):
        import_mct(tmp_path / "mct", tmp_path / "store", record())


def test_mct_waypoints_without_their_fractions(tmp_path):
    write_mct(tmp_path / "mct", 4, "_ip4")
    _no_partner(tmp_path / "mct")
    with pytest.raises(InputError, match=r"step_buffer_ip4_0\.pt"):
        import_mct(tmp_path / "mct", tmp_path / "store", record())


def test_folder_with_several_kinds_of_mct_files(tmp_path):
    write_mct(tmp_path / "mct", 4, "_ip4")
    write_mct(tmp_path / "mct", 2)
    with pytest.raises(InputError, match="waypoint_buffer, waypoint_buffer_ip4"):
        import_mct(tmp_path / "mct", tmp_path / "store", record())
    assert len(import_mct(tmp_path / "mct" / "waypoint_buffer_0.pt", tmp_path / "store", record())) == 2
    with pytest.raises(InputError, match=r"step_buffer_0\.pt"):
        import_mct(tmp_path / "mct" / "step_buffer_0.pt", tmp_path / "store", record())
