"""A damaged index raises FormatError and gives no access to files outside the store."""

from __future__ import annotations

import json
import tempfile
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from pydistill.errors import FormatError, PydistillError
from pydistill.trajectories import TrajectoryStore

from .samples import record, walk


@pytest.fixture(scope="module", params=["recorded", "convexified"])
def folder(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A store with two experts, of either kind."""
    store = TrajectoryStore.create(tmp_path_factory.mktemp("recorded"), record())
    for number in range(2):
        store.add(number, walk(seed=number), {"test": [0.5] * 11}, {"seed": 1})
    if request.param == "convexified":
        store = store.write_convexified(tmp_path_factory.mktemp("convexified"))
    return store.path


def with_index(folder: Path, index: Any, into: Path) -> Path:
    """Copy the store with another index."""
    into.mkdir(exist_ok=True)
    for file in folder.glob("*.safetensors"):
        (into / file.name).write_bytes(file.read_bytes())
    (into / "index.json").write_text(index if isinstance(index, str) else json.dumps(index))
    return into


def replaced(value: Any, path: list[str], new: Any) -> Any:
    """Return `value` with the item at `path` replaced."""
    if not path:
        return new
    return {**value, path[0]: replaced(value[path[0]], path[1:], new)}


EXPERT = ["experts", "1"]


@pytest.mark.parametrize(("path", "new"), [
    (["format"], "other"),
    (["version"], 2),
    (["kind"], "secret"),
    (["dtype"], "int8"),
    (["dtype"], ["float32"]),
    (["convexification"], []),
    (["record"], None),
    (["experts"], []),
    (["experts"], {"one": {}}),
    (["experts"], {"01": {}}),
    (EXPERT, 3),
    ([*EXPERT, "file"], "../expert_0001.safetensors"),
    ([*EXPERT, "file"], "/etc/passwd"),
    ([*EXPERT, "file"], "expert_0000.safetensors"),
    ([*EXPERT, "file"], "expert_0001.safetensors\n"),
    ([*EXPERT, "bytes"], -1),
    ([*EXPERT, "bytes"], True),
    ([*EXPERT, "sha256"], "xyz"),
    ([*EXPERT, "rows_sha256"], ["0" * 64]),
    ([*EXPERT, "rows_sha256"], "0" * 64),
    ([*EXPERT, "accuracies"], {"test": 1}),
    ([*EXPERT, "accuracies"], {"test": ["high"]}),
    ([*EXPERT, "accuracies"], {"test": [float("nan")]}),
    ([*EXPERT, "details"], []),
])  # fmt: skip
def test_damaged_index_is_refused_in_one_line(folder, tmp_path, path, new):
    index = json.loads((folder / "index.json").read_text())
    copy = with_index(folder, replaced(index, path, new), tmp_path / "store")
    with pytest.raises(FormatError, match=r"index\.json") as caught:
        TrajectoryStore.open(copy)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("version", [2, "1", None])
def test_index_of_another_version_is_refused(folder, tmp_path, version):
    index = json.loads((folder / "index.json").read_text())
    with pytest.raises(FormatError, match=f"version {version!r}"):
        TrajectoryStore.open(with_index(folder, index | {"version": version}, tmp_path))


@pytest.mark.parametrize("epochs", [[0, 10, 5], [0], [1, 10], [0, 9], [0, 0, 10], "0 10", [0, 4.5, 10], None])
def test_damaged_waypoint_epochs(folder, tmp_path, epochs):
    index = json.loads((folder / "index.json").read_text())
    if index["kind"] == "recorded":
        index["kind"] = "convexified"  # the entries of recorded experts have no waypoint epochs
    copy = with_index(
        folder, replaced(index, EXPERT, {**index["experts"]["1"], "waypoint_epochs": epochs}), tmp_path / "s"
    )
    with pytest.raises(FormatError, match="waypoint_epochs"):
        TrajectoryStore.open(copy)


@pytest.mark.parametrize("text", ["", "{", "[]", "null", '{"format": "pydistill-trajectories"}', "[" * 100_000])
def test_file_that_is_not_an_index_is_refused(folder, tmp_path, text):
    copy = with_index(folder, text, tmp_path / "store")
    with pytest.raises(FormatError, match=r"index.json"):
        TrajectoryStore.open(copy)


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=8) | st.just("expert_0000.safetensors"),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner, max_size=3),
    max_leaves=5,
)


def paths_in(value: Any) -> list[list[Any]]:
    """Return the path of every item of a JSON value."""
    items = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    return [[], *([key, *path] for key, item in items for path in paths_in(item))]


def put(value: Any, path: list[Any], new: Any) -> Any:
    """Return `value` with the item at `path`, which may lead through lists, replaced."""
    if not path:
        return new
    if isinstance(value, dict):
        return {**value, path[0]: put(value[path[0]], path[1:], new)}
    return [put(item, path[1:], new) if i == path[0] else item for i, item in enumerate(value)]


def read_everything(path: Path) -> int:
    """Read points of every expert, allowing pydistill's errors only; returns the number of points read."""
    points = 0
    try:
        store = TrajectoryStore.open(path)
    except PydistillError:
        return 0
    for position in range(len(store)):
        for t in (0, 1, 10):
            try:
                point = store[position].point(t)
            except PydistillError:
                continue
            assert torch.isfinite(point).all()
            points += 1
        store.accuracies(position), store.details(position)
    store.verify()
    return points


@given(data=st.data())
@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_any_change_of_the_index_is_harmless_or_refused(folder, data):
    index = json.loads((folder / "index.json").read_text())
    path = data.draw(st.sampled_from(paths_in(index)))
    changed = put(index, path, data.draw(JSON))
    with tempfile.TemporaryDirectory() as into:
        assert read_everything(with_index(folder, changed, Path(into))) <= 6


@given(data=st.data())
@settings(max_examples=40, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_any_change_of_an_expert_is_detected_and_spares_the_other(folder, data):
    content = (folder / "expert_0000.safetensors").read_bytes()
    place = data.draw(st.integers(0, len(content) - 1))
    if data.draw(st.booleans()):
        changed = content[:place]
    else:
        changed = content[:place] + bytes([content[place] ^ data.draw(st.integers(1, 255))]) + content[place + 1 :]
    with tempfile.TemporaryDirectory() as into:
        copy = with_index(folder, (folder / "index.json").read_text(), Path(into))
        (copy / "expert_0000.safetensors").write_bytes(changed)
        assert 3 <= read_everything(copy) <= 6
        assert list(TrajectoryStore.open(copy).verify()) == [0]
