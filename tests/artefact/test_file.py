"""The file of a distilled set round-trips, is refused if damaged, and can be read without pydistill."""

from __future__ import annotations

import hashlib
import json
import math
import os
import struct
import subprocess
import sys
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors import safe_open
from safetensors.torch import load_file, save_file

from pydistill._util.files import WriteError
from pydistill._util.tensor_file import write_tensors
from pydistill.artefact.exchange.tensors import probabilities
from pydistill.artefact.file import KEY, Artefact
from pydistill.data import from_arrays
from pydistill.errors import FormatError, InputError
from pydistill.evaluation.evaluate import EvaluationSettings
from pydistill.recipes.recipe import Recipe
from tests.helpers.small_runs import recipe

ROOT = Path(__file__).parents[2]
EXAMPLE = ROOT / "benchmarks" / "examples" / "train_with_torch_alone.py"


def artefact(zca: bool = False, soft: bool = False, channels: int = 2) -> Artefact:
    generator = torch.Generator().manual_seed(0)
    raw = torch.rand(24, channels, 4, 4, generator=generator)
    labels = torch.arange(24) % 3
    data = from_arrays(raw, labels, raw, labels, zca=zca)
    images, classes = data.sample_per_class(2, generator)
    return Artefact(
        images=images,
        labels=torch.rand(6, 3, generator=generator).softmax(1) if soft else classes,
        classes=classes,
        lr=0.0123,
        preprocessing=data.preprocessing,
        provenance={
            "dataset": {"name": "noise", "classes": ["a", "b", "c"]},
            "recipe": recipe().as_dict() if soft else {"steps": 3},
        },
        initial_images=images + 1,
    )


PARTS = ("images", "labels", "classes", "initial_images")


def save_unchecked(before: Artefact, path: Path) -> None:
    """Write the file without `save`'s checks of the content."""
    about, tensors = before.preprocessing.state()
    stored = {f"preprocessing.{name}": value for name, value in tensors.items()}
    stored |= {name: getattr(before, name) for name in PARTS}
    header = {"format": 1, "lr": before.lr, "preprocessing": about, "provenance": before.provenance}
    write_tensors(path, KEY, header, stored)


@pytest.mark.parametrize("zca", [False, True])
@pytest.mark.parametrize("soft", [False, True])
def test_round_trip(zca: bool, soft: bool, tmp_path: Path) -> None:
    before = artefact(zca, soft)
    before.save(tmp_path / "distilled.safetensors")
    for path in (tmp_path, tmp_path / "distilled.safetensors"):
        after = Artefact.load(path)
        for name in ("images", "labels", "classes", "initial_images"):
            assert torch.equal(getattr(after, name), getattr(before, name))
        assert after.lr == before.lr
        assert json.dumps(after.provenance) == json.dumps(before.provenance)
        assert torch.equal(after.viewable(), before.viewable())
        assert after.preprocessing.fingerprint == before.preprocessing.fingerprint


def test_set_without_initial_images(tmp_path: Path) -> None:
    replace(artefact(), initial_images=None).save(tmp_path / "set.safetensors")
    assert Artefact.load(tmp_path / "set.safetensors").initial_images is None


def test_viewable_images_are_pixels(tmp_path: Path) -> None:
    pixels = artefact(zca=True).viewable()
    assert 0 <= float(pixels.min()) < float(pixels.max()) <= 1


def test_file_describes_itself(tmp_path: Path) -> None:
    """A reader without pydistill finds every tensor's meaning, dtype, shape and checksum, and how to train."""
    path = tmp_path / "distilled.safetensors"
    before = artefact(soft=True)
    before.save(path)
    with safe_open(path, framework="pt") as handle:
        assert list(handle.metadata()) == [KEY]
        header = json.loads(handle.metadata()[KEY])
    unsigned = json.dumps({name: value for name, value in header.items() if name != "sha256"})
    assert header["sha256"] == hashlib.sha256(unsigned.encode()).hexdigest()
    tensors = load_file(path)
    assert header["tensors"].keys() == tensors.keys()
    for name, about in header["tensors"].items():
        assert about["meaning"]
        assert about["shape"] == list(tensors[name].shape)
        assert f"torch.{about['dtype']}" == str(tensors[name].dtype)
        assert about["sha256"] == hashlib.sha256(tensors[name].numpy().tobytes()).hexdigest()
    assert header["lr"] == before.lr
    assert header["class_names"] == ["a", "b", "c"]
    assert header["evaluation"]["training"]["epochs"] == 5
    std, mean = (tensors[f"preprocessing.{name}"].float()[:, None, None] for name in ("std", "mean"))
    pixels = (tensors["images"] * std + mean).clamp(0, 1)  # header["viewable"], in PyTorch
    assert header["viewable"].startswith("pixels = images * preprocessing.std + preprocessing.mean")
    torch.testing.assert_close(pixels, before.viewable())


def test_folder_without_a_set(tmp_path: Path) -> None:
    with pytest.raises(InputError):
        Artefact.load(tmp_path)


@pytest.mark.parametrize("content", [b"", b"PK\x03\x04 something else", None])
def test_damaged_file(content: bytes | None, tmp_path: Path) -> None:
    path = tmp_path / "distilled.safetensors"
    artefact().save(path)
    path.write_bytes(path.read_bytes()[:-20] if content is None else content)
    with pytest.raises(FormatError):
        Artefact.load(path)


def test_one_changed_bit_is_refused(tmp_path: Path) -> None:
    """Change bits in the header and in every tensor."""
    path = tmp_path / "distilled.safetensors"
    artefact().save(path)
    content = path.read_bytes()
    (length,) = struct.unpack("<Q", content[:8])
    entries = json.loads(content[8 : 8 + length])
    middles = [8 + length + sum(entries[name]["data_offsets"]) // 2 for name in entries if name != "__metadata__"]
    places = [content.index(b"0.0123") + 5, content.index(b"noise") + 2, *middles]
    for place in places:
        damaged = bytearray(content)
        damaged[place] ^= 1
        path.write_bytes(damaged)
        with pytest.raises(FormatError):
            Artefact.load(path)


def test_swapped_tensors_are_refused(tmp_path: Path) -> None:
    path = tmp_path / "distilled.safetensors"
    artefact().save(path)
    with safe_open(path, framework="pt") as handle:
        metadata = handle.metadata()
    tensors = load_file(path)
    tensors["images"], tensors["initial_images"] = tensors["initial_images"], tensors["images"]
    save_file(tensors, path, metadata=metadata)
    with pytest.raises(FormatError):
        Artefact.load(path)
    del tensors["labels"]
    save_file(tensors, path, metadata=metadata)
    with pytest.raises(FormatError):
        Artefact.load(path)


def test_another_format_is_refused(tmp_path: Path) -> None:
    save_file({"images": torch.ones(1)}, tmp_path / "new.safetensors", metadata={KEY: json.dumps({"format": 3})})
    with pytest.raises(FormatError, match="format 3"):
        Artefact.load(tmp_path / "new.safetensors")


NAMES = {"dataset": {"classes": ["a", "b", "c"]}}


@pytest.mark.parametrize(
    "change",
    [
        {"lr": -1.0},
        {"classes": torch.arange(2)},
        {"initial_images": torch.zeros(1, 2, 4, 4)},
        {"images": torch.full((6, 2, 4, 4), torch.nan)},
        {"images": torch.ones(6, 2, 4, 4, dtype=torch.int64)},
        {"labels": torch.tensor([0, 0, 1, 1, 2, 3])},
        {"labels": torch.rand(6, 4)},
        {"labels": torch.full((6, 3), -5.0)},
        {"labels": torch.tensor([0.6, 0.5, -0.1]).expand(6, 3)},
        {"labels": torch.tensor([0.5, 0.3, 0.197]).expand(6, 3)},
        {"labels": torch.tensor([0.5, 0.3, 0.203]).expand(6, 3)},
        {"classes": torch.tensor([0, 1, 2, 0, 1, 2])},
        {"provenance": NAMES | {"recipe": []}},
        {"provenance": {"dataset": {"classes": [1, 2, 3]}}},
    ],
)
def test_invalid_content(change: dict[str, Any], tmp_path: Path) -> None:
    """Invalid content is not written, and not read if another program wrote it."""
    invalid = replace(artefact(), **change)
    with pytest.raises(InputError):
        invalid.save(tmp_path / "distilled.safetensors")
    assert not list(tmp_path.iterdir())
    save_unchecked(invalid, tmp_path / "distilled.safetensors")
    with pytest.raises(FormatError):
        Artefact.load(tmp_path)


@pytest.mark.parametrize("classes", [2, 10, 1000])
@pytest.mark.parametrize("scale", [0.0, 1.0, 100.0])
@pytest.mark.parametrize("source", ["teacher", "learned", "imported"])
def test_soft_labels_of_all_sources_are_valid(source: str, scale: float, classes: int, tmp_path: Path) -> None:
    """Labels may come from teachers, learned logits or an import, whose rows may deviate by almost 1e-3."""
    logits = scale * torch.randn(5, classes, classes, generator=torch.Generator().manual_seed(0))
    rows = {
        "teacher": logits.softmax(2).mean(0),
        "learned": logits[0].softmax(1),
        "imported": probabilities(logits[0].softmax(1) * 1.0009, "probabilities", "a file"),
    }[source]
    before = replace(
        artefact(),
        images=torch.zeros(classes, 2, 4, 4),
        labels=rows,
        classes=torch.arange(classes),
        provenance={"dataset": {"classes": [str(number) for number in range(classes)]}},
        initial_images=None,
    )
    before.save(tmp_path / "set.safetensors")
    assert torch.equal(Artefact.load(tmp_path / "set.safetensors").labels, before.labels)


@pytest.mark.parametrize("lr", [math.nan, math.inf])
def test_learning_rate_that_is_not_finite_is_not_written(lr: float, tmp_path: Path) -> None:
    with pytest.raises(InputError):
        replace(artefact(), lr=lr).save(tmp_path / "distilled.safetensors")


@pytest.mark.parametrize("value", [float("nan"), {1, 2}])
def test_provenance_must_be_json_able(value: Any, tmp_path: Path) -> None:
    invalid = replace(artefact(), provenance=NAMES | {"loss": value})
    with pytest.raises(InputError):
        invalid.save(tmp_path / "distilled.safetensors")


def test_set_without_class_names_is_not_written(tmp_path: Path) -> None:
    with pytest.raises(InputError):
        replace(artefact(), provenance={}).save(tmp_path / "distilled.safetensors")


def test_failed_write_leaves_other_files(tmp_path: Path) -> None:
    artefact().save(tmp_path / "set.safetensors")
    (tmp_path / "folder").write_text("a file")
    with pytest.raises(WriteError):
        artefact().save(tmp_path / "folder" / "set.safetensors")
    assert Artefact.load(tmp_path / "set.safetensors").lr == 0.0123


def train_with_torch_alone(saved: Artefact, folder: Path) -> str:
    """Return the example's output in a process that can import neither pydistill nor safetensors."""
    saved.save(folder / "set.safetensors")
    for name in ("pydistill", "safetensors"):
        (folder / f"{name}.py").write_text("raise ImportError('not here')")
    done = subprocess.run(
        [sys.executable, str(EXAMPLE), "set.safetensors"],
        cwd=folder,
        env={**os.environ, "PYTHONPATH": str(folder)},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_training_with_torch_alone(tmp_path: Path) -> None:
    saved = replace(artefact(), lr=0.1, provenance=NAMES | {"recipe": Recipe().as_dict()})
    assert train_with_torch_alone(saved, tmp_path).startswith("6 images of a, b, c: loss 0.0")
    source = EXAMPLE.read_text()
    assert "import pydistill" not in source
    assert "import safetensors" not in source
    lines = [line for line in source.split('"""')[-1].splitlines() if line and not line.startswith(("#", "print"))]
    assert len([line for line in lines if not line.startswith(("import ", "from "))]) == 10


def test_training_with_torch_alone_on_imported_soft_labels(tmp_path: Path) -> None:
    """An imported set records no evaluation, so its file holds the default one."""
    labels = torch.eye(3).repeat_interleave(2, 0)
    saved = replace(artefact(), labels=labels, initial_images=None, lr=0.1, provenance=NAMES | {"recipe": {}})
    assert train_with_torch_alone(saved, tmp_path).startswith("6 images of a, b, c: loss 0.0")
    with safe_open(tmp_path / "set.safetensors", framework="pt") as handle:
        header = json.loads(handle.metadata()[KEY])
    assert header["evaluation"] == json.loads(json.dumps(asdict(EvaluationSettings())))
    assert header["augmentation"] == header["evaluation"]["training"]["dsa"] != {}
