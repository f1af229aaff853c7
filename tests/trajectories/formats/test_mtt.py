"""MTT's files: exact round trips; files of another layout or other experts are refused."""

from __future__ import annotations

import tempfile
from pathlib import Path

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from pydistill.errors import FormatError, MismatchError, PydistillError
from pydistill.trajectories import (
    TrajectoryStore,
    describe_mtt,
    export_mtt,
    import_mtt,
)
from tests.trajectories.formats.files import Nested, nested, same
from tests.trajectories.samples import NAMES, SHAPES, TOTAL, record, walk


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


def test_shared_lists_are_counted_before_they_are_read(tmp_path, monkeypatch):
    point = [torch.zeros(1)] * 3000
    circle = []
    circle.extend([circle] * 300)
    monkeypatch.setattr("pydistill.trajectories.formats.mtt.ListRows", None)
    for number, experts in enumerate(([[point] * 200], [[point[:9]] * 3000] * 50, [circle] * 300)):
        file = tmp_path / f"replay_buffer_{number}.pt"
        torch.save(experts, file)
        with pytest.raises(FormatError):
            describe_mtt(file)
