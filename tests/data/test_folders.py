from __future__ import annotations

import io
import tarfile
import zipfile
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from pydistill.data import Dataset, DataSettings, load
from pydistill.data.imagenet import SUBSETS
from pydistill.errors import FormatError, InputError
from tests.data.files import encoded, picture, pixels, two_classes, write_folder, write_tar, write_zip


def read(tmp_path: Path, path: Path, name: str = "folder", **settings: object) -> Dataset:
    return load(DataSettings(name=name, path=str(path), cache=str(tmp_path / "cache"), **settings))  # type: ignore[arg-type]


def unit(data: Dataset, split: str = "train") -> np.ndarray:
    """The images as bytes again."""
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
def test_an_image_folder_in_every_wrapping(tmp_path: Path, test: str, kind: str, outer: str) -> None:
    files = {**two_classes(outer, test), f"{outer}README.txt": b"hello", f"{outer}train/cat/notes.txt": b"no image"}
    if kind == "folder":
        path = write_folder(tmp_path / "data", files)
    elif kind == "zip":
        path = write_zip(tmp_path / "data.zip", files)
    else:
        path = write_tar(tmp_path / f"data.{kind}", files, kind.removeprefix("tar").removeprefix("."))
    check_two_classes(read(tmp_path, path))
    again = read(tmp_path, path)
    check_two_classes(again)


def test_folder_and_archive_hold_the_same_data(tmp_path: Path) -> None:
    folder = write_folder(tmp_path / "data", two_classes())
    archive = write_tar(tmp_path / "data.tar", dict(reversed(two_classes().items())))
    assert read(tmp_path, folder).digest == read(tmp_path, archive).digest


def test_the_cifar10_name_takes_an_archive_too(tmp_path: Path) -> None:
    data = read(tmp_path, write_tar(tmp_path / "c.tar.xz", two_classes(), "xz"), name="cifar10")
    assert data.name == "cifar10"
    check_two_classes(data)
    check_two_classes(read(tmp_path, write_folder(tmp_path / "c", two_classes()), name="cifar10"))


def test_fashion_mnist_as_images_has_one_channel(tmp_path: Path) -> None:
    data = read(tmp_path, write_folder(tmp_path / "f", two_classes()), name="fashion-mnist")
    assert data.in_channels == 1


def test_images_deeper_in_a_class_and_of_other_types_are_read(tmp_path: Path) -> None:
    files = two_classes()
    files["train/dog/deeper/z.JPEG"] = encoded(picture(9), "JPEG")
    files["train/dog/grey.png"] = encoded(picture(10, mode="L"))
    data = read(tmp_path, write_folder(tmp_path / "data", files))
    assert data.train_labels.tolist() == [0, 0, 1, 1, 1]
    assert (unit(data)[4] == pixels(picture(10, mode="L"))).all()


def test_resizing_and_cropping_is_that_of_the_field(tmp_path: Path) -> None:
    transforms = pytest.importorskip("torchvision.transforms")
    data = read(tmp_path, write_folder(tmp_path / "data", two_classes(width=19, height=13)), image_size=8)
    assert data.image_size == (8, 8)
    expected = transforms.Compose([transforms.Resize(8), transforms.CenterCrop(8)])(picture(2, 19, 13))
    assert (unit(data)[2] == pixels(expected)).all()


def test_sizes_that_differ_need_an_image_size(tmp_path: Path) -> None:
    files = {**two_classes(), "train/dog/b.png": encoded(picture(8, 7, 6))}
    path = write_folder(tmp_path / "data", files)
    message = "differ in size: 'train/cat/a.png' has 6×6 pixels, 'train/dog/b.png' 7×6; give data.image_size"
    with pytest.raises(InputError, match=message):
        read(tmp_path, path)
    assert read(tmp_path, path, image_size=6).train_images.shape == (4, 3, 6, 6)
    with pytest.raises(InputError, match=r"data.image_size=0 must be at least 1 pixel"):
        read(tmp_path, path, image_size=0)


@pytest.mark.parametrize("kind", ["tar", "zip"])
@pytest.mark.parametrize(
    "name",
    [
        "../../train/cat/x.png",
        "/train/cat/x.png",
        "train/../../cat/x.png",
        "a/b/c/train/cat/x.png",
        "train/./x.png",
        "..\\train\\cat\\x.png",
    ],
)
def test_hostile_names_reach_nothing(tmp_path: Path, kind: str, name: str) -> None:
    inside = tmp_path / "deep" / "inside"
    inside.mkdir(parents=True)
    files = {**two_classes(), name: encoded(picture(50))}
    path = write_zip(inside / "d.zip", files) if kind == "zip" else write_tar(inside / "d.tar", files)
    before = sorted(str(found) for found in tmp_path.rglob("*"))
    data = load(DataSettings(name="folder", path=str(path), cache=str(inside / "cache")))
    check_two_classes(data)
    written = sorted(str(found) for found in tmp_path.rglob("*") if inside / "cache" not in (found, *found.parents))
    assert written == before


def test_links_and_devices_in_an_archive_are_not_followed(tmp_path: Path) -> None:
    secret = tmp_path / "secret.png"
    secret.write_bytes(encoded(picture(77)))
    path = write_tar(tmp_path / "d.tar", two_classes())
    with tarfile.open(path, "a") as archive:
        for number, (kind, target) in enumerate(
            [(tarfile.SYMTYPE, str(secret)), (tarfile.LNKTYPE, "train/cat/a.png"), (tarfile.FIFOTYPE, "")]
        ):
            member = tarfile.TarInfo(f"train/cat/link{number}.png")
            member.type, member.linkname = kind, target
            archive.addfile(member)
    check_two_classes(read(tmp_path, path))


def test_an_image_that_cannot_be_decoded_is_named(tmp_path: Path) -> None:
    whole = encoded(picture(0, 40, 40))
    for kind, write in (("tar", write_tar), ("zip", write_zip)):
        path = write(tmp_path / f"d.{kind}", {**two_classes(), "train/dog/broken.png": whole[: len(whole) // 2]})
        with pytest.raises(
            FormatError, match=rf"image 'train/dog/broken.png' of .*d\.{kind} is no image that can be decoded"
        ):
            read(tmp_path, path)
    path = write_folder(tmp_path / "data", {**two_classes(), "test/dog/text.jpg": b"not an image"})
    with pytest.raises(FormatError, match=r"image 'test/dog/text.jpg' of .* is no image that can be decoded"):
        read(tmp_path, path)
    assert not (tmp_path / "cache").exists()


def test_sixteen_bits_and_huge_images_are_refused(tmp_path: Path) -> None:
    deep = Image.fromarray(np.full((6, 6), 40000, dtype=np.uint16))
    path = write_folder(tmp_path / "deep", {**two_classes(), "train/cat/deep.png": encoded(deep)})
    with pytest.raises(FormatError, match=r"'train/cat/deep.png' .*more than 8 bits per channel \(mode I;16\)"):
        read(tmp_path, path)
    huge = encoded(Image.new("1", (9000, 9000)))
    path = write_folder(tmp_path / "huge", {**two_classes(), "train/cat/huge.png": huge})
    with pytest.raises(FormatError, match=r"'train/cat/huge.png' .*9000×9000 pixels; the limit is 64,000,000"):
        read(tmp_path, path)


@pytest.mark.parametrize("kind", ["tar.gz", "tar.xz", "tar", "zip"])
def test_an_archive_cut_short(tmp_path: Path, kind: str) -> None:
    files = two_classes(width=60, height=60)
    path = tmp_path / f"d.{kind}"
    if kind == "zip":
        write_zip(path, files)
    else:
        write_tar(path, files, kind.removeprefix("tar").removeprefix("."))
    path.write_bytes(path.read_bytes()[:9000])
    with pytest.raises(FormatError, match=rf"d\.{kind} is no readable .*zip archive .*damaged or cut short"):
        read(tmp_path, path)


def test_files_that_are_no_archive(tmp_path: Path) -> None:
    for number, content in enumerate([b"", b"hello " * 1000, b"PK nothing", b"\xfd7zXZ\x00 no xz"]):
        path = tmp_path / f"d{number}.tar"
        path.write_bytes(content)
        with pytest.raises((FormatError, InputError), match=rf"d{number}\.tar (is no readable|holds no image)"):
            read(tmp_path, path)


def test_a_zip_with_a_password(tmp_path: Path) -> None:
    path = write_zip(tmp_path / "d.zip", two_classes())
    content = bytearray(path.read_bytes())
    for mark, offset in ((b"PK\x03\x04", 6), (b"PK\x01\x02", 8)):  # the flag "encrypted" of each entry
        position = content.find(mark)
        while position >= 0:
            content[position + offset] |= 1
            position = content.find(mark, position + 4)
    path.write_bytes(bytes(content))
    with pytest.raises(FormatError, match=r"d.zip is no readable zip archive .*encrypted"):
        read(tmp_path, path)


def test_members_too_large_are_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("pydistill.data.members.MAX_BYTES", 1000)
    files = {**two_classes(), "train/cat/large.png": b"\0" * 2000}
    for path in (write_tar(tmp_path / "d.tar", files), write_zip(tmp_path / "d.zip", files)):
        with pytest.raises(
            FormatError, match=r"member 'train/cat/large.png' of .* has 2,000 bytes; the limit is 1,000"
        ):
            read(tmp_path, path)
    with pytest.raises(FormatError, match=r"large.png is larger than 1,000 bytes"):
        read(tmp_path, write_folder(tmp_path / "d", files))


def test_what_is_missing_is_said(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"data.name=folder needs data.path: the folder or archive"):
        load(DataSettings(name="folder"))
    with pytest.raises(InputError, match=r"nowhere' does not exist; give the folder or archive that holds folder"):
        read(tmp_path, tmp_path / "nowhere")
    only_train = {name: data for name, data in two_classes().items() if name.startswith("train")}
    with pytest.raises(InputError, match=r"holds no image in test or val/<class>/; for folder, data.path must be"):
        read(tmp_path, write_folder(tmp_path / "a", only_train))
    only_test = {name: data for name, data in two_classes().items() if name.startswith("test")}
    with pytest.raises(InputError, match=r"holds no image in train/<class>/"):
        read(tmp_path, write_zip(tmp_path / "b.zip", only_test))
    with pytest.raises(InputError, match=r"holds several data sets \(one, two\); give one of them"):
        read(tmp_path, write_folder(tmp_path / "c", {**two_classes("one/"), **two_classes("two/")}))
    with pytest.raises(InputError, match=r"class folder 'bird' of the test images of .* has no counterpart in train/"):
        read(tmp_path, write_folder(tmp_path / "d", {**two_classes(), "test/bird/a.png": encoded(picture(1))}))
    path = write_folder(tmp_path / "e", two_classes())
    (path / "train" / "bird").mkdir()
    with pytest.raises(
        InputError, match=r"class folder train/bird/ of .* is empty; each class needs at least one image"
    ):
        read(tmp_path, path)


def test_without_pillow(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = write_folder(tmp_path / "a", two_classes())
    monkeypatch.setitem(__import__("sys").modules, "PIL", None)
    with pytest.raises(ImportError, match=r"reading image files needs Pillow: pip install pillow"):
        read(tmp_path, path)


def subset_files(name: str, outer: str = "", size: int = 20) -> dict[str, bytes]:
    files = {}
    for number, wordnet_id in enumerate(SUBSETS[name]):
        files[f"{outer}train/{wordnet_id}/{wordnet_id}_1.JPEG"] = encoded(picture(number, size, size + 3), "JPEG")
        files[f"{outer}val/{wordnet_id}/ILSVRC2012_val_{number:08}.JPEG"] = encoded(picture(number, size, size), "JPEG")
    return files


@pytest.mark.parametrize("name", list(SUBSETS))
def test_imagenet_subsets_from_imagenet_or_alone(tmp_path: Path, name: str) -> None:
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
    # the labels follow the published order, which is not that of the folder names
    first = encoded(picture(0, 20, 23), "JPEG")
    expected = Image.open(io.BytesIO(first)).resize((128, 147), Image.Resampling.BILINEAR).crop((0, 10, 128, 138))
    assert (unit(data)[0] == pixels(expected)).all()


def test_an_incomplete_subset_says_what_is_missing(tmp_path: Path) -> None:
    files = {name: data for name, data in subset_files("imagefruit").items() if "n07742313" not in name}
    with pytest.raises(InputError, match=r"holds no image in train/n07742313/, a class of imagefruit"):
        read(tmp_path, write_folder(tmp_path / "i", files), name="imagefruit")
    with pytest.raises(InputError, match=r"data.name=imagemeow needs data.path"):
        load(DataSettings(name="imagemeow"))


def test_the_published_subsets() -> None:
    assert list(SUBSETS) == ["imagenette", "imagewoof", "imagefruit", "imagemeow", "imagesquawk", "imageyellow"]
    assert all(len(set(subset)) == len(set(subset.values())) == 10 for subset in SUBSETS.values())
    # ids shared by two subsets carry one name
    names: dict[str, set[str]] = {}
    for subset in SUBSETS.values():
        for wordnet_id, called in subset.items():
            names.setdefault(wordnet_id, set()).add(called)
    assert len(names) == 57
    assert all(len(called) == 1 for called in names.values())


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
    with pytest.raises(InputError, match=r"class folder 'images' of the test images of .* has no counterpart"):
        read(tmp_path, write_zip(tmp_path / "tiny.zip", files), name="tiny-imagenet")


def test_a_zip_may_hold_directories(tmp_path: Path) -> None:
    path = tmp_path / "d.zip"
    with zipfile.ZipFile(path, "w") as archive:
        archive.mkdir("train/")
        archive.mkdir("train/cat/")
        for name, data in two_classes().items():
            archive.writestr(name, data)
    check_two_classes(read(tmp_path, path))
