"""MTT's and MCT's files round-trip bit for bit; damaged, hostile and foreign files are refused."""

from __future__ import annotations

import os
import resource
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from pydistill._util.files import WriteError
from pydistill.errors import FormatError, InputError, MismatchError, PydistillError
from pydistill.trajectories import (
    TrajectoryStore,
    convexify,
    describe_mct,
    describe_mtt,
    export_mct,
    export_mtt,
    import_mct,
    import_mtt,
)
from pydistill.trajectories.formats.common import save_torch
from pydistill.trajectories.formats.mct import partner
from tests.helpers.folder_content import content
from tests.trajectories.samples import NAMES, SHAPES, SIZES, TOTAL, record, walk

Nested = list[Any]


def nested(snapshots: torch.Tensor) -> Nested:
    """Return an expert in MTT's form: nested lists [epoch][parameter tensor]."""
    return [
        [piece.reshape(shape).clone() for piece, shape in zip(row.split(SIZES), SHAPES, strict=True)]
        for row in snapshots
    ]


def mct_nested(snapshots: torch.Tensor, waypoints: int) -> tuple[Nested, Nested]:
    """Return an expert in MCT's form: waypoints, and float32 fractions by segment (if several) and epoch."""
    path = convexify(snapshots, SIZES, waypoints=waypoints)
    points = nested(torch.stack([path.waypoints.row(i) for i in range(waypoints)]))
    lengths = [b - a + 1 for a, b in zip(path.waypoint_epochs, path.waypoint_epochs[1:], strict=False)]
    pieces = [
        [[torch.tensor(x, dtype=torch.float32) for x in row] for row in piece.tolist()]
        for piece in path.fractions.split(lengths)
    ]
    return points, pieces if waypoints > 2 else pieces[0]


def same(a: Any, b: Any) -> bool:
    """Return whether nested lists of tensors have the same bits, dtypes and shapes."""
    if isinstance(a, torch.Tensor):
        return a.dtype == b.dtype and torch.equal(a, b)
    return type(a) is type(b) and len(a) == len(b) and all(same(x, y) for x, y in zip(a, b, strict=True))


@pytest.fixture
def mtt(tmp_path: Path) -> Path:
    """A folder with three experts in two files of MTT's format."""
    folder = tmp_path / "mtt"
    folder.mkdir()
    torch.save([nested(walk(seed=0)), nested(walk(seed=1))], folder / "replay_buffer_2.pt")
    torch.save([nested(walk(seed=2))], folder / "replay_buffer_10.pt")
    return folder


def write_mct(folder: Path, waypoints: int, tag: str = "") -> Path:
    """Write two experts in one pair of MCT's files; returns the waypoint file."""
    folder.mkdir(exist_ok=True)
    experts = [mct_nested(walk(seed=seed), waypoints) for seed in range(2)]
    file = folder / f"waypoint_buffer{tag}_0.pt"
    torch.save([points for points, _ in experts], file)
    torch.save([steps for _, steps in experts], folder / f"step_buffer{tag}_0.pt")
    return file


def test_mtt_files_are_read_in_numerical_order(mtt, tmp_path):
    done: list[int] = []
    store = import_mtt(mtt, tmp_path / "store", record(), on_progress=done.append)
    assert (len(store), store.kind, done) == (3, "recorded", [1, 2, 3])
    for position in range(3):
        for epoch in range(11):
            assert torch.equal(store[position].point(epoch), walk(seed=position)[epoch])
    assert store.details(2) == {"source": "replay_buffer_10.pt", "position": 0}


def test_mtt_round_trip_is_exact(mtt, tmp_path):
    store = import_mtt(mtt, tmp_path / "store", record())
    files = export_mtt(store, tmp_path / "out", experts_per_file=2)
    assert [file.name for file in files] == ["replay_buffer_0.pt", "replay_buffer_1.pt"]
    content = [torch.load(file, weights_only=True) for file in files]
    assert same(content[0], [nested(walk(seed=0)), nested(walk(seed=1))])
    assert same(content[1], [nested(walk(seed=2))])
    again = import_mtt(tmp_path / "out", tmp_path / "again", record())
    assert all(torch.equal(again[i].point(e), store[i].point(e)) for i in range(3) for e in range(11))


def test_exported_files_hold_no_unused_memory(tmp_path):
    # torch saves the entire storage of a view.
    facts = record(epochs=2, parameters=tuple((f"p{i}", (1000,)) for i in range(20)))
    store = TrajectoryStore.create(tmp_path / "store", facts)
    store.add(0, torch.rand(3, 20_000))
    (file,) = export_mtt(store, tmp_path)
    assert file.stat().st_size < 1.3 * 3 * 20_000 * 4
    (file,) = export_mct(store.write_convexified(tmp_path / "convex", waypoints=3), tmp_path)
    assert file.stat().st_size < 1.3 * 3 * 20_000 * 4


def test_exports_are_float32_for_any_store_and_default_dtype(tmp_path):
    store = TrajectoryStore.create(tmp_path / "store", record(), dtype="float64")
    store.add(0, walk(dtype=torch.float64))
    convex = store.write_convexified(tmp_path / "convex", waypoints=2)
    torch.set_default_dtype(torch.float64)
    try:
        (recorded,), (waypoints,) = export_mtt(store, tmp_path), export_mct(convex, tmp_path)
    finally:
        torch.set_default_dtype(torch.float32)
    assert same(torch.load(recorded, weights_only=True), [nested(walk(dtype=torch.float64).float())])
    steps = torch.load(tmp_path / "step_buffer_0.pt", weights_only=True)[0]
    assert {fraction.dtype for epoch in steps for fraction in epoch} == {torch.float32}
    assert torch.load(waypoints, weights_only=True)[0][0][0].dtype == torch.float32


def test_mtt_files_may_hold_parameters(tmp_path):
    expert = [[torch.nn.Parameter(tensor) for tensor in epoch] for epoch in nested(walk())]
    torch.save([expert], tmp_path / "replay_buffer_0.pt")
    store = import_mtt(tmp_path / "replay_buffer_0.pt", tmp_path / "store", record())
    assert torch.equal(store[0].point(4), walk()[4])


def test_files_in_the_legacy_format_of_torch(tmp_path):
    torch.save([nested(walk())], tmp_path / "old.pt", _use_new_zipfile_serialization=False)
    store = import_mtt([tmp_path / "old.pt"], tmp_path / "store", record())
    assert torch.equal(store[0].point(4), walk()[4])


def test_interrupted_import_resumes(mtt, tmp_path):
    (mtt / "replay_buffer_10.pt").rename(tmp_path / "later.pt")
    import_mtt(mtt, tmp_path / "store", record())
    file = tmp_path / "store" / "expert_0000.safetensors"
    before = file.stat().st_mtime_ns
    (tmp_path / "later.pt").rename(mtt / "replay_buffer_10.pt")
    assert len(import_mtt(mtt, tmp_path / "store", record())) == 3
    assert file.stat().st_mtime_ns == before


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
@pytest.mark.parametrize("form", ["mtt", "mct"])
def test_changed_experts_are_imported_again(form, dtype, tmp_path):
    """The changed file has the same name, number of experts and shapes."""
    read = import_mtt if form == "mtt" else import_mct

    def write(*seeds):
        if form == "mtt":
            torch.save([nested(walk(seed=seed)) for seed in seeds], tmp_path / "replay_buffer_0.pt")
            return tmp_path / "replay_buffer_0.pt"
        experts = [mct_nested(walk(seed=seed), 4) for seed in seeds]
        torch.save([points for points, _ in experts], tmp_path / "waypoint_buffer_ip4_0.pt")
        torch.save([steps for _, steps in experts], tmp_path / "step_buffer_ip4_0.pt")
        return tmp_path / "waypoint_buffer_ip4_0.pt"

    read(write(0, 1), tmp_path / "store", record(), dtype=dtype)
    unchanged = (tmp_path / "store" / "expert_0001.safetensors").stat().st_mtime_ns
    again = read(write(5, 1), tmp_path / "store", record(), dtype=dtype)
    assert again.digest == read(write(5, 1), tmp_path / "new", record(), dtype=dtype).digest
    assert (tmp_path / "store" / "expert_0001.safetensors").stat().st_mtime_ns == unchanged
    with pytest.raises(MismatchError, match="2 experts"):
        read(write(5), tmp_path / "store", record(), dtype=dtype)


def test_changed_fractions_are_imported_again(tmp_path):
    file = write_mct(tmp_path / "mct", 4, "_ip4")
    before = import_mct(file, tmp_path / "store", record()).digest
    steps = torch.load(partner(file), weights_only=True)
    steps[1][0][1][0] = steps[1][0][1][0] / 2
    torch.save(steps, partner(file))
    after = import_mct(file, tmp_path / "store", record())
    assert after.digest != before
    assert after.digest == import_mct(file, tmp_path / "new", record()).digest


def test_describe(mtt, tmp_path):
    layout = describe_mtt(mtt / "replay_buffer_2.pt")
    assert (layout.experts, layout.epochs, layout.shapes, layout.waypoint_epochs) == (2, 10, SHAPES, ())
    convex = describe_mct(write_mct(tmp_path / "mct", 4, "_ip4"))
    assert (convex.experts, convex.epochs, convex.shapes, convex.waypoint_epochs) == (2, 10, SHAPES, (0, 4, 7, 10))


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


@pytest.mark.parametrize("reader", ["mtt", "mct"])
def test_hostile_pickle_runs_no_code(tmp_path, reader):
    marker = tmp_path / "executed"

    class Hostile:
        def __reduce__(self) -> tuple[Callable[..., int], tuple[str]]:
            return os.system, (f"touch {marker}",)

    torch.save([Hostile()], tmp_path / "replay_buffer_0.pt")
    torch.save([Hostile()], tmp_path / "waypoint_buffer_0.pt")
    torch.save([[[torch.tensor(0.0)]]], tmp_path / "step_buffer_0.pt")
    read = import_mtt if reader == "mtt" else import_mct
    with pytest.raises(FormatError, match=r"_buffer_0\.pt") as caught:
        read(tmp_path, tmp_path / "store", record())
    assert "\n" not in str(caught.value)
    assert not marker.exists()
    assert not (tmp_path / "store").exists()


def _ragged() -> Nested:
    expert = nested(walk())
    expert[3].pop()
    return expert


def _diverged() -> Nested:
    snapshots = walk()
    snapshots[6] *= float("inf")
    return nested(snapshots)


def _frozen() -> Nested:
    return nested(walk()[10].expand(11, TOTAL))


@pytest.mark.parametrize("content", [
    [],
    torch.zeros(3),
    {"experts": []},
    [[]],
    [[torch.zeros(3)]],
    [[[1.0]]],
    [[[torch.zeros(3, dtype=torch.long)]]],
    [[[torch.eye(3).to_sparse()]]],
    [nested(walk())[:1]],
    [nested(walk()), _ragged()],
    [nested(walk()), _diverged()],
    [_frozen()],
])  # fmt: skip
def test_mtt_files_of_another_layout(tmp_path, content):
    torch.save(content, tmp_path / "replay_buffer_0.pt")
    with pytest.raises(FormatError, match=r"replay_buffer_0\.pt"):
        import_mtt(tmp_path, tmp_path / "store", record())


def test_experts_before_a_bad_one_stay_in_the_store(tmp_path):
    torch.save([nested(walk()), _diverged()], tmp_path / "replay_buffer_0.pt")
    with pytest.raises(FormatError):
        import_mtt(tmp_path, tmp_path / "store", record())
    store = TrajectoryStore.open(tmp_path / "store")
    assert store.experts == (0,)
    assert store.verify() == {}


def test_first_layer_padding_is_suggested_but_not_assumed(tmp_path):
    wider = torch.cat([walk(), walk(seed=1)], dim=1)
    shapes = (*SHAPES[:2], (3, 9), (3,))
    sizes = [6, 2, 27, 3]
    expert = [
        [piece.reshape(shape).clone() for piece, shape in zip(row[:38].split(sizes), shapes, strict=True)]
        for row in wider
    ]
    torch.save([expert], tmp_path / "replay_buffer_0.pt")
    words = r"classifier.weight is \[3, 9\] in the file and \[3, 4\] in the record .convnet.*first_padding=3"
    with pytest.raises(MismatchError, match=words):
        import_mtt(tmp_path, tmp_path / "store", record())
    named = record(
        architecture="convnet(width=2, depth=1, first_padding=3)",
        parameters=tuple(zip(NAMES, shapes, strict=True)),
    )
    assert torch.equal(import_mtt(tmp_path, tmp_path / "store", named)[0].point(3), wider[3, :38])


@pytest.mark.parametrize(("change", "words"), [
    ({"epochs": 12}, "end at epoch 10 in the file and at epoch 12 in the record"),
    ({"parameters": (("weight", (TOTAL,)),)}, "have 4 parameter tensors in the file and 1 in the record"),
    ({"parameters": ((NAMES[0], (6, 1)), *list(zip(NAMES, SHAPES, strict=True))[1:])},
     r"parameter features.0.weight is \[2, 1, 3\] in the file and \[6, 1\] in the record"),
])  # fmt: skip
def test_files_that_contradict_the_record(mtt, tmp_path, change, words):
    with pytest.raises(MismatchError, match=r"replay_buffer_2.pt, expert 0 and the record do not agree: .*" + words):
        import_mtt(mtt, tmp_path / "store", record(**change))
    assert not (tmp_path / "store").exists()


def test_store_of_other_experts_is_refused(mtt, tmp_path):
    TrajectoryStore.create(tmp_path / "store", record(dataset="svhn"))
    with pytest.raises(MismatchError, match=r"svhn.*digits"):
        import_mtt(mtt, tmp_path / "store", record())


def test_no_file_to_import(tmp_path):
    with pytest.raises(InputError, match="replay_buffer"):
        import_mtt(tmp_path, tmp_path / "store", record())
    with pytest.raises(InputError, match="waypoint_buffer"):
        import_mct([], tmp_path / "store", record())
    with pytest.raises(InputError, match=r"missing\.pt"):
        import_mtt(tmp_path / "missing.pt", tmp_path / "store", record())


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


def test_formats_accept_their_kind_of_store_only(mtt, tmp_path):
    store = import_mtt(mtt, tmp_path / "store", record())
    convex = store.write_convexified(tmp_path / "convex")
    with pytest.raises(InputError):
        export_mtt(convex, tmp_path / "out")
    with pytest.raises(InputError):
        export_mct(store, tmp_path / "out")
    for export, source in ((export_mtt, store), (export_mct, convex)):
        with pytest.raises(InputError, match="experts_per_file = 0"):
            export(source, tmp_path / "out", experts_per_file=0)
    with pytest.raises(InputError, match="the number of experts = 0"):
        export_mtt(TrajectoryStore.create(tmp_path / "empty", record()), tmp_path / "out")


@pytest.mark.parametrize("form", ["mtt", "mct"])
def test_exports_do_not_mix(form, mtt, tmp_path):
    store, export, stem = import_mtt(mtt, tmp_path / "store", record()), export_mtt, "replay_buffer"
    if form == "mct":
        store, export, stem = store.write_convexified(tmp_path / "convex"), export_mct, "waypoint_buffer_ip4"
    out = tmp_path / "out"
    assert len(export(store, out, experts_per_file=1)) == 3
    before = content(out)
    with pytest.raises(InputError, match=rf"{stem}_2\.pt"):
        export(store, out, experts_per_file=2)
    assert content(out) == before
    (out / f"{stem}_2.pt").rename(out / f"{stem}_renamed.pt")
    assert len(export(store, out, experts_per_file=2)) == 2
    assert len(export(store, out, experts_per_file=2)) == 2


@pytest.mark.parametrize("room", [0, 1, 500, 3000, 20000])
def test_failed_export_leaves_no_file(room, tmp_path):
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (room, hard))
    try:
        with pytest.raises(WriteError, match=r"replay_buffer_0\.pt"):
            save_torch([torch.zeros(5000)], tmp_path / "replay_buffer_0.pt")
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    assert list(tmp_path.iterdir()) == []


@given(data=st.data())
@settings(max_examples=40, deadline=None)
def test_any_change_of_a_foreign_file_is_harmless_or_refused(data):
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        torch.save([nested(walk(epochs=2))], folder / "replay_buffer_0.pt")
        content = (folder / "replay_buffer_0.pt").read_bytes()
        place = data.draw(st.integers(0, len(content) - 1))
        if data.draw(st.booleans()):
            changed = content[:place]
        else:
            changed = content[:place] + bytes([content[place] ^ data.draw(st.integers(1, 255))]) + content[place + 1 :]
        (folder / "replay_buffer_0.pt").write_bytes(changed)
        try:
            store = import_mtt(folder, folder / "store", record(epochs=2))
        except PydistillError:
            return
        assert store[0].point(1).shape == (TOTAL,)
        assert torch.isfinite(store[0].point(1)).all()
