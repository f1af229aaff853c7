"""Import other tools' files as distilled sets."""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from pydistill.artefact.distilled_set import DistilledSet
from pydistill.artefact.exchange import dc, dcbench, ddranking, idc, manifest, mtt
from pydistill.artefact.exchange.published import readers_normalisation, same
from pydistill.artefact.exchange.tensors import Soft, probabilities
from pydistill.artefact.file import Artefact
from pydistill.data import Dataset, DataSettings, Preprocessing
from pydistill.data.settings import NAMES
from pydistill.errors import FormatError, InputError, SettingError
from pydistill.nn import architecture_of, parse
from pydistill.version import VERSION

_READERS = {"mtt": mtt.read, "dcbench": dcbench.read, "ddranking": ddranking.read, "dc": dc.read, "idc": idc.read}
IMPORTED = tuple(_READERS)


def import_set(
    form: str,
    path: str | os.PathLike[str],
    *,
    lr: float | None = None,
    dataset: str | Dataset | None = None,
    preprocessing: Preprocessing | None = None,
    class_names: Sequence[str] | None = None,
    model: str | None = None,
    soft: Soft | None = None,
    like: DistilledSet | Artefact | None = None,
    as_is: bool = False,
) -> DistilledSet:
    """Read another tool's distilled set; runs no code from its files.

    The files hold images and labels, and some the learning rate; everything else is an argument.

    Args:
        form: mtt, dcbench, ddranking, dc or idc.
        path: the folder of the files; for mtt also an images file, with its labels in the same folder; for dcbench
            also a folder above, such as its root, with only one set below it.
        lr: the learned learning rate; required if no file holds it, and preferred to that of a file.
        dataset: the data set that was distilled, or its name.
        preprocessing: the map from pixels in [0, 1] to the images. By default the preprocessing that
            `export_set` recorded, else that of `like`, else the normalisation that the format's tools use for the
            data set of that name. The last is an assumption, recorded in `provenance["imported"]["assumed"]`; whitened
            images need a `Zca`.
        class_names: by default those of `dataset` if it is a `Dataset`, else the class numbers.
        model: name of the student's network, such as "convnet3".
        soft: whether rows of labels are logits or probabilities; by default logits, unless they are ambiguous.
        like: a distilled set that the images were exported from or belong to. It provides the defaults of data set,
            preprocessing, class names and network, but not of the learning rate, which belongs to the images.
        as_is: the images have the preprocessing of `like`, as after `export_set(…, as_is=True)`.

    Raises:
        InputError: the format does not exist, or an argument that the files do not replace is missing or does not fit.
        FormatError: a file is missing, damaged, of another format, or would have to run code.
    """
    if form not in IMPORTED:
        raise InputError(f"format must be one of {', '.join(IMPORTED)}, not {form!r}")
    origin = like.artefact if isinstance(like, DistilledSet) else like
    path = dcbench.folder_in(Path(path)) if form == "dcbench" else Path(path)
    files = _READERS[form](path)
    rate = files.lr() if lr is None else lr
    name, digest = _data_set(dataset, origin)
    exported = manifest.read(path if path.is_dir() else path.parent, files.files)
    if files.in_pixels and preprocessing is None and origin is not None:
        preprocessing = origin.preprocessing
    applied, assumed = _preprocessing(form, name, preprocessing, exported, origin, as_is, str(path))
    if rate is None or applied is None:
        missing = [_missing_rate(origin)] if rate is None else []
        missing += [_missing_preprocessing(form, name)] if applied is None else []
        raise InputError(f"the files in {path} do not hold {' and '.join(missing)}; pass the missing arguments")
    if not 0 < rate < float("inf"):
        raise InputError(f"lr must be a finite number above 0, not {rate}")
    labels = files.labels if files.labels.ndim == 1 else probabilities(files.labels, soft, str(path))
    names = _class_names(labels, class_names, dataset, origin)
    images, labels, classes = _by_class(files.images, labels, len(names), str(path), class_major=exported is not None)
    try:
        applied.invert(images[:1])
        if files.in_pixels:
            images, assumed = applied.to("cpu").apply(images), None
    except InputError as error:
        raise InputError(f"the preprocessing does not fit the images in {path}: {error}") from error
    recorded = origin.provenance.get("recipe", {}) if origin is not None else {}
    recipe = {part: recorded[part] for part in ("data", "model", "evaluation") if part in recorded}
    if dataset is not None and name in NAMES and name != recipe.get("data", {}).get("name"):
        recipe["data"] = asdict(DataSettings(name, zca=applied.kind == "zca"))
    if model is not None:
        settings = parse(model)
        architecture_of(settings, images.shape[1], len(names), images.shape[2:])
        recipe["model"] = asdict(settings)
    provenance: dict[str, Any] = {
        "recipe": recipe,
        "dataset": {"name": name, "digest": digest, "classes": list(names)},
        "imported": {"format": form, "files": dict(files.files)} | ({} if assumed is None else {"assumed": assumed}),
        "versions": {"pydistill": VERSION, "torch": torch.__version__},
    }
    return DistilledSet(Artefact(images, labels, classes, float(rate), applied.to("cpu"), provenance, None))


def _preprocessing(
    form: str,
    name: str,
    explicit: Preprocessing | None,
    exported: manifest.Manifest | None,
    origin: Artefact | None,
    as_is: bool,
    where: str,
) -> tuple[Preprocessing | None, str | None]:
    """Return the preprocessing of the images, or None if it is unknown, and a sentence if it is an assumption."""
    if as_is and origin is None:
        raise SettingError("as_is", as_is, "used with like, the set whose preprocessing the images keep")
    if explicit is not None:
        return explicit, None
    own = None if origin is None else origin.preprocessing
    if as_is:
        return own, None
    if exported is not None and exported.normalisation is not None:
        return (own if same(own, exported.normalisation) else exported.normalisation), None
    if exported is not None:
        return (own if own is not None and own.kind == "zca" else None), None
    readers = readers_normalisation(name, form)
    if own is not None:
        converts = own.kind != "zca" or form == "dcbench"
        if converts and readers is not None and not same(own, readers):
            raise InputError(
                f"the files in {where} do not say whether their images have the preprocessing of `like` or the "
                f"normalisation that readers of {form} use; set as_is for the first, or give the normalisation, mean "
                f"{_numbers(readers.mean)} and std {_numbers(readers.std)}, for the second"
            )
        return own, None
    if readers is None or form == "dcbench":
        return readers, None
    return readers, (
        f"the images are assumed to be normalised with mean {_numbers(readers.mean)} and std {_numbers(readers.std)}, "
        f"as {name} is without ZCA; if they were whitened, import them with the whitening (zca) of the same data"
    )


def _missing_rate(origin: Artefact | None) -> str:
    """Describe the missing learning rate, with that of `like`, which fits only the images of that set."""
    if origin is None:
        return "the learning rate, lr"
    return (
        "the learning rate, lr, which is not taken from `like`, as it belongs to the images: for the images of "
        f"that set it is {origin.lr!r}"
    )


def _missing_preprocessing(form: str, name: str) -> str:
    """Describe the missing preprocessing, with the arguments that provide it."""
    ways = ["its mean and std", "the ZCA whitening of the data", "or the set `like` to which the images belong"]
    if not name:
        ways.insert(0, "the data set, if its normalisation is published")
    elif readers_normalisation(name, form) is None:
        return f"the preprocessing, as no normalisation is published for {name} ({', '.join(ways)})"
    return f"the preprocessing ({', '.join(ways)})"


def _numbers(values: Tensor) -> str:
    return " ".join(f"{value:g}" for value in values.tolist())


def _data_set(dataset: str | Dataset | None, origin: Artefact | None) -> tuple[str, str]:
    """Return name and digest of the data set, "" if unknown."""
    if isinstance(dataset, Dataset):
        return dataset.name, dataset.digest
    about = origin.provenance["dataset"] if origin is not None else {}
    if dataset is None or dataset == about.get("name"):
        return str(about.get("name", "")), str(about.get("digest", ""))
    return dataset, ""


def _class_names(
    labels: Tensor, explicit: Sequence[str] | None, dataset: str | Dataset | None, origin: Artefact | None
) -> tuple[str, ...]:
    count = int(labels.max()) + 1 if labels.ndim == 1 else labels.shape[1]
    if labels.ndim == 1 and count > len(labels):
        raise FormatError(f"the label {count - 1} is one of {len(labels)} labels, so that some class has no image")
    if explicit is not None:
        names = tuple(explicit)
    elif isinstance(dataset, Dataset):
        names = dataset.class_names
    elif origin is not None:
        names = origin.class_names
    else:
        names = tuple(str(number) for number in range(count))
    if len(names) < count or (labels.ndim == 2 and len(names) != count):
        raise InputError(f"the labels have {count} classes, but there are {len(names)} class names")
    return names


def _by_class(
    images: Tensor, labels: Tensor, number: int, where: str, *, class_major: bool
) -> tuple[Tensor, Tensor, Tensor]:
    """Return images and labels sorted by class, and their classes.

    The class of a row of soft labels is its largest entry, if this gives the same number of images per class.
    Otherwise, as after errors of a teacher, the images must be sorted by class, and most rows must agree with that
    order.
    """
    in_order = torch.arange(number).repeat_interleave(len(images) // number)
    uneven = f"the {len(images)} images in {where} are not evenly divided into {number} classes"
    if len(in_order) != len(images):
        raise FormatError(uneven)
    if labels.ndim == 2 and class_major:
        return images, labels, in_order
    classes = labels if labels.ndim == 1 else labels.argmax(dim=1)
    order = classes.argsort(stable=True)
    if torch.equal(classes[order], in_order):
        return images[order], labels[order], in_order
    if labels.ndim == 1:
        raise FormatError(uneven)
    agreeing = int((classes == in_order).sum())
    if 2 * agreeing < len(images):
        raise FormatError(
            f"the classes of the images in {where} are unknown: the largest entries of the soft labels do not divide "
            f"them evenly, and only {agreeing} of {len(images)} images are in the order of classes; sort images and "
            "labels by class"
        )
    return images, labels, in_order
