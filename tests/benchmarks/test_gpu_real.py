"""The real run: the preset's recipe, ended by its time, with a record that tells what came out."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from benchmarks.gpu import real
from pydistill.recipes.recipe import load_recipe, preset_path
from tests.data.files import two_classes, write_tar


def test_the_recipe_is_the_preset() -> None:
    pytest.importorskip("ruamel.yaml")
    assert real.preset() == load_recipe(preset_path("att/cifar10-ipc1"))


def test_a_run_on_small_images(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PYDISTILL_COMMIT", "abc1234")
    archive = write_tar(tmp_path / "cifar.tar", two_classes())
    flags = ["--device=cpu", "--scale=tiny", "--seconds=100", f"--work={tmp_path / 'work'}"]
    assert real.main([str(archive), str(tmp_path), *flags, "--lr-image=1"]) == 0
    lines = [json.loads(line) for line in (tmp_path / real.FILE).read_text().splitlines()]
    assert [line["event"] for line in lines if line["event"] != "iteration"] == [
        *("data", "random real", "expert", "expert", "distilled")
    ]
    actual = {line["event"]: line for line in lines}
    assert (actual["data"]["train"], actual["data"]["test"], actual["data"]["commit"]) == (3, 2, "abc1234")
    assert (actual["expert"]["count"], actual["expert"]["epochs"]) == (2, 6)
    assert actual["iteration"]["iteration"] == actual["distilled"]["iteration"] == 4
    assert actual["iteration"]["iterations_per_second"] > 0
    assert len(actual["distilled"]["runs"]) == 2
    assert [line["at"] for line in lines] == sorted(line["at"] for line in lines)
    printed = capsys.readouterr().out
    assert printed.splitlines() == [json.dumps(line) for line in lines]
    message = real.describe(tmp_path / real.FILE)
    assert message.startswith("2 experts of 6 epochs (")
    assert "4 iterations of ATT (" in message
    assert f"distilled: {100 * actual['distilled']['mean']:.1f} ± " in message


def test_what_was_recorded_before_it_stopped_is_told(tmp_path: Path) -> None:
    assert real.describe(tmp_path / real.FILE) == ""
    old = [{"event": "data"}, {"event": "expert", "count": 9, "epochs": 6, "epochs_per_second": 2.0, "test": 0.5}]
    new = [{"event": "data"}, {"event": "random real", "mean": 0.15}]
    (tmp_path / real.FILE).write_text("".join(json.dumps(line) + "\n" for line in old + new))
    assert real.describe(tmp_path / real.FILE) == "random real images: 15.0 % on one network."
