from __future__ import annotations

import os
from pathlib import Path

import pytest
import torch

from pydistill.data import Dataset, DataSettings, Zca, load
from pydistill.data.cache import cache_folder
from tests.data.files import encoded, picture, two_classes, write_folder, write_tar


def read(tmp_path: Path, path: Path, **settings: object) -> Dataset:
    return load(DataSettings(name="folder", path=str(path), cache=str(tmp_path / "cache"), **settings))  # type: ignore[arg-type]


def no_decoding(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: object) -> None:
        raise AssertionError("decoded although the cache holds the data")

    monkeypatch.setattr("pydistill.data.folders.decode", refuse)


@pytest.mark.parametrize("kind", ["archive", "folder"])
def test_image_files_are_decoded_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, kind: str) -> None:
    files = two_classes()
    path = write_tar(tmp_path / "d.tar", files) if kind == "archive" else write_folder(tmp_path / "d", files)
    first = read(tmp_path, path)
    no_decoding(monkeypatch)
    second = read(tmp_path, path)
    assert second.digest == first.digest
    assert second.class_names == first.class_names
    assert torch.equal(second.train_images, first.train_images)
    assert torch.equal(second.test_labels, first.test_labels)
    assert second.preprocessing.fingerprint == first.preprocessing.fingerprint
    with pytest.raises(AssertionError):
        read(tmp_path, path, image_size=4)


def test_changed_files_are_read_again(tmp_path: Path) -> None:
    path = write_folder(tmp_path / "d", two_classes())
    before = read(tmp_path, path).digest
    (path / "train/cat/a.png").write_bytes(encoded(picture(99)))
    os.utime(path / "train/cat/a.png", ns=(1, 1))
    after = read(tmp_path, path)
    assert after.digest != before
    (path / "train/cat/new.png").write_bytes(encoded(picture(98)))
    assert len(read(tmp_path, path).train_labels) == len(after.train_labels) + 1
    archive = write_tar(tmp_path / "d.tar", two_classes())
    assert read(tmp_path, archive).digest == before
    write_tar(archive, {**two_classes(), "train/cat/new.png": encoded(picture(98))})
    assert read(tmp_path, archive).digest != before


@pytest.mark.parametrize("damage", ["cut", "flip", "empty"])
def test_damaged_entry_is_replaced_with_a_warning(tmp_path: Path, damage: str) -> None:
    path = write_tar(tmp_path / "d.tar", two_classes())
    original = read(tmp_path, path)
    (entry,) = (tmp_path / "cache" / "data").iterdir()
    content = bytearray(entry.read_bytes())
    if damage == "cut":
        content = content[:-10]
    elif damage == "flip":
        content[-1] ^= 1
    else:
        content.clear()
    entry.write_bytes(bytes(content))
    with pytest.warns(UserWarning, match="damaged"):
        again = read(tmp_path, path)
    assert again.digest == original.digest
    assert read(tmp_path, path).digest == original.digest


def test_failed_read_leaves_no_entry(tmp_path: Path) -> None:
    path = write_tar(tmp_path / "d.tar", {**two_classes(), "train/cat/z.png": b"not an image"})
    with pytest.raises(ValueError, match=r"z.png"):
        read(tmp_path, path)
    assert not list(tmp_path.glob("cache/**/*.safetensors*"))


def test_zca_is_fitted_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    settings = DataSettings(zca=True, cache=str(tmp_path))
    first = load(settings)
    (entry,) = (tmp_path / "preprocessing").iterdir()

    def refuse(*_: object, **__: object) -> None:
        raise AssertionError("fitted although the cache holds the matrix")

    monkeypatch.setattr(Zca, "fit", refuse)
    second = load(settings)
    assert torch.equal(first.train_images, second.train_images)
    assert first.preprocessing.fingerprint == second.preprocessing.fingerprint
    monkeypatch.undo()
    entry.write_bytes(entry.read_bytes()[:-10])
    with pytest.warns(UserWarning, match="damaged"):
        third = load(settings)
    assert torch.equal(first.train_images, third.train_images)


def test_location_of_the_cache(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    assert cache_folder("/somewhere") == Path("/somewhere")
    monkeypatch.setenv("PYDISTILL_CACHE", str(tmp_path / "c"))
    assert cache_folder(None) == tmp_path / "c"
    monkeypatch.delenv("PYDISTILL_CACHE")
    monkeypatch.setenv("HOME", str(tmp_path))
    assert cache_folder(None) == tmp_path / ".cache" / "pydistill"


def test_loading_digits_writes_no_file(tmp_path: Path) -> None:
    load(DataSettings(cache=str(tmp_path / "cache")))
    assert not (tmp_path / "cache").exists()


def test_what_a_killed_process_left_is_removed_after_a_day(tmp_path: Path) -> None:
    path = write_tar(tmp_path / "d.tar", two_classes())
    cache = tmp_path / "cache"
    (cache / "data").mkdir(parents=True)
    names = [".folder-12.safetensors.7-0123abcd.tmp", ".tmpAbC123"]
    for name in names:
        (cache / "data" / name).touch()
        (cache / "data" / name.replace("7-", "8-").replace("Ab", "Ba")).touch()
        os.utime(cache / "data" / name, (0, 0))
    (cache / ".unpacked-old").mkdir()
    os.utime(cache / ".unpacked-old", (0, 0))
    (cache / ".unpacked-new").mkdir()
    read(tmp_path, path)
    left = {entry.name for entry in (*cache.rglob(".*"),)}
    assert left == {".folder-12.safetensors.8-0123abcd.tmp", ".tmpBaC123", ".unpacked-new"}
