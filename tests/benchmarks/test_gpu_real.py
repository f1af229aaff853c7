"""The real run: the preset's recipe, ended by its time, with a record that tells what came out."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from benchmarks.gpu import real
from pydistill.recipes.recipe import load_recipe, preset_path
from tests.data.files import two_classes, write_tar


def test_the_recipe_is_the_preset() -> None:
    pytest.importorskip("jsonargparse")
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
    found = {line["event"]: line for line in lines}
    assert (found["data"]["train"], found["data"]["test"], found["data"]["commit"]) == (3, 2, "abc1234")
    assert (found["expert"]["count"], found["expert"]["epochs"]) == (2, 6)
    assert found["iteration"]["iteration"] == found["distilled"]["iteration"] == 4
    assert found["iteration"]["iterations_per_second"] > 0
    assert len(found["distilled"]["runs"]) == 2
    assert [line["at"] for line in lines] == sorted(line["at"] for line in lines)
    printed = capsys.readouterr().out
    assert printed.splitlines() == [json.dumps(line) for line in lines]
    told = real.told(tmp_path / real.FILE)
    assert told.startswith("2 experts of 6 epochs (")
    assert "4 iterations of ATT (" in told
    assert f"distilled: {100 * found['distilled']['mean']:.1f} ± " in told


def test_no_time_is_one_expert_and_one_iteration(tmp_path: Path) -> None:
    archive = write_tar(tmp_path / "cifar.tar", two_classes())
    given = real.parse([str(archive), str(tmp_path), "--device=cpu", "--seconds=1", f"--work={tmp_path / 'work'}"])
    given.seconds = 0
    recipe = real.tiny(real.preset())
    real.run(replace(recipe, distill=replace(recipe.distill, lr_image=1.0)), given)
    lines = [json.loads(line) for line in (tmp_path / real.FILE).read_text().splitlines()]
    assert [line["event"] for line in lines] == ["data", "random real", "expert", "iteration", "distilled"]
    assert lines[-1]["iteration"] == 1


def test_what_was_recorded_before_it_stopped_is_told(tmp_path: Path) -> None:
    assert real.told(tmp_path / real.FILE) == ""
    old = [{"event": "data"}, {"event": "expert", "count": 9, "epochs": 6, "epochs_per_second": 2.0, "test": 0.5}]
    new = [{"event": "data"}, {"event": "random real", "mean": 0.15}]
    (tmp_path / real.FILE).write_text("".join(json.dumps(line) + "\n" for line in old + new))
    assert real.told(tmp_path / real.FILE) == "random real images: 15.0 % on one network."


def test_data_that_are_not_there(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert real.main([str(tmp_path / "nowhere"), str(tmp_path), "--device=cpu", "--scale=tiny"]) == 1
    assert "does not exist; give the folder or archive that holds cifar10" in capsys.readouterr().out


@pytest.mark.skipif(torch.cuda.is_available(), reason="a GPU is there")
def test_no_gpu(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        real.main([str(tmp_path), str(tmp_path)])
    assert "argument --device: no NVIDIA GPU is visible" in capsys.readouterr().err
