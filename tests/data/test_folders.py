"""Image folders and archives in all layouts are read; damaged and hostile ones are refused."""

from __future__ import annotations

import io
import sys
import tarfile
from contextlib import suppress
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from pydistill.data import Dataset, DataSettings, load
from pydistill.data.imagenet import SUBSETS
from pydistill.errors import FormatError, InputError, MissingDependencyError
from tests.data.files import encoded, picture, pixels, two_classes, write_folder, write_tar, write_zip


def read(tmp_path: Path, path: Path, name: str = "folder", **settings: object) -> Dataset:
    return load(DataSettings(name=name, path=str(path), cache=str(tmp_path / "cache"), **settings))  # type: ignore[arg-type]


def unit(data: Dataset, split: str = "train") -> np.ndarray:
    """Return the images of a split as bytes."""
    images = data.preprocessing.invert(data.train_images if split == "train" else data.test_images)
    return (images * 255).round().to(torch.uint8).numpy()


def check_two_classes(data: Dataset) -> None:
    assert data.class_names == ("cat", "dog")
    assert data.train_labels.tolist() == [0, 0, 1]
    assert data.test_labels.tolist() == [0, 1]
    for position in range(3):
        assert (unit(data)[position] == pixels(picture(position))).all()
    for position in range(2):
        assert (unit(data, "test")[position] == pixels(picture(3 + position))).all()


@pytest.mark.parametrize("test", ["test", "val"])
@pytest.mark.parametrize("kind", ["folder", "tar", "tar.gz", "tar.xz", "tar.bz2", "zip"])
@pytest.mark.parametrize("outer", ["", "my-data/"])
def test_image_folder_and_archives(tmp_path: Path, test: str, kind: str, outer: str) -> None:
    files = {**two_classes(outer, test), f"{outer}README.txt": b"hello", f"{outer}train/cat/notes.txt": b"not an image"}
    if kind == "folder":
        path = write_folder(tmp_path / "data", files)
    elif kind == "zip":
        path = write_zip(tmp_path / "data.zip", files)
    else:
        path = write_tar(tmp_path / f"data.{kind}", files, kind.removeprefix("tar").removeprefix("."))
    check_two_classes(read(tmp_path, path))
    check_two_classes(read(tmp_path, path))  # from the cache
    assert [entry.name for entry in (tmp_path / "cache").iterdir()] == ["data"]  # the unpacked files are deleted


def test_folder_and_archive_have_the_same_digest(tmp_path: Path) -> None:
    folder = write_folder(tmp_path / "data", two_classes())
    archive = write_tar(tmp_path / "data.tar", dict(reversed(two_classes().items())))
    assert read(tmp_path, folder).digest == read(tmp_path, archive).digest


def test_cifar10_as_image_folder_or_archive(tmp_path: Path) -> None:
    data = read(tmp_path, write_tar(tmp_path / "c.tar.xz", two_classes(), "xz"), name="cifar10")
    assert data.name == "cifar10"
    check_two_classes(data)
    check_two_classes(read(tmp_path, write_folder(tmp_path / "c", two_classes()), name="cifar10"))


def test_fashion_mnist_as_images_has_one_channel(tmp_path: Path) -> None:
    data = read(tmp_path, write_folder(tmp_path / "f", two_classes()), name="fashion-mnist")
    assert data.in_channels == 1


def test_nested_images_and_other_types(tmp_path: Path) -> None:
    files = two_classes()
    files["train/dog/deeper/z.JPEG"] = encoded(picture(9), "JPEG")
    files["train/dog/grey.png"] = encoded(picture(10, mode="L"))
    data = read(tmp_path, write_folder(tmp_path / "data", files))
    assert data.train_labels.tolist() == [0, 0, 1, 1, 1]
    assert (unit(data)[4] == pixels(picture(10, mode="L"))).all()


def test_resizing_and_cropping_equal_torchvision(tmp_path: Path) -> None:
    transforms = pytest.importorskip("torchvision.transforms")
    data = read(tmp_path, write_folder(tmp_path / "data", two_classes(width=19, height=13)), image_size=8)
    assert data.image_size == (8, 8)
    expected = transforms.Compose([transforms.Resize(8), transforms.CenterCrop(8)])(picture(2, 19, 13))
    assert (unit(data)[2] == pixels(expected)).all()


def test_different_sizes_need_image_size(tmp_path: Path) -> None:
    path = write_folder(tmp_path / "data", {**two_classes(), "train/dog/b.png": encoded(picture(8, 7, 6))})
    with pytest.raises(InputError, match=r"data.image_size"):
        read(tmp_path, path)
    assert read(tmp_path, path, image_size=6).train_images.shape == (4, 3, 6, 6)


def test_linked_folders_are_followed(tmp_path: Path) -> None:
    files = write_folder(tmp_path / "elsewhere", two_classes())
    (tmp_path / "data").mkdir()
    for split in ("train", "test"):
        (tmp_path / "data" / split).mkdir()
        for name in ("cat", "dog"):
            (tmp_path / "data" / split / name).symlink_to(files / split / name)
    check_two_classes(read(tmp_path, tmp_path / "data"))


@pytest.mark.parametrize("kind", ["tar", "zip"])
@pytest.mark.parametrize("name", ["../../train/cat/x.png", "/train/cat/x.png", "train/../../cat/x.png"])
def test_hostile_names_write_no_file_outside_the_cache(tmp_path: Path, kind: str, name: str) -> None:
    inside = tmp_path / "deep" / "inside"
    inside.mkdir(parents=True)
    files = {**two_classes(), name: encoded(picture(50))}
    path = write_zip(inside / "d.zip", files) if kind == "zip" else write_tar(inside / "d.tar", files)
    before = sorted(str(file) for file in tmp_path.rglob("*"))
    with suppress(FormatError):
        load(DataSettings(name="folder", path=str(path), cache=str(inside / "cache")))
    written = sorted(str(file) for file in tmp_path.rglob("*") if inside / "cache" not in (file, *file.parents))
    assert written == before
    assert not Path("/train").exists()


@pytest.mark.parametrize("kind", [tarfile.SYMTYPE, tarfile.LNKTYPE, tarfile.FIFOTYPE])
def test_links_and_devices_in_archives_are_refused(tmp_path: Path, kind: bytes) -> None:
    secret = tmp_path / "secret.png"
    secret.write_bytes(encoded(picture(77)))
    path = write_tar(tmp_path / "d.tar", two_classes())
    with tarfile.open(path, "a") as archive:
        member = tarfile.TarInfo("train/cat/link.png")
        member.type, member.linkname = kind, str(secret)
        archive.addfile(member)
    with pytest.raises(FormatError, match=r"d\.tar"):
        read(tmp_path, path)


def test_damaged_image_is_named(tmp_path: Path) -> None:
    half = encoded(picture(0, 40, 40))
    half = half[: len(half) // 2]
    for kind, write in (("tar", write_tar), ("zip", write_zip), ("folder", write_folder)):
        path = write(tmp_path / f"d.{kind}", {**two_classes(), "train/dog/broken.png": half})
        with pytest.raises(FormatError, match=rf"'train/dog/broken.png' of .*d\.{kind}"):
            read(tmp_path, path)
    path = write_folder(tmp_path / "data", {**two_classes(), "test/dog/text.jpg": b"not an image"})
    with pytest.raises(FormatError, match=r"'test/dog/text.jpg'"):
        read(tmp_path, path)
    assert not list((tmp_path / "cache").iterdir())


def test_images_of_16_bits_and_huge_images_are_refused(tmp_path: Path) -> None:
    deep = Image.fromarray(np.full((6, 6), 40000, dtype=np.uint16))
    huge = Image.new("1", (9000, 9000))
    for name, image in (("deep", deep), ("huge", huge)):
        path = write_folder(tmp_path / name, {**two_classes(), f"train/cat/{name}.png": encoded(image)})
        with pytest.raises(FormatError, match=rf"'train/cat/{name}.png'"):
            read(tmp_path, path)


@pytest.mark.parametrize("kind", ["tar.gz", "tar.xz", "tar", "zip"])
def test_truncated_archive(tmp_path: Path, kind: str) -> None:
    files = two_classes(width=60, height=60)
    path = tmp_path / f"d.{kind}"
    if kind == "zip":
        write_zip(path, files)
    else:
        write_tar(path, files, kind.removeprefix("tar").removeprefix("."))
    path.write_bytes(path.read_bytes()[:9000])
    with pytest.raises(FormatError, match=rf"d\.{kind}"):
        read(tmp_path, path)


@pytest.mark.parametrize("content", [b"", b"hello " * 1000, b"PK other", b"\xfd7zXZ\x00 other"])
def test_files_that_are_not_archives(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "d.tar").write_bytes(content)
    with pytest.raises((FormatError, InputError), match=r"d\.tar"):
        read(tmp_path, tmp_path / "d.tar")


def test_encrypted_zip(tmp_path: Path) -> None:
    path = write_zip(tmp_path / "d.zip", two_classes())
    content = bytearray(path.read_bytes())
    for mark, offset in ((b"PK\x03\x04", 6), (b"PK\x01\x02", 8)):  # the flag "encrypted" of every entry
        position = content.find(mark)
        while position >= 0:
            content[position + offset] |= 1
            position = content.find(mark, position + 4)
    path.write_bytes(bytes(content))
    with pytest.raises(FormatError, match="encrypted"):
        read(tmp_path, path)


def test_missing_parts(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"data.path"):
        load(DataSettings(name="folder"))
    with pytest.raises(InputError, match=r"nowhere"):
        read(tmp_path, tmp_path / "nowhere")
    files = two_classes()
    path = write_folder(tmp_path / "a", {name: data for name, data in files.items() if name.startswith("train")})
    with pytest.raises(InputError, match=r"test or val/<class>/"):
        read(tmp_path, path)
    path = write_zip(tmp_path / "b.zip", {name: data for name, data in files.items() if name.startswith("test")})
    with pytest.raises(InputError, match=r"b\.zip"):
        read(tmp_path, path)
    with pytest.raises(InputError, match=r"one, two"):
        read(tmp_path, write_folder(tmp_path / "c", {**two_classes("one/"), **two_classes("two/")}))
    with pytest.raises(InputError, match=r"bird"):
        read(tmp_path, write_folder(tmp_path / "d", {**files, "test/bird/a.png": encoded(picture(1))}))
    path = write_folder(tmp_path / "e", files)
    (path / "train" / "bird").mkdir()
    with pytest.raises(InputError, match=r"train/bird/"):
        read(tmp_path, path)


def test_without_pillow(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = write_folder(tmp_path / "a", two_classes())
    monkeypatch.setitem(sys.modules, "PIL", None)
    with pytest.raises(MissingDependencyError, match=r"pip install pillow"):
        read(tmp_path, path)


def subset_files(name: str, outer: str = "", size: int = 20) -> dict[str, bytes]:
    files = {}
    for number, wordnet_id in enumerate(SUBSETS[name]):
        files[f"{outer}train/{wordnet_id}/{wordnet_id}_1.JPEG"] = encoded(picture(number, size, size + 3), "JPEG")
        files[f"{outer}val/{wordnet_id}/ILSVRC2012_val_{number:08}.JPEG"] = encoded(picture(number, size, size), "JPEG")
    return files


@pytest.mark.parametrize("name", list(SUBSETS))
def test_imagenet_subsets_from_imagenet_or_separate(tmp_path: Path, name: str) -> None:
    others = {
        "train/n99999999/x.JPEG": b"never read",
        "val/n99999999/x.JPEG": b"never read",
        "test/x.JPEG": b"never read",
    }
    data = read(
        tmp_path, write_folder(tmp_path / "imagenet", {**subset_files(name), **others}), name=name, image_size=16
    )
    assert data.class_names == tuple(SUBSETS[name].values())
    assert data.train_images.shape == (10, 3, 16, 16)
    assert data.train_labels.tolist() == data.test_labels.tolist() == list(range(10))
    archive = write_tar(tmp_path / "subset.tgz", subset_files(name, "subset2/"), "gz")
    assert read(tmp_path, archive, name=name, image_size=16).digest == data.digest


def test_imagenet_subsets_are_128_pixels_by_default(tmp_path: Path) -> None:
    data = read(tmp_path, write_folder(tmp_path / "i", subset_files("imagewoof")), name="imagewoof")
    assert data.image_size == (128, 128)
    # Labels follow the published order instead of the order of the folder names.
    first = encoded(picture(0, 20, 23), "JPEG")
    expected = Image.open(io.BytesIO(first)).resize((128, 147), Image.Resampling.BILINEAR).crop((0, 10, 128, 138))
    assert (unit(data)[0] == pixels(expected)).all()


def test_incomplete_subset_names_the_missing_class(tmp_path: Path) -> None:
    files = {name: data for name, data in subset_files("imagefruit").items() if "n07742313" not in name}
    with pytest.raises(InputError, match=r"train/n07742313/"):
        read(tmp_path, write_folder(tmp_path / "i", files), name="imagefruit")
    with pytest.raises(InputError, match=r"data\.path must be .* for imagemeow"):
        load(DataSettings(name="imagemeow"))


def test_published_subsets() -> None:
    assert list(SUBSETS) == ["imagenette", "imagewoof", "imagefruit", "imagemeow", "imagesquawk", "imageyellow"]
    assert all(len(set(subset)) == len(set(subset.values())) == 10 for subset in SUBSETS.values())
    # An id has the same name in all subsets.
    names: dict[str, set[str]] = {}
    for subset in SUBSETS.values():
        for wordnet_id, name in subset.items():
            names.setdefault(wordnet_id, set()).add(name)
    assert len(names) == 57
    assert all(len(names_of_id) == 1 for names_of_id in names.values())


def tiny_files() -> dict[str, bytes]:
    outer = "tiny-imagenet-200/"
    files = {
        outer + "wnids.txt": b"n02\nn01\n",
        outer + "words.txt": b"n01\tgoldfish, Carassius auratus\nn02\tsalamander\nn03\tother\n",
        outer + "val/val_annotations.txt": b"val_0.JPEG\tn02\t0\t0\t9\t9\nval_1.JPEG\tn01\t0\t0\t9\t9\n",
        outer + "test/images/test_0.JPEG": encoded(picture(90, 64, 64), "JPEG"),
    }
    for number, name in enumerate(
        ["train/n01/images/n01_0", "train/n02/images/n02_0", "val/images/val_0", "val/images/val_1"]
    ):
        files[f"{outer}{name}.JPEG"] = encoded(picture(number, 64, 64), "JPEG")
        files[f"{outer}train/n01/n01_boxes.txt"] = b"n01_0.JPEG\t0\t0\t9\t9\n"
    return files


@pytest.mark.parametrize("kind", ["zip", "folder"])
def test_tiny_imagenet_in_its_own_layout(tmp_path: Path, kind: str) -> None:
    files = tiny_files()
    path = write_zip(tmp_path / "tiny.zip", files) if kind == "zip" else write_folder(tmp_path / "tiny", files)
    data = read(tmp_path, path, name="tiny-imagenet")
    assert data.class_names == ("goldfish", "salamander")
    assert data.train_images.shape == (2, 3, 64, 64)
    assert data.test_labels.tolist() == [0, 1]
    names = list(files)
    annotated_first = next(name for name in names if name.endswith("val_1.JPEG"))
    expected = np.asarray(Image.open(io.BytesIO(files[annotated_first]))).transpose(2, 0, 1)
    assert (unit(data, "test")[0] == expected).all()


def test_tiny_imagenet_as_an_image_folder(tmp_path: Path) -> None:
    files = {}
    for number, name in enumerate(["train/n01/a", "train/n02/a", "val/n01/b", "val/n02/b"]):
        files[f"{name}.JPEG"] = encoded(picture(number, 64, 64), "JPEG")
    data = read(tmp_path, write_folder(tmp_path / "tiny", files), name="tiny-imagenet")
    assert data.class_names == ("n01", "n02")
    assert data.test_labels.tolist() == [0, 1]


def test_tiny_imagenet_without_its_annotations(tmp_path: Path) -> None:
    files = {name: data for name, data in tiny_files().items() if not name.endswith("annotations.txt")}
    with pytest.raises(InputError, match=r"'images'"):
        read(tmp_path, write_zip(tmp_path / "tiny.zip", files), name="tiny-imagenet")
