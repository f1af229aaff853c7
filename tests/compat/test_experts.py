"""The import of buffers: once, within the limits, and again after a change or a kill."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

import pytest
import torch

from pydistill.compat import att, mct, mtt, tesla
from pydistill.recipes.recipe import load_recipe
from pydistill.trajectories import TrajectoryStore, export_mct, import_mct, import_mtt
from tests.compat.scripts import BUFFERS, SHORT, store_of


def test_limits_on_files_and_experts(here: Path) -> None:
    assert mtt.main([*SHORT, "--name", "file", "--max_files", "1"]) == 0
    assert mtt.main([*SHORT, "--name", "expert", "--max_experts", "1"]) == 0
    runs = [here / "logged_files/tensors" / name / "run" for name in ("file", "expert")]
    counts = [load_recipe(run / "recipe.json").expert.count for run in runs]
    assert counts == [2, 2]
    sources = [
        [TrajectoryStore.open(here / BUFFERS / store).details(position)["source"] for position in (0, 1)]
        for store in ("pydistill-replay-1-files", "pydistill-replay-1-experts")
    ]
    assert sources == [["replay_buffer_0.pt"] * 2, ["replay_buffer_0.pt", "replay_buffer_1.pt"]]


def test_changed_buffers_are_refused(here: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert mtt.main(SHORT) == 0
    buffer_1 = here / BUFFERS / "replay_buffer_1.pt"
    os.utime(buffer_1, (1e9, 1e9))
    assert mtt.main(SHORT) == 0, "the content is the same"
    content = bytearray(buffer_1.read_bytes())
    content[-1000] ^= 1
    buffer_1.write_bytes(content)
    assert mtt.main(SHORT) == 2
    assert "replay_buffer_1.pt has changed since its experts were imported into" in capsys.readouterr().err


@pytest.mark.parametrize("flags", [["--max_files", "1"], ["--max_experts", "1"], []])
def test_experts_of_other_files_or_limits_are_refused(
    flags: list[str], here: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """A store in --experts, then other limits; or, without a limit, a missing buffer."""
    elsewhere = [*SHORT, "--experts", "elsewhere"]
    assert mtt.main(elsewhere) == 0
    if not flags:
        (here / BUFFERS / "replay_buffer_1.pt").unlink()
    assert mtt.main([*elsewhere, *flags]) == 2
    message = capsys.readouterr().err
    assert "all experts of replay_buffer_0.pt, replay_buffer_1.pt, " in message
    assert ("the first expert of" in message) == ("--max_experts" in flags)
    (here / "elsewhere" / "sources.json").unlink()  # as after a stopped import
    assert mtt.main([*elsewhere, *flags]) == 2
    assert "holds 3 experts and the files to import 2" in capsys.readouterr().err


@pytest.mark.parametrize("published", [True, False], ids=["waypoint files", "replay buffers"])
def test_buffers_are_read_once(published: bool, here: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    script, flags, damaged = mtt, SHORT, "replay_buffer_1.pt"
    if published:
        recorded = TrajectoryStore.open(here / BUFFERS / "pydistill-experts")
        export_mct(recorded.write_convexified(here / "convexified", waypoints=3), here / BUFFERS)
        script, flags, damaged = mct, [*SHORT, "--num_interpolation", "3"], "step_buffer_ip3_0.pt"
    assert script.main(flags) == 0
    with monkeypatch.context() as patch:
        for module in ("mtt", "mct"):
            patch.delattr(f"pydistill.trajectories.formats.{module}.load_untrusted")
        assert script.main(flags) == 0
        assert script.main([*flags, "--model", "convnet2-w8", "--experts", str(store_of(here, published))]) == 2
    (here / BUFFERS / damaged).write_bytes(b"changed")
    assert script.main(flags) == 2
    if published:
        (here / BUFFERS / damaged).unlink()
        assert script.main(flags) == 2


def test_a_missing_imported_expert_is_imported_again(here: Path) -> None:
    assert mtt.main(SHORT) == 0
    digest = TrajectoryStore.open(store_of(here, False)).digest
    (store_of(here, False) / "expert_0001.safetensors").unlink()
    assert mtt.main([*SHORT, "--name", "again"]) == 0
    again = TrajectoryStore.open(store_of(here, False))
    assert again.digest == digest
    assert again.verify() == {}


@pytest.mark.parametrize("published", [True, False], ids=["waypoint files", "replay buffers"])
def test_an_import_that_was_killed_does_not_mix_buffers(
    published: bool, here: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The kill comes after one expert, before the sources are recorded; then the buffers are replaced."""
    script, flags, add = mtt, SHORT, "add"
    if published:
        recorded = TrajectoryStore.open(here / BUFFERS / "pydistill-experts")
        export_mct(recorded.write_convexified(here / "convexified", waypoints=3), here / BUFFERS)
        script, flags, add = mct, [*SHORT, "--num_interpolation", "3"], "add_convexified"
    original = getattr(TrajectoryStore, add)

    def killed(store: TrajectoryStore, number: int, *arguments: Any, **options: Any) -> None:
        original(store, number, *arguments, **options)
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(TrajectoryStore, add, killed)
        assert script.main(flags) == 130
    assert TrajectoryStore.open(store_of(here, published)).experts == (0,)
    for name in ["step_buffer_ip3_0.pt", "waypoint_buffer_ip3_0.pt"] if published else ["replay_buffer_0.pt"]:
        file = here / BUFFERS / name
        torch.save(torch.load(file, weights_only=True)[::-1], file)
    assert script.main(flags) == 0
    store = TrajectoryStore.open(store_of(here, published))
    alone = (import_mct if published else import_mtt)(here / BUFFERS, here / "alone", store.record)
    assert store.digest == alone.digest


def test_the_scripts_share_one_store(here: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Whichever script imported the buffers, and whichever source the record names."""
    assert tesla.main(SHORT) == 0
    store = TrajectoryStore.open(store_of(here, False))
    assert store.record.training == {"source": "mtt"}, "the files' layout, not the script"
    index = store_of(here, False) / "index.json"
    for source in ("mtt", "att"):
        about = json.loads(index.read_text())
        about["record"]["training"]["source"] = source
        index.write_text(json.dumps(about))
        before = index.read_bytes()
        for script in (mtt, att, tesla, mct):
            with monkeypatch.context() as patch:
                patch.delattr("pydistill.trajectories.formats.mtt.load_untrusted")
                assert script.main([*SHORT, "--name", f"{script.__name__}-{source}"]) == 0
        assert index.read_bytes() == before


@pytest.mark.parametrize("imported", [True, False], ids=["imported", "stopped"])
def test_a_store_of_other_experts_is_refused(imported: bool, here: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert mtt.main(SHORT) == 0
    if not imported:
        (store_of(here, False) / "sources.json").unlink()
    assert att.main([*SHORT, "--zca"]) == 2
    assert "preprocessing is" in capsys.readouterr().err
    assert mtt.main([*SHORT, "--experts", str(here / BUFFERS / "pydistill-experts")]) == 2
    assert "choose another folder" in capsys.readouterr().err


def test_a_damaged_record_of_sources(here: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert mtt.main(SHORT) == 0
    (store_of(here, False) / "sources.json").write_text('{"files": [1]}')
    assert mtt.main(SHORT) == 1
    assert "sources.json is damaged; remove" in capsys.readouterr().err
