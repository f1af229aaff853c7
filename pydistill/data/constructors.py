"""Make data sets in one call: by name, from a folder or arrays, or from another library's data sets."""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from inspect import signature
from numbers import Integral
from typing import Any, Concatenate, ParamSpec

import numpy as np
import torch
from numpy.typing import NDArray

from pydistill._util.settings import as_keywords
from pydistill.data.dataset import Dataset, prepare
from pydistill.data.load import load
from pydistill.data.raw import Layout, log_contents, raw_from
from pydistill.data.settings import DataSettings, Pixels, Statistics
from pydistill.errors import InputError, shown

_IMAGE_COLUMNS = ("image", "img")
_LABEL_COLUMNS = ("label", "labels", "fine_label")
P = ParamSpec("P")


@as_keywords()
def _read(
    name: str,
    path: str | os.PathLike[str] | None = None,
    *,
    zca: bool = False,
    image_size: int | None = None,
    statistics: Statistics = "measured",
    download: bool = False,
    pixels: Pixels = "auto",
    split: float | None = None,
    channels: int | None = None,
    scale_16bit: bool = False,
    skip_broken: bool = False,
    layout: Layout = "auto",
    cache: str | None = None,
    device: torch.device | str = "cpu",
) -> Dataset:
    settings = DataSettings(
        name,
        None if path is None else os.fspath(path),
        image_size,
        zca,
        statistics,
        download,
        pixels,
        split,
        channels,
        scale_16bit,
        skip_broken,
        layout,
        cache,
    )
    return load(settings, device)


def _constructor(read: Callable[Concatenate[str, P], Dataset], name: str, about: str) -> Callable[P, Dataset]:
    """Make the function that reads the data set `name`: `read` without its first argument."""

    def constructor(*arguments: P.args, **options: P.kwargs) -> Dataset:
        return read(name, *arguments, **options)

    vars(constructor)["__signature__"] = signature(partial(read, name))
    constructor.__name__ = constructor.__qualname__ = name.replace("-", "_")
    constructor.__doc__ = f"""{about}.

    Args:
        path: {_PATHS.get(name, "the folder or archive (tar, zip) that holds it")}.
        zca: ZCA-whiten instead of normalising per channel.
        image_size: side in pixels to which image files are scaled; None: the data set's default, or their size.
        statistics: "measured" on the training images, or "published" in the code of MTT.
        download: fetch missing files through torchvision (CIFAR, SVHN and Fashion-MNIST).
        pixels: "bytes", "floats" or "auto", as in `DataSettings`.
        split: share of every class to set aside as test images, for image files without a test folder.
        channels: 1 to read image files as grey, 3 as colour; None: 1 for Fashion-MNIST, else 3.
        scale_16bit: convert 16-bit grey image files to 8 bits instead of refusing them.
        skip_broken: pass over image files that cannot be decoded instead of refusing them.
        layout: of the images in a .npz file: "nchw", "nhwc" or "auto", as in `from_arrays`.
        cache: folder for decoded images and ZCA matrices; by default $PYDISTILL_CACHE or ~/.cache/pydistill.
        device: of its tensors.

    Raises:
        InputError: the files are not at `path`, or the images or labels are invalid.
        FormatError: a file is damaged.
        MissingDependencyError: an optional package is needed to read the files.
    """
    return constructor


_PATHS = {
    "digits": "must be left out",
    "folder": "a folder, tar or zip with train/<class>/* and test/<class>/* (or val)",
    "tensors": "a .npz file with train_images, train_labels, test_images, test_labels and optionally class_names",
}

digits = _constructor(_read, "digits", "Scikit-learn's digits: 1,437 + 360 images 1×8×8, 10 classes")
cifar10 = _constructor(_read, "cifar10", "CIFAR-10: 50,000 + 10,000 images 3×32×32, 10 classes")
cifar100 = _constructor(_read, "cifar100", "CIFAR-100: 50,000 + 10,000 images 3×32×32, 100 classes")
svhn = _constructor(_read, "svhn", "SVHN, house numbers: 73,257 + 26,032 images 3×32×32, 10 classes")
fashion_mnist = _constructor(_read, "fashion-mnist", "Fashion-MNIST: 60,000 + 10,000 images 1×28×28, 10 classes")
tiny_imagenet = _constructor(_read, "tiny-imagenet", "Tiny ImageNet: 100,000 + 10,000 images 3×64×64, 200 classes")
imagenette = _constructor(_read, "imagenette", "Ten easy classes of ImageNet, at 3×128×128")
imagewoof = _constructor(_read, "imagewoof", "Ten dogs of ImageNet, at 3×128×128")
imagefruit = _constructor(_read, "imagefruit", "Ten fruits of ImageNet, at 3×128×128")
imagemeow = _constructor(_read, "imagemeow", "Ten cats of ImageNet, at 3×128×128")
imagesquawk = _constructor(_read, "imagesquawk", "Ten birds of ImageNet, at 3×128×128")
imageyellow = _constructor(_read, "imageyellow", "Ten yellow things of ImageNet, at 3×128×128")
from_folder = _constructor(_read, "folder", "A folder or archive of images, one folder per class")
from_npz = _constructor(_read, "tensors", "The arrays of a .npz file, as `from_arrays` takes them")


@as_keywords()
def from_arrays(
    train_images: Any,
    train_labels: Any,
    test_images: Any,
    test_labels: Any,
    *,
    name: str = "arrays",
    class_names: Sequence[str] | None = None,
    layout: Layout = "auto",
    zca: bool = False,
    as_bytes: bool = False,
) -> Dataset:
    """Make a data set from arrays or tensors, normalised per channel or ZCA-whitened.

    Args:
        train_images, test_images: [n, C, H, W], [n, H, W, C] or [n, H, W]; uint8, or floating point in [0, 1].
        train_labels, test_labels: [n] integers from 0.
        name: of the data set, for records and reports.
        class_names: one per class; by default "0", "1", ….
        layout: "nchw" or "nhwc"; "auto" decides by the shape: channels are last if H, W > 4 and C is 3 or 4, or C is 1
            and H = W; images that look so otherwise, such as those of two channels, are refused.
        zca: whiten (see `Zca`) instead of normalising (see `Normalise`); both are fitted on the training images.
        as_bytes: store uint8 images unchanged and preprocess every batch when it is made.

    Raises:
        InputError: an array has an unsupported shape or type, a pixel or label is out of range, a class has no training
            image, or `as_bytes` is true for floating-point images.
    """
    raw = raw_from(name, class_names, train_images, train_labels, test_images, test_labels, layout=layout)
    log_contents(raw.name, raw.class_names, raw.train_labels, raw.test_labels, raw.train_images.shape[1:])
    return prepare(raw, zca=zca, as_bytes=as_bytes)


def from_dataset(
    train: Any,
    test: Any,
    *,
    columns: tuple[str, str] | None = None,
    name: str | None = None,
    class_names: Sequence[str] | None = None,
    layout: Layout = "auto",
    zca: bool = False,
) -> Dataset:
    """Make a data set from those of another library: torchvision, Hugging Face, or any indexable data set of PyTorch.

    Args:
        train, test: with a length, and items (image, label) or mappings with these two columns. An image is a PIL
            image, an array or a tensor, all of one size and not yet normalised; a label is an integer from 0.
        columns: the names of the image's and the label's column; by default image or img, and label, labels or
            fine_label.
        name: of the data set; by default the name of `train`'s class.
        class_names: one per class; by default those of `train`, else "0", "1", ….
        layout, zca: as for `from_arrays`.

    Raises:
        InputError: an item is not an image with a label, images differ in size, or as `from_arrays`.
    """
    arrays = [array for split, items in (("train", train), ("test", test)) for array in _stack(split, items, columns)]
    names = _class_names(train, columns) if class_names is None else class_names
    return from_arrays(*arrays, name=name or type(train).__name__, class_names=names, layout=layout, zca=zca)


def _stack(split: str, items: Any, columns: tuple[str, str] | None) -> tuple[NDArray[Any], NDArray[np.int64]]:
    """Return all images [n, …] and labels [n] of one split."""
    if not (hasattr(items, "__len__") and hasattr(items, "__getitem__")) or len(items) == 0:
        raise InputError(f"{split} must be a data set with a length above 0 and items by index, not {shown(items)}")
    labels = np.empty(len(items), np.int64)
    images: NDArray[Any] | None = None
    for number in range(len(items)):
        where = f"{split}[{number}]"
        image, label = _pair(where, items[number], columns)
        pixels = _pixels(where, image)
        if isinstance(label, (np.ndarray, torch.Tensor)) and label.ndim == 0:
            label = label.item()
        if not isinstance(label, Integral) or isinstance(label, bool):
            raise InputError(f"the label of {where} must be an integer of at least 0, not {shown(label)}")
        if images is None:
            images = np.empty((len(items), *pixels.shape), pixels.dtype)
        if pixels.shape != images.shape[1:] or pixels.dtype != images.dtype:
            raise InputError(
                f"{where} is an image {pixels.dtype} {list(pixels.shape)}, but {split}[0] is {images.dtype} "
                f"{list(images.shape[1:])}; convert all images to one size and mode, for example by a transform"
            )
        images[number], labels[number] = pixels, int(label)
    assert images is not None
    return images, labels


def _pair(where: str, item: Any, columns: tuple[str, str] | None) -> tuple[Any, Any]:
    """Return the image and the label of one item."""
    if isinstance(item, Mapping):
        image, label = columns or (_column(item, _IMAGE_COLUMNS), _column(item, _LABEL_COLUMNS))
        if image not in item or label not in item:
            raise InputError(f"{where} has the columns {', '.join(map(str, item))}; name image and label with columns=")
        return item[image], item[label]
    if not isinstance(item, (tuple, list)) or len(item) != 2:
        raise InputError(f"{where} must be a pair (image, label) or a mapping with both, not {shown(item)}")
    return item[0], item[1]


def _column(item: Mapping[str, Any], names: Sequence[str]) -> str:
    return next((name for name in names if name in item), "")


def _pixels(where: str, image: Any) -> NDArray[Any]:
    """Return an image as an array: a PIL image as uint8 [C, H, W], arrays and tensors in their own shape."""
    if isinstance(image, torch.Tensor):
        return image.detach().cpu().numpy()
    if hasattr(image, "mode") and hasattr(image, "convert"):
        if image.mode[0] in "IF":
            raise InputError(f"{where} has more than 8 bits per channel (mode {image.mode}); convert it to 8 bits")
        if image.mode in ("1", "L"):
            return np.asarray(image.convert("L"))[None]
        return np.asarray(image.convert("RGB")).transpose(2, 0, 1)
    if isinstance(image, np.ndarray):
        return image
    raise InputError(f"the image of {where} must be a PIL image, an array or a tensor, not {shown(image)}")


def _class_names(train: Any, columns: tuple[str, str] | None) -> Sequence[str] | None:
    """Return the class names of a data set: torchvision's `classes`, or those in Hugging Face's features."""
    names = getattr(train, "classes", None)
    features = getattr(train, "features", None)
    if names is None and isinstance(features, Mapping):
        label = features.get(columns[1] if columns else _column(features, _LABEL_COLUMNS))
        names = getattr(label, "names", None)
    return None if names is None else [str(name) for name in names]
