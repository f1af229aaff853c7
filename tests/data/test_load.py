"""Data sets are read from their original files; missing and damaged files are refused."""

from __future__ import annotations

import hashlib
import pickle
import struct
import subprocess
import sys
import urllib.error
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from pydistill.data import Dataset, DataSettings, from_arrays, load
from pydistill.errors import FormatError, InputError, MissingDependencyError, OutOfMemoryError, SettingError


def read(tmp_path: Path, name: str, path: Path | None, **settings: object) -> Dataset:
    location = None if path is None else str(path)
    return load(DataSettings(name=name, path=location, cache=str(tmp_path / "cache"), **settings))  # type: ignore[arg-type]


def random_bytes(*shape: int, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, 256, shape, dtype=np.uint8)


def as_bytes(data: Dataset) -> np.ndarray:
    return (data.preprocessing.invert(data.train_images) * 255).round().to(torch.uint8).numpy()


def test_invalid_names_and_sizes() -> None:
    with pytest.raises(SettingError) as error:
        DataSettings(name="mnist")
    assert (error.value.setting, error.value.value) == ("name", "mnist")
    with pytest.raises(InputError, match=r"data.image_size"):
        load(DataSettings(image_size=16))


def test_paths_are_absolute_and_names_are_those_of_the_files(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    labels = np.arange(4) % 2
    arrays = {
        f"{split}_{kind}": value
        for split in ("train", "test")
        for kind, value in (
            ("images", random_bytes(4, 1, 8, 8)),
            ("labels", labels),
        )
    }
    np.savez("patches.npz", **arrays)
    data = load(DataSettings("tensors", path="patches.npz", cache="cache"))
    assert data.name == "patches"
    assert data.settings == DataSettings("tensors", path=str(tmp_path / "patches.npz"), cache=str(tmp_path / "cache"))
    for path, title in (("x/photos", "photos"), ("x/photos.tar.gz", "photos"), ("x/a.b", "a.b"), (None, "folder")):
        assert DataSettings("folder", path=path).title == title
    assert DataSettings("cifar10", path="x/photos").title == "cifar10"
    with pytest.raises(InputError):
        load(DataSettings("tensors", path="p\udcff.npz"))


def test_class_names_of_no_dimension_are_refused(tmp_path: Path) -> None:
    images, labels = random_bytes(4, 1, 8, 8), np.arange(4) % 2
    np.savez(
        tmp_path / "x.npz",
        train_images=images,
        train_labels=labels,
        test_images=images,
        test_labels=labels,
        class_names=np.array("a"),
    )
    with pytest.raises(InputError):
        load(DataSettings("tensors", path=str(tmp_path / "x.npz")))


def test_digits_import_no_vision_package() -> None:
    code = (
        "import sys, pydistill.data as data; "
        "early = [m for m in ('sklearn', 'PIL', 'torchvision', 'matplotlib', 'scipy') if m in sys.modules]; "
        "data.load(data.DataSettings()); "
        "late = [m for m in ('PIL', 'torchvision', 'matplotlib') if m in sys.modules]; print(early, late)"
    )
    shown = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout
    assert shown.split() == ["[]", "[]"]


@pytest.mark.parametrize(
    ("name", "module", "package"),
    [
        ("digits", "sklearn.datasets", "scikit-learn"),
        ("cifar10", "torchvision", "torchvision"),
        ("fashion-mnist", "torchvision", "torchvision"),
    ],
)
def test_missing_packages_are_named(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str, module: str, package: str
) -> None:
    monkeypatch.setitem(sys.modules, module, None)
    with pytest.raises(MissingDependencyError, match=f"pip install {package}"):
        read(tmp_path, name, None, download=name != "digits")


@pytest.mark.parametrize("name", ["cifar10", "cifar100", "svhn", "fashion-mnist"])
def test_missing_files_name_the_setting(tmp_path: Path, name: str) -> None:
    with pytest.raises(InputError, match=r"data.path"):
        read(tmp_path, name, None)
    with pytest.raises(InputError, match=r"data\.path must be .*nowhere"):
        read(tmp_path, name, tmp_path / "nowhere")


def write_cifar(root: Path, monkeypatch: pytest.MonkeyPatch, classes: int) -> dict[str, np.ndarray]:
    """Write tiny batches in CIFAR's layout and replace torchvision's checksums by theirs; returns the images."""
    datasets = pytest.importorskip("torchvision.datasets")
    kind = datasets.CIFAR10 if classes == 10 else datasets.CIFAR100
    folder = root / kind.base_folder
    folder.mkdir(parents=True)
    lists: dict[str, list[list[str]]] = {"train_list": [], "test_list": []}
    arrays: dict[str, list[np.ndarray]] = {"train_list": [], "test_list": []}
    for split in lists:
        for seed, (name, _) in enumerate(getattr(kind, split)):
            images = random_bytes(classes, 3 * 32 * 32, seed=seed + 10 * (split == "test_list"))
            labels = "labels" if classes == 10 else "fine_labels"
            (folder / name).write_bytes(pickle.dumps({"data": images, labels: list(range(classes))}))
            lists[split].append([name, hashlib.md5((folder / name).read_bytes()).hexdigest()])
            arrays[split].append(images.reshape(-1, 3, 32, 32))
    names = {kind.meta["key"]: [f"class{label}" for label in range(classes)]}
    (folder / kind.meta["filename"]).write_bytes(pickle.dumps(names))
    checksum = hashlib.md5((folder / kind.meta["filename"]).read_bytes()).hexdigest()
    monkeypatch.setattr(kind, "meta", {**kind.meta, "md5": checksum})
    for split, entries in lists.items():
        monkeypatch.setattr(kind, split, entries)
    return {split: np.concatenate(batches) for split, batches in arrays.items()}


@pytest.mark.parametrize("classes", [10, 100])
def test_cifar_in_torchvisions_layout(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, classes: int) -> None:
    arrays = write_cifar(tmp_path / "root", monkeypatch, classes)
    data = read(tmp_path, f"cifar{classes}", tmp_path / "root")
    assert data.name == f"cifar{classes}"
    assert data.class_names == tuple(f"class{label}" for label in range(classes))
    assert (as_bytes(data) == arrays["train_list"]).all()
    assert data.train_labels.tolist() == list(range(classes)) * (len(arrays["train_list"]) // classes)
    assert data.test_images.shape == (classes, 3, 32, 32)


def test_damaged_cifar_is_not_unpickled(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write_cifar(tmp_path / "root", monkeypatch, 10)

    class Hostile:
        def __reduce__(self) -> tuple[object, tuple[str]]:
            return Path.touch, (tmp_path / "executed",)  # type: ignore[return-value]

    (tmp_path / "root" / "cifar-10-batches-py" / "data_batch_1").write_bytes(pickle.dumps(Hostile()))
    with pytest.raises(FormatError, match="cifar10"):
        read(tmp_path, "cifar10", tmp_path / "root")
    assert not (tmp_path / "executed").exists()


@pytest.mark.parametrize("name", ["cifar10", "cifar100", "svhn", "fashion-mnist"])
def test_download_without_a_network(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str) -> None:
    pytest.importorskip("torchvision.datasets")

    def unreachable(*_: object, **__: object) -> None:
        raise urllib.error.URLError("no network")

    monkeypatch.setattr("urllib.request.urlopen", unreachable)
    with pytest.raises(InputError, match=name):
        read(tmp_path, name, None, download=True)


def test_svhn(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    datasets, io = pytest.importorskip("torchvision.datasets"), pytest.importorskip("scipy.io")
    split_list = dict(datasets.SVHN.split_list)
    for seed, split in enumerate(("train", "test")):
        name = f"{split}_32x32.mat"
        # Matlab's order is height, width, channel, number; the digit 0 is stored as 10.
        labels = np.array([[10 if digit == 0 else digit] for digit in range(10)], dtype=np.uint8)
        io.savemat(tmp_path / name, {"X": random_bytes(32, 32, 3, 10, seed=seed), "y": labels})
        checksum = hashlib.md5((tmp_path / name).read_bytes()).hexdigest()
        split_list[split] = [split_list[split][0], name, checksum]
    monkeypatch.setattr(datasets.SVHN, "split_list", split_list)
    data = read(tmp_path, "svhn", tmp_path)
    assert data.train_labels.tolist() == list(range(10))
    assert (as_bytes(data) == random_bytes(32, 32, 3, 10, seed=0).transpose(3, 2, 0, 1)).all()
    (tmp_path / "test_32x32.mat").write_bytes(b"cut")
    with pytest.raises(FormatError, match="svhn"):
        read(tmp_path, "svhn", tmp_path)


def idx(values: np.ndarray) -> bytes:
    return bytes([0, 0, 8, values.ndim]) + struct.pack(f">{values.ndim}I", *values.shape) + values.tobytes()


def write_fashion(root: Path) -> None:
    folder = root / "FashionMNIST" / "raw"
    folder.mkdir(parents=True)
    for seed, split in enumerate(("train", "t10k")):
        (folder / f"{split}-images-idx3-ubyte").write_bytes(idx(random_bytes(20, 28, 28, seed=seed)))
        (folder / f"{split}-labels-idx1-ubyte").write_bytes(idx((np.arange(20) % 10).astype(np.uint8)))


def test_fashion_mnist(tmp_path: Path) -> None:
    pytest.importorskip("torchvision.datasets")
    write_fashion(tmp_path)
    data = read(tmp_path, "fashion-mnist", tmp_path)
    assert data.sizes == (1, 10, (28, 28))
    assert data.class_names[9] == "Ankle boot"
    assert (as_bytes(data)[:, 0] == random_bytes(20, 28, 28, seed=0)).all()
    assert data.test_labels.tolist() == [*range(10)] * 2


@pytest.mark.parametrize("content", [b"", b"\0\0\x08\x01" + b"\0" * 40, idx(random_bytes(3, 28, 28))[:-1]])
def test_damaged_fashion_mnist(tmp_path: Path, content: bytes) -> None:
    pytest.importorskip("torchvision.datasets")
    with pytest.raises(InputError, match=r"data.path"):
        read(tmp_path, "fashion-mnist", tmp_path)
    write_fashion(tmp_path)
    (tmp_path / "FashionMNIST" / "raw" / "t10k-images-idx3-ubyte").write_bytes(content)
    with pytest.raises((FormatError, InputError)):
        read(tmp_path, "fashion-mnist", tmp_path)


def npz_arrays() -> dict[str, np.ndarray]:
    return {
        "train_images": random_bytes(6, 2, 4, 4),
        "train_labels": np.arange(6) % 3,
        "test_images": random_bytes(3, 2, 4, 4, seed=1),
        "test_labels": np.arange(3),
    }


def test_arrays_in_an_npz_file(tmp_path: Path) -> None:
    arrays = npz_arrays()
    np.savez(tmp_path / "plain.npz", **arrays)
    np.savez_compressed(tmp_path / "named.npz", **arrays, class_names=np.array(["x", "y", "z"]))
    plain, named = (read(tmp_path, "tensors", tmp_path / f"{name}.npz") for name in ("plain", "named"))
    reference = from_arrays(**arrays)
    assert plain.digest == named.digest == reference.digest
    assert torch.equal(plain.test_images, reference.test_images)
    assert plain.class_names == ("0", "1", "2")
    assert named.class_names == ("x", "y", "z")


@pytest.mark.parametrize("write", [np.savez, np.savez_compressed])
def test_npz_files_larger_than_the_memory(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, write: Any) -> None:
    write(tmp_path / "a.npz", **npz_arrays())
    monkeypatch.setattr("pydistill._util.memory.available_memory", lambda: 100)
    with pytest.raises(OutOfMemoryError):
        read(tmp_path, "tensors", tmp_path / "a.npz")


def test_layout_of_npz_files(tmp_path: Path) -> None:
    arrays = npz_arrays()
    last = {name: array.transpose(0, 2, 3, 1) if "images" in name else array for name, array in arrays.items()}
    np.savez(tmp_path / "a.npz", **last)
    assert read(tmp_path, "tensors", tmp_path / "a.npz", layout="nhwc").digest == from_arrays(**arrays).digest


@pytest.mark.parametrize(
    "option", [{"split": 0.2}, {"channels": 1}, {"scale_16bit": True}, {"skip_broken": True}, {"layout": "nhwc"}]
)
def test_options_of_other_files_are_refused(option: dict[str, Any]) -> None:
    with pytest.raises(SettingError) as error:
        load(DataSettings(**option))
    assert error.value.setting == f"data.{next(iter(option))}"


def test_digits_take_no_path(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"data.path"):
        read(tmp_path, "digits", tmp_path)


def test_invalid_npz_files(tmp_path: Path) -> None:
    path = tmp_path / "a.npz"
    with pytest.raises(InputError, match=r"data.path"):
        read(tmp_path, "tensors", None)
    with pytest.raises(InputError, match=r"a\.npz"):
        read(tmp_path, "tensors", path)
    np.savez(path, train_images=np.zeros(3), test_labels=np.zeros(3))
    with pytest.raises(InputError, match=r"train_labels, test_images"):
        read(tmp_path, "tensors", path)
    np.savez(path, **{**npz_arrays(), "test_images": np.full((3, 2, 4, 4), np.nan, dtype=np.float32)})
    with pytest.raises(InputError, match=r"test_images"):
        read(tmp_path, "tensors", path)
    np.savez(path, **{**npz_arrays(), "train_labels": np.array([{}] * 6, dtype=object)})
    with pytest.raises(FormatError, match=r"not unpickled"):
        read(tmp_path, "tensors", path)
    np.savez(path, **npz_arrays())
    for content in (path.read_bytes()[:-100], b"", b"x", b"PK\x03\x04", pickle.dumps([1])):
        path.write_bytes(content)
        with pytest.raises(FormatError, match=r"a\.npz"):
            read(tmp_path, "tensors", path)
    with open(path, "wb") as handle:
        np.save(handle, np.zeros(3))
    with pytest.raises(FormatError, match=r"a\.npz"):
        read(tmp_path, "tensors", path)
