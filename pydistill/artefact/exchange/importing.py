"""From other tools' files to a distilled set: what they do not tell is asked for by name."""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from pydistill.artefact.distilled_set import DistilledSet
from pydistill.artefact.exchange import dcbench, ddranking, mtt
from pydistill.artefact.exchange import manifest as told
from pydistill.artefact.exchange.published import readers_normalisation
from pydistill.artefact.exchange.tensors import Soft, probabilities
from pydistill.artefact.file import Artefact
from pydistill.data import Dataset, DataSettings, Normalise, Preprocessing
from pydistill.data.load import NAMES
from pydistill.errors import FormatError, InputError, SettingError
from pydistill.nn import architecture_of, parse
from pydistill.version import VERSION

IMPORTED = ("mtt", "dcbench", "ddranking")
_READERS = {"mtt": mtt.read, "dcbench": dcbench.read, "ddranking": ddranking.read}


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
    """Read a distilled set of another tool; nothing in its files is executed.

    The files hold images and labels, and some the learning rate; the rest must be given.

    Args:
        form: mtt, dcbench or ddranking.
        path: the folder of the files; for mtt also an images file, with labels beside it; for dcbench also a folder
            such as its root, below which there is one set.
        lr: the learned learning rate; needed unless a file of it is there, and taken before that.
        dataset: name of the data set that was distilled, or the data set itself.
        preprocessing: what made the images of pixels in [0, 1]; None: what `export_set` wrote beside them, else that of
            `like`, else the normalisation that the format's tools give the data set of that name (for whitened images
            give a `Zca`; that this was assumed is told in `provenance["imported"]["assumed"]`).
        class_names: None: those of the data set if it is given itself, else the class numbers.
        model: name of the student's network, such as "convnet3", if it shall be known.
        soft: whether label rows are logits or probabilities; None: logits, unless they could be either.
        like: a distilled set of pydistill's that the images were exported from or go with: data set, preprocessing,
            class names and network are taken from it where they are not given; the learning rate, which belongs to
            the images, is not.
        as_is: the images have the preprocessing of `like`, as after `export_set(…, as_is=True)`.

    Raises:
        InputError: no such format, something that the files do not tell was not given, or does not fit.
        FormatError: a file is missing, damaged, would have to run code, or holds something else.
    """
    if form not in IMPORTED:
        raise InputError(f"format must be one of {', '.join(IMPORTED)}, not {form!r}")
    origin = like.artefact if isinstance(like, DistilledSet) else like
    if form == "dcbench":
        path = dcbench.folder_in(Path(path))
    found = _READERS[form](Path(path))
    rate = found.lr if lr is None else lr
    name, digest = _data_named(dataset, origin)
    before = told.read(Path(path) if Path(path).is_dir() else Path(path).parent, found.files)
    made, assumed = _preprocessing(form, name, preprocessing, before, origin, as_is, str(path))
    if rate is None or made is None:
        missing = [
            *([_missing_rate(origin)] if rate is None else []),
            *([_missing_preprocessing(form, name)] if made is None else []),
        ]
        raise InputError(
            f"the files in {path} do not tell {' and '.join(missing)}; give {'it' if len(missing) == 1 else 'them'}"
        )
    if not 0 < rate < float("inf"):
        raise InputError(f"lr must be a finite number above 0, not {rate}")
    labels = found.labels if found.labels.ndim == 1 else probabilities(found.labels, soft, str(path))
    names = _class_names(labels, class_names, dataset, origin)
    images, labels, classes = _by_class(found.images, labels, len(names), str(path), sorted_already=before is not None)
    try:
        made.invert(images[:1])
    except InputError as error:
        raise InputError(f"the preprocessing does not fit the images in {path}: {error}") from error
    recipe = _recipe(dataset, name, made, model, origin, (images.shape[1], len(names), images.shape[2:]))
    provenance: dict[str, Any] = {
        "recipe": recipe,
        "dataset": {"name": name, "digest": digest, "classes": list(names)},
        "imported": {"format": form, "files": dict(found.files)} | ({} if assumed is None else {"assumed": assumed}),
        "versions": {"pydistill": VERSION, "torch": torch.__version__},
    }
    return DistilledSet(Artefact(images, labels, classes, float(rate), made.to("cpu"), provenance, None))


def _preprocessing(
    form: str,
    name: str,
    given: Preprocessing | None,
    before: told.Manifest | None,
    origin: Artefact | None,
    as_is: bool,
    where: str,
) -> tuple[Preprocessing | None, str | None]:
    """What made the images of pixels, or None where nothing tells; and a sentence if that was assumed.

    Raises:
        InputError: `as_is` without `like`, or it cannot be known which of two normalisations it was.
    """
    if as_is and origin is None:
        raise SettingError("as_is", as_is, "used with like, the set whose preprocessing the images keep")
    if given is not None:
        return given, None
    own = None if origin is None else origin.preprocessing
    if as_is:
        return own, None
    if before is not None and before.kind == "zca":
        return (own if own is not None and own.kind == "zca" else None), None
    if before is not None and before.normalisation is not None:
        return (own if _same(own, before.normalisation) else before.normalisation), None
    readers = readers_normalisation(name, form)
    if own is not None:
        converts = own.kind != "zca" or form == "dcbench"
        if converts and readers is not None and not _same(own, readers):
            raise InputError(
                f"the files in {where} do not say whether their images have the preprocessing of `like` or the "
                f"normalisation that readers of {form} use; set as_is for the first, or give the normalisation, mean "
                f"{_numbers(readers.mean)} and std {_numbers(readers.std)}, for the second"
            )
        return own, None
    if readers is None or form == "dcbench":
        return readers, None
    return readers, (
        f"the images are taken for normalised with mean {_numbers(readers.mean)} and std {_numbers(readers.std)}, as "
        f"{name} is without ZCA; if they were whitened, import them with the whitening (zca) of the same data"
    )


def _missing_rate(origin: Artefact | None) -> str:
    """What to give where nothing tells the learning rate, which was learned with the images and fits no others."""
    if origin is None:
        return "the learning rate (lr)"
    return (
        "the learning rate (lr), which `like` does not give, as it belongs to the images: if these are "
        f"those of that set, it is {origin.lr!r}"
    )


def _missing_preprocessing(form: str, name: str) -> str:
    """Say what is missing where nothing records the preprocessing."""
    ways = ["its mean and std", "the ZCA whitening of the data", "or the set `like` which these images are"]
    if not name:
        ways.insert(0, "the data set, if its normalisation is known")
    elif readers_normalisation(name, form) is None:
        return f"the preprocessing, and no normalisation is known for {name} ({', '.join(ways)})"
    return f"the preprocessing ({', '.join(ways)})"


def _same(own: Preprocessing | None, other: Normalise) -> bool:
    return isinstance(own, Normalise) and torch.equal(own.mean, other.mean) and torch.equal(own.std, other.std)


def _numbers(values: Tensor) -> str:
    return " ".join(f"{value:g}" for value in values.tolist())


def _data_named(dataset: str | Dataset | None, origin: Artefact | None) -> tuple[str, str]:
    """Name and digest of the data set, "" where unknown."""
    if isinstance(dataset, Dataset):
        return dataset.name, dataset.digest
    about = origin.provenance["dataset"] if origin is not None else {}
    if dataset is None or dataset == about.get("name"):
        return str(about.get("name", "")), str(about.get("digest", ""))
    return dataset, ""


def _class_names(
    labels: Tensor, given: Sequence[str] | None, dataset: str | Dataset | None, origin: Artefact | None
) -> tuple[str, ...]:
    least = int(labels.max()) + 1 if labels.ndim == 1 else labels.shape[1]
    if given is not None:
        names = tuple(given)
    elif isinstance(dataset, Dataset):
        names = dataset.class_names
    elif origin is not None:
        names = origin.class_names
    else:
        names = tuple(str(number) for number in range(least))
    if len(names) < least or (labels.ndim == 2 and len(names) != least):
        raise InputError(f"the labels are of {least} classes, and {len(names)} class names were given")
    return names


def _by_class(
    images: Tensor, labels: Tensor, number: int, where: str, *, sorted_already: bool
) -> tuple[Tensor, Tensor, Tensor]:
    """Images and labels sorted by class, and the class of each.

    The class of a row of soft labels is its largest entry, if that makes equally many of each class. If not (a teacher
    errs), the images must be sorted by class, and most rows must agree with that.
    """
    in_order = torch.arange(number).repeat_interleave(len(images) // number)
    uneven = f"the {len(images)} images in {where} are not equally many of each of {number} classes"
    if len(in_order) != len(images):
        raise FormatError(uneven)
    if labels.ndim == 2 and sorted_already:
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
            f"the soft labels in {where} do not tell the classes of the images: their largest entries are not equally "
            f"many of each class, and in the order of classes only {agreeing} of {len(images)} agree; sort images and "
            "labels by class"
        )
    return images, labels, in_order


def _recipe(
    dataset: str | Dataset | None,
    name: str,
    preprocessing: Preprocessing,
    model: str | None,
    origin: Artefact | None,
    form: tuple[int, int, Sequence[int]],
) -> dict[str, Any]:
    """What of a recipe is known: the data set if it has a name that `data.load` knows, and the student."""
    before = origin.provenance.get("recipe", {}) if origin is not None else {}
    recipe = {part: before[part] for part in ("data", "model", "evaluation") if part in before}
    if dataset is not None and name in NAMES and name != recipe.get("data", {}).get("name"):
        recipe["data"] = asdict(DataSettings(name, zca=preprocessing.kind == "zca"))
    if model is not None:
        settings = parse(model)
        architecture_of(settings, form[0], form[1], form[2])
        recipe["model"] = asdict(settings)
    return recipe
