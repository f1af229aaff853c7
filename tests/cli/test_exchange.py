"""`pydistill export` and `pydistill import`."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch

from pydistill.artefact.distilled_set import load
from pydistill.artefact.exchange import export_set
from pydistill.artefact.file import Artefact
from pydistill.cli import main
from tests.artefact.exchange.sets import made, save


@pytest.mark.parametrize("form", ["mtt", "ddranking"])
def test_assuming_that_images_are_not_whitened_is_reported(
    form: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """MTT's files do not record whether the images are whitened."""
    pytest.importorskip("ruamel.yaml")
    folder = export_set(made(), form, tmp_path / "out").folder
    command = ["import", str(folder), f"--format={form}", f"--out={tmp_path / 'set.safetensors'}", "--dataset=cifar10"]
    assert main([*command, "--json"]) == 0
    recorded = capsys.readouterr()
    assert json.loads(recorded.out)["assumed"] is None
    assert "assumed" not in recorded.err
    (folder / "preprocessing.json").unlink()
    assert main([*command, "--json"]) == 0
    assumed = capsys.readouterr()
    assert "whitened" in assumed.err
    assert json.loads(assumed.out)["assumed"] in assumed.err
    statistics = ["--mean", "0.5", "0.5", "0.5", "--std", "0.2", "0.2", "0.2"]
    assert main([*command, *statistics]) == 0
    assert "assumed" not in capsys.readouterr().err


def test_a_set_survives_export_and_import(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    pytest.importorskip("ruamel.yaml")
    made().save(tmp_path / "set.safetensors")
    out, file = tmp_path / "out", tmp_path / "again.safetensors"
    assert main(["export", str(tmp_path / "set.safetensors"), "--format=mtt", f"--out={out}"]) == 0
    output = capsys.readouterr().out
    assert output.startswith(f"6 images in {out} (4 files), normalised with the statistics ")
    assert "lr 0.0123" in output
    assert main(["import", str(out), "--format=mtt", f"--out={file}", "--dataset=cifar10", "--json"]) == 0
    about = json.loads(capsys.readouterr().out)
    assert about["images"] == [6, 3, 4, 4]
    assert about["lr"] == 0.0123
    torch.testing.assert_close(Artefact.load(file).viewable(), made().viewable().images)
    numbers = ["--mean", "0.5", "0.5", "0.5", "--std", "0.2", "0.2", "0.2", "--classes", "x", "y", "z"]
    assert main(["import", str(out), "--format=mtt", f"--out={file}", *numbers]) == 0
    artefact = Artefact.load(file)
    assert artefact.class_names == ("x", "y", "z")
    assert artefact.preprocessing.state()[1]["std"].tolist() == [0.2, 0.2, 0.2]
    again = ["export", str(file), "--format=imagefolder", f"--out={tmp_path / 'pictures'}", "--json"]
    capsys.readouterr()
    assert main(again) == 0
    assert len(json.loads(capsys.readouterr().out)["files"]) == 7


@pytest.mark.parametrize(
    ("arguments", "status", "message"),
    [
        ([], 2, "preprocessing"),
        (["--mean", "0.5"], 2, "--mean and --std belong together"),
        (["--dataset=cifar10", "--zca"], 2, "--zca needs --dataset and --data"),
        (["--data=/nowhere"], 2, "--data needs --dataset"),
        (["--like=/nowhere"], 2, "/nowhere holds no distilled set"),
    ],
)
def test_import_refuses_incomplete_flags(
    arguments: list[str], status: int, message: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    pytest.importorskip("ruamel.yaml")
    folder = save(tmp_path, lr=0.1)
    assert main(["import", str(folder), "--format=mtt", f"--out={tmp_path / 'set.safetensors'}", *arguments]) == status
    assert message in capsys.readouterr().err
    assert not (tmp_path / "set.safetensors").exists()


def test_import_does_not_overwrite_the_set_of_a_run(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    pytest.importorskip("ruamel.yaml")
    export_set(made(), "mtt", tmp_path / "out")
    (tmp_path / "run").mkdir()
    (tmp_path / "run" / "metrics.jsonl").touch()
    file = tmp_path / "run" / "distilled.safetensors"
    assert main(["import", str(tmp_path / "out"), "--format=mtt", f"--out={file}", "--dataset=cifar10"]) == 2
    assert str(file) in capsys.readouterr().err
    assert not file.exists()


@pytest.mark.parametrize(
    ("name", "hint"), [("nonsense", ""), ("cifar1O", "; did you mean cifar10?"), ("cifar10", None)]
)
def test_an_unknown_data_set_is_reported(
    name: str, hint: str | None, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    pytest.importorskip("ruamel.yaml")
    export_set(made(), "mtt", tmp_path / "out")
    command = ["import", str(tmp_path / "out"), "--format=mtt", f"--dataset={name}"]
    assert main([*command, f"--out={tmp_path / 'set.safetensors'}"]) == 0
    warning = capsys.readouterr().err
    assert not warning if hint is None else (name in warning and warning.endswith(f"{hint}\n"))
    assert load(tmp_path / "set.safetensors").dataset_name == name
    # --like names the data set, so there is nothing to report
    assert main([*command, f"--out={tmp_path / 'b.safetensors'}", f"--like={tmp_path / 'set.safetensors'}"]) == 0
    assert capsys.readouterr().err == ""


def test_import_does_not_overwrite_other_files(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    export_set(made(), "mtt", tmp_path / "out")
    metrics, other = tmp_path / "metrics.jsonl", tmp_path / "other.safetensors"
    for file, message in ((metrics, "ends in .safetensors"), (other, "other.safetensors")):
        file.write_text("mine")
        assert main(["import", str(tmp_path / "out"), "--format=mtt", f"--out={file}", "--dataset=cifar10"]) == 2
        assert message in capsys.readouterr().err
        assert file.read_text() == "mine"
