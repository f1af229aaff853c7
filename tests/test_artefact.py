"""The distilled set on disk: everything comes back, and damage is told."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
import torch

from pydistill.artefact import Artefact
from pydistill.data import from_tensors
from pydistill.errors import FormatError, InputError


def artefact(zca: bool = False, soft: bool = False) -> Artefact:
    generator = torch.Generator().manual_seed(0)
    raw = torch.rand(24, 2, 4, 4, generator=generator)
    labels = torch.arange(24) % 3
    data = from_tensors(raw, labels, raw, labels, zca=zca)
    images, classes = data.sample_per_class(2, generator)
    return Artefact(
        images=images,
        labels=torch.rand(6, 3, generator=generator) if soft else classes,
        classes=classes,
        lr=0.0123,
        preprocessing=data.preprocessing,
        provenance={"dataset": {"classes": ["a", "b", "c"]}, "recipe": {"steps": 3}},
        initial_images=images + 1,
    )


@pytest.mark.parametrize("zca", [False, True])
@pytest.mark.parametrize("soft", [False, True])
def test_round_trip(zca: bool, soft: bool, tmp_path: Path) -> None:
    before = artefact(zca, soft)
    before.save(tmp_path / "distilled.safetensors")
    for path in (tmp_path, tmp_path / "distilled.safetensors"):
        after = Artefact.load(path)
        for name in ("images", "labels", "classes", "initial_images"):
            assert torch.equal(getattr(after, name), getattr(before, name))
        assert (after.lr, after.provenance) == (before.lr, before.provenance)
        assert torch.equal(after.viewable(), before.viewable())
        assert after.preprocessing.fingerprint == before.preprocessing.fingerprint


def test_viewable_images_are_pixels(tmp_path: Path) -> None:
    found = artefact(zca=True).viewable()
    assert 0 <= float(found.min()) < float(found.max()) <= 1


def test_there_is_none(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="holds no distilled set"):
        Artefact.load(tmp_path)


@pytest.mark.parametrize("content", [b"", b"PK\x03\x04 something else", None])
def test_damage(content: bytes | None, tmp_path: Path) -> None:
    path = tmp_path / "distilled.safetensors"
    artefact().save(path)
    path.write_bytes(path.read_bytes()[:-20] if content is None else content)
    with pytest.raises(FormatError, match="is damaged or not a distilled set"):
        Artefact.load(path)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"lr": -1.0}, "its images or its learning rate are not usable numbers"),
        ({"classes": torch.arange(2)}, "do not agree in number"),
        ({"initial_images": torch.zeros(1, 2, 4, 4)}, "do not agree in number"),
        ({"images": torch.full((6, 2, 4, 4), torch.nan)}, "not usable numbers"),
    ],
)
def test_unusable_content(change: dict[str, object], message: str, tmp_path: Path) -> None:
    replace(artefact(), **change).save(tmp_path / "distilled.safetensors")
    with pytest.raises(FormatError, match=message):
        Artefact.load(tmp_path)
