"""What both formats share: imports again after a change, exports that do not mix, hostile files."""

from __future__ import annotations

import os
import resource
from collections.abc import Callable

import pytest
import torch

from pydistill._util.files import WriteError
from pydistill.errors import FormatError, InputError, MismatchError
from pydistill.trajectories import (
    TrajectoryStore,
    describe_mct,
    describe_mtt,
    export_mct,
    export_mtt,
    import_mct,
    import_mtt,
)
from pydistill.trajectories.formats.common import save_torch
from tests.helpers.folder_content import content
from tests.trajectories.formats.files import mct_nested, nested, same, write_mct
from tests.trajectories.samples import SHAPES, record, walk


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


def test_describe(mtt, tmp_path):
    layout = describe_mtt(mtt / "replay_buffer_2.pt")
    assert (layout.experts, layout.epochs, layout.shapes, layout.waypoint_epochs) == (2, 10, SHAPES, ())
    convex = describe_mct(write_mct(tmp_path / "mct", 4, "_ip4"))
    assert (convex.experts, convex.epochs, convex.shapes, convex.waypoint_epochs) == (2, 10, SHAPES, (0, 4, 7, 10))


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


def test_no_file_to_import(tmp_path):
    with pytest.raises(InputError, match="replay_buffer"):
        import_mtt(tmp_path, tmp_path / "store", record())
    with pytest.raises(InputError, match="waypoint_buffer"):
        import_mct([], tmp_path / "store", record())
    with pytest.raises(InputError, match=r"missing\.pt"):
        import_mtt(tmp_path / "missing.pt", tmp_path / "store", record())


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
