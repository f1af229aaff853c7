"""Exports are in other tools' formats, can be imported again, and write all files or none."""

from __future__ import annotations

import json
import os
import resource
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

from pydistill._util.files import WriteError
from pydistill.artefact.distilled_set import DistilledSet
from pydistill.artefact.exchange import FORMATS, export_set, import_set, readers_normalisation
from pydistill.artefact.exchange.imagefolder import class_folders
from pydistill.artefact.file import Artefact
from pydistill.errors import InputError
from tests.artefact.exchange.sets import BOTH_WAYS, made


@pytest.mark.parametrize("form", BOTH_WAYS)
@pytest.mark.parametrize("soft", [False, True])
@pytest.mark.parametrize("zca", [False, True])
def test_export_as_is_round_trips(form: str, soft: bool, zca: bool, tmp_path: Path) -> None:
    """The bits are equal, except for soft labels, which are converted to logits and back."""
    before = made(soft=soft, zca=zca)
    if form == "dcbench" and soft:
        with pytest.raises(InputError):
            export_set(before, form, tmp_path)
        return
    done = export_set(before, form, tmp_path, as_is=True)
    assert not done.converted
    after = import_set(form, done.folder, lr=before.lr if form == "dcbench" else None, like=before)
    assert torch.equal(after.images, before.images)
    if soft:
        torch.testing.assert_close(after.labels, before.labels, rtol=1e-5, atol=1e-7)
    else:
        assert torch.equal(after.labels, before.labels)
    assert torch.equal(after.classes, before.classes)
    assert torch.equal(after.viewable().images, before.viewable().images)
    assert (after.lr, after.class_names, after.recipe.model) == (before.lr, before.class_names, before.recipe.model)
    assert after.provenance["imported"]["format"] == form
    after.save(tmp_path / "again.safetensors")
    assert torch.equal(Artefact.load(tmp_path / "again.safetensors").images, before.images)


@pytest.mark.parametrize("form", BOTH_WAYS)
@pytest.mark.parametrize("zca", [False, True])
def test_converted_export_round_trips(form: str, zca: bool, tmp_path: Path) -> None:
    """The exported images have another normalisation, but the imported pixels are equal up to rounding."""
    before = made(zca=zca)
    done = export_set(before, form, tmp_path)
    assert done.converted == (not zca or form == "dcbench")
    after = import_set(form, done.folder, lr=before.lr, like=before)
    torch.testing.assert_close(after.viewable().images, before.viewable().images, rtol=0, atol=2e-6)
    assert after.preprocessing.kind == ("normalise" if done.converted else "zca")


@pytest.mark.parametrize("form", BOTH_WAYS)
def test_images_are_converted_to_the_readers_statistics(form: str, tmp_path: Path) -> None:
    """The readers' code computes (x − mean) / std with its constants."""
    before = made()
    done = export_set(before, form, tmp_path)
    images = torch.load(next(path for path in done.files if "images" in path.name), weights_only=True)
    mean, std = (
        torch.tensor(numbers)[:, None, None] for numbers in ([0.4914, 0.4822, 0.4465], [0.2023, 0.1994, 0.201])
    )
    pixels = before.preprocessing.invert(before.images)
    torch.testing.assert_close(images, (pixels - mean) / std)
    assert done.converted
    assert "mean [0.4914, 0.4822, 0.4465]" in done.description()
    after = import_set(form, done.folder, lr=0.0123, dataset="cifar10", class_names=before.class_names)
    torch.testing.assert_close(after.viewable().images, before.viewable().images)


@pytest.mark.parametrize("form", BOTH_WAYS)
def test_images_with_the_readers_statistics_are_not_converted(form: str, tmp_path: Path) -> None:
    """Their bits do not change, also in the export of an import."""
    theirs = readers_normalisation("cifar10", form)
    assert theirs is not None
    before = DistilledSet(replace(made().artefact, preprocessing=theirs))
    done = export_set(before, form, tmp_path / "first")
    images = torch.load(next(path for path in done.files if "images" in path.name), weights_only=True)
    assert torch.equal(images, before.images)
    assert not done.converted
    assert "the set's own statistics: mean [0.4914, 0.4822, 0.4465]" in done.description()
    after = import_set(form, done.folder, lr=before.lr, like=before)
    again = export_set(after, form, tmp_path / "second")
    assert torch.equal(import_set(form, again.folder, lr=before.lr, like=before).images, before.images)


def test_statistics_of_dc_bench_for_cifar100() -> None:
    theirs, others = (readers_normalisation("cifar100", form) for form in ("dcbench", "mtt"))
    assert theirs is not None
    assert others is not None
    assert theirs.mean.tolist() == [0.5071, 0.4866, 0.4409]
    assert others.mean.tolist() == [0.4914, 0.4822, 0.4465]
    assert readers_normalisation("digits", "mtt") is None


@pytest.mark.parametrize(("form", "stays"), [("mtt", True), ("ddranking", True), ("dcbench", False)])
def test_whitened_images_stay_whitened_if_readers_whiten(form: str, stays: bool, tmp_path: Path) -> None:
    before = made(zca=True)
    done = export_set(before, form, tmp_path)
    images = torch.load(next(path for path in done.files if "images" in path.name), weights_only=True)
    assert torch.equal(images, before.images) == stays
    assert ("whitened" in done.description()) == stays


@pytest.mark.parametrize("name", ["svhn", "my-own"])
def test_whitened_images_without_published_statistics_are_refused_for_dc_bench(name: str, tmp_path: Path) -> None:
    before = made(name, zca=True)
    with pytest.raises(InputError):
        export_set(before, "dcbench", tmp_path)
    assert not list(tmp_path.iterdir())
    done = export_set(before, "dcbench", tmp_path, as_is=True)
    assert torch.equal(torch.load(done.files[0], weights_only=True), before.images)
    assert export_set(made(name), "dcbench", tmp_path / "other").preprocessing is not None


def test_images_without_published_statistics_are_not_converted(tmp_path: Path) -> None:
    done = export_set(made("my-own"), "mtt", tmp_path)
    assert not done.converted
    assert "the set's own statistics: mean [" in done.description()


def test_files_of_the_formats(tmp_path: Path) -> None:
    soft, hard = made(soft=True), made()
    mtt = export_set(hard, "mtt", tmp_path / "mtt").folder
    assert sorted(path.name for path in mtt.iterdir()) == [
        *("images_best.pt", "labels_best.pt", "lr_best.pt"),
        "preprocessing.json",  # ours; the tools ignore it
    ]
    assert torch.load(mtt / "labels_best.pt", weights_only=True).tolist() == [0, 0, 1, 1, 2, 2]
    ranking = export_set(soft, "ddranking", tmp_path / "dd").folder
    images, labels, lr = (torch.load(ranking / f"{name}.pt", weights_only=True) for name in ("images", "labels", "lr"))
    assert list(images.shape) == [6, 3, 4, 4]
    torch.testing.assert_close(labels.softmax(1), soft.labels)
    assert lr.item() == 0.0123
    bench = export_set(hard, "dcbench", tmp_path / "bench")
    assert bench.folder == tmp_path / "bench" / "TM" / "CIFAR10" / "IPC2"
    assert sorted(path.name for path in bench.files) == ["images_best.pt", "labels_best.pt", "preprocessing.json"]


def test_dc_bench_splits_tiny_imagenet_at_ipc_50(tmp_path: Path) -> None:
    before = made("tiny-imagenet", ipc=10)
    images = before.images.repeat_interleave(5, 0)
    classes = before.classes.repeat_interleave(5)
    many = replace(before.artefact, images=images, labels=classes, classes=classes, initial_images=None)
    done = export_set(many, "dcbench", tmp_path, as_is=True)
    assert {path.name for path in done.files if path.suffix == ".pt"} == {
        f"{stem}_best_{n}.pt" for stem in ("images", "labels") for n in range(5)
    }
    assert torch.equal(import_set("dcbench", done.folder, lr=0.1, like=before).images, images)


def test_image_folder(tmp_path: Path) -> None:
    image = pytest.importorskip("PIL.Image")
    before = made(soft=True)
    done = export_set(before, "imagefolder", tmp_path)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["ant", "bee", "cat", "distilled.json"]
    assert len(done.files) == 7
    pixels = torch.tensor(list(image.open(tmp_path / "bee" / "0001.png").tobytes())).reshape(4, 4, 3).permute(2, 0, 1)
    assert float((pixels / 255 - before.viewable().images[3]).abs().max()) <= 0.5 / 255 + 1e-6
    about = json.loads((tmp_path / "distilled.json").read_text())
    assert about["lr"] == 0.0123
    assert about["soft_labels"]["bee/0001.png"] == before.labels[3].tolist()
    with pytest.raises(InputError):
        export_set(before, "imagefolder", tmp_path / "other", as_is=True)


@pytest.mark.parametrize(
    ("names", "expected"),
    [
        (["ant", "bee"], ["ant", "bee"]),
        (["bee", "ant"], ["0_bee", "1_ant"]),
        (["../../etc", "/tmp/x", ".hidden"], ["0_-etc", "1_-tmp-x", "2_-hidden"]),
        (["a", "a"], ["0_a", "1_a"]),
        ([str(number) for number in range(12)], [f"{n:02d}_{n}" for n in range(12)]),
    ],
)
def test_class_names_cannot_leave_the_folder(names: list[str], expected: list[str]) -> None:
    assert class_folders(names) == expected
    assert sorted(expected) == expected


def test_hostile_data_set_name_cannot_leave_the_folder(tmp_path: Path) -> None:
    with pytest.raises(InputError):
        export_set(made("../.."), "dcbench", tmp_path / "out")
    assert not list(tmp_path.iterdir())


def test_existing_files_are_not_replaced(tmp_path: Path) -> None:
    (tmp_path / "images_best.pt").write_text("mine")
    for form in ("mtt", "ddranking", "imagefolder"):
        with pytest.raises(InputError):
            export_set(made(), form, tmp_path)
    assert (tmp_path / "images_best.pt").read_text() == "mine"


def test_import_from_the_root_of_dc_bench(tmp_path: Path) -> None:
    before = made()
    done = export_set(before, "dcbench", tmp_path / "root")
    assert done.folder == tmp_path / "root" / "TM" / "CIFAR10" / "IPC2"
    imported = import_set("dcbench", done.folder, lr=0.1, dataset="cifar10")
    for folder in (tmp_path / "root", tmp_path / "root" / "TM", done.folder.parent):
        assert torch.equal(import_set("dcbench", folder, lr=0.1, dataset="cifar10").images, imported.images)
    export_set(made(ipc=1), "dcbench", tmp_path / "root")
    with pytest.raises(InputError):
        import_set("dcbench", tmp_path / "root", lr=0.1, dataset="cifar10")
    with pytest.raises(InputError):
        import_set("dcbench", tmp_path / "elsewhere", lr=0.1, dataset="cifar10")


@pytest.mark.parametrize("form", FORMATS)
@pytest.mark.parametrize("exists", [False, True], ids=["new", "empty"])
def test_failed_export_can_be_repeated(
    form: str, exists: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    out = tmp_path / "out"
    if exists:
        out.mkdir()
    replace, count = os.replace, [0]

    def full(*paths: Any) -> None:
        count[0] += 1
        if count[0] == 2:
            raise OSError(28, "No space left on device")
        replace(*paths)

    with monkeypatch.context() as patch:
        patch.setattr(os, "replace", full)
        with pytest.raises(WriteError):
            export_set(made(), form, out)
    assert not [path for path in tmp_path.rglob("*") if path.is_file()]
    done = export_set(made(), form, out)
    assert all(path.is_file() for path in done.files)
    assert {path for path in tmp_path.rglob("*") if path.is_file()} == set(done.files)


@pytest.mark.parametrize(
    ("form", "file"),
    [
        ("mtt", "images_best.pt"),
        ("dcbench", "TM/CIFAR10/IPC2/images_best.pt"),
        ("ddranking", "images.pt"),
        ("imagefolder", "ant/0000.png"),
    ],
)
@pytest.mark.parametrize("exists", [False, True], ids=["new", "empty"])
def test_full_disk_is_reported_with_the_path_of_the_caller(
    form: str, file: str, exists: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    if exists:
        Path("out").mkdir()
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (20, hard))
    try:
        with pytest.raises(WriteError) as caught:
            export_set(made(), form, "out")
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    assert str(caught.value).startswith(f"cannot write out/{file}: File too large")
    assert not [path for path in tmp_path.rglob("*") if path.is_file()]


@pytest.mark.parametrize("error", [OSError(28, "No space left on device"), KeyboardInterrupt()])
@pytest.mark.parametrize("form", ["mtt", "ddranking", "imagefolder"])
def test_export_that_fails_while_moving_files_can_be_repeated(
    form: str, error: BaseException, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Files are moved one by one into a folder that exists."""
    out = tmp_path / "out"
    out.mkdir()
    rename, left = Path.rename, [1]

    def broken(self: Path, target: Path) -> Path:
        if Path(target).parent == out and not left:
            raise error
        left.clear()
        return rename(self, target)

    with monkeypatch.context() as patch:
        patch.setattr(Path, "rename", broken)
        with pytest.raises((WriteError, KeyboardInterrupt)):
            export_set(made(), form, out)
        assert not left
    assert list(tmp_path.rglob("*")) == [out]
    done = export_set(made(), form, out)
    assert {path for path in out.rglob("*") if path.is_file()} == set(done.files)


def test_unknown_format(tmp_path: Path) -> None:
    with pytest.raises(InputError):
        export_set(made(), "npz", tmp_path)
