"""Read and write a distilled set as one safetensors file with everything needed to use it."""

from __future__ import annotations

import math
import os
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from pydistill._util.checks import check_path
from pydistill._util.layout import BEST_NAME, CHECKPOINT_NAME, METRICS_NAME, SET_NAME, other_runs
from pydistill._util.tensor_file import read_tensors, write_tensors
from pydistill.artefact.storage import Storage
from pydistill.data import Preprocessing
from pydistill.errors import FormatError, InputError, Name
from pydistill.recipes.recipe import default_recipe
from pydistill.synthesis.decoders import Encoded

FORMAT = 1
ENCODED_FORMAT = 2
"""Of a set with a decoder, which has codes in place of images."""
KEY = "pydistill.artefact"
_PREFIX = "preprocessing."
_CODE, _BUFFER, _INITIAL = "code.", "buffer.", "initial_code."
# Allowed deviation of decoded images on another machine, in units of the largest pixel.
_DECODING_TOLERANCE = 1e-3
# Allowed deviation of the sum of a row of soft labels from 1. Imports accept 1e-3, to which another order of summation
# adds at most 1e-4; the error of a float32 softmax over 1,000 classes is below 1e-6.
_ROW_TOLERANCE = 2e-3

_ABOUT = (
    "A distilled training set. Train a fresh network on `images` and `labels` by SGD at learning rate `lr` as "
    "`evaluation.training` says (its own lr is replaced by this one); `viewable` says how to make pixels of images."
)
_ABOUT_CODES = " The file has no `images`: `decoder` says how they are made of the tensors `code.…` and `buffer.…`."
_FORMULAS = {
    "normalise": "pixels = images * preprocessing.std + preprocessing.mean, per channel, clamped to [0, 1]",
    "zca": "pixels = preprocessing.inverse @ image + preprocessing.mean, image flattened as C, H, W, clamped to [0, 1]",
}
_MEANINGS = {
    "images": "the distilled images [n, C, H, W] as networks see them, preprocessed",
    "labels": "class numbers [n], or class probabilities [n, classes]",
    "classes": "the class that each image stands for [n]",
    _CODE: "stored in place of images: the decoder that the header describes makes them of it",
    _BUFFER: "a constant of the decoder",
    _INITIAL: "the code before the first iteration",
    "initial_images": "the images before the first iteration, [n, C, H, W], preprocessed",
    "preprocessing.mean": "mean of the training pixels in [0, 1]: per channel [C], or per pixel [C, H, W] for zca",
    "preprocessing.std": "standard deviation of the training pixels in [0, 1], per channel [C]",
    "preprocessing.matrix": "ZCA whitening W [D, D], D = C H W: image = W (pixels - mean)",
    "preprocessing.inverse": "the inverse of W [D, D]",
}


@dataclass(frozen=True)
class Artefact:
    """A distilled set with the learning rate and the preprocessing for training on it and viewing it.

    Attributes:
        images: [n, C, H, W] float32, preprocessed (as the networks see them), class-major.
        labels: class numbers [n] int64, or probabilities [n, K], whose rows sum to 1.
        classes: the class of every image, [n] int64.
        lr: α, the learned learning rate.
        preprocessing: the normalisation or the ZCA whitening with its inverse.
        provenance: configuration, seed, versions, dataset and accuracies, as JSON-able values.
        initial_images: the images before the first iteration, [n, C, H, W]; None for an imported set.
        encoded: the codes that the images are decoded from, which the file holds in their place; None for pixels.
    """

    images: Tensor
    labels: Tensor
    classes: Tensor
    lr: float
    preprocessing: Preprocessing
    provenance: dict[str, Any]
    initial_images: Tensor | None
    encoded: Encoded | None = None

    @property
    def storage(self) -> Storage:
        """The size of the images as they are stored, and apart from it that of the labels."""
        stored = (
            [self.images] if self.encoded is None else [*self.encoded.codes.values(), *self.encoded.buffers.values()]
        )
        return Storage.of(stored, self.labels)

    @property
    def class_names(self) -> tuple[str, ...]:
        """The names of the K classes, in the order of the labels."""
        return tuple(self.provenance["dataset"]["classes"])

    @property
    def ipc(self) -> int:
        """The images per class: with a decoder, those whose storage the codes have."""
        if self.encoded is not None and self.encoded.description is not None:
            return int(self.encoded.description["ipc"])
        return len(self.images) // len(self.class_names)

    def viewable(self, images: Tensor | None = None) -> Tensor:
        """Return the images, or other preprocessed images, as pixels in [0, 1], [n, C, H, W]."""
        return self.preprocessing.invert(self.images if images is None else images).clamp(0, 1)

    def save(self, path: str | os.PathLike[str]) -> None:
        """Write the artefact to `path` (a .safetensors file), atomically.

        Raises:
            InputError: the parts do not agree, a number is not finite, or soft labels are not probabilities.
            WriteError: the folder cannot be written or the disk is full.
        """
        try:
            fault = _fault(self)
        except (KeyError, TypeError, ValueError, AttributeError, RuntimeError) as error:
            raise InputError(f"the distilled set cannot be written to {path} ({error})") from error
        if fault is not None:
            raise InputError(f"the distilled set cannot be written to {path}: {fault}")
        about, tensors = self.preprocessing.state()
        stored = {f"{_PREFIX}{name}": value for name, value in tensors.items()}
        stored |= {"labels": self.labels, "classes": self.classes} | _stored_images(self)
        recipe = _mapping(self.provenance.get("recipe"))
        defaults = default_recipe(_mapping(recipe.get("data")).get("name")).evaluation  # imported sets record none
        evaluation = _mapping(recipe.get("evaluation")) or asdict(defaults)
        header = {
            "format": FORMAT if self.encoded is None else ENCODED_FORMAT,
            "about": _ABOUT if self.encoded is None else _ABOUT + _ABOUT_CODES,
            "lr": self.lr,
            "class_names": list(self.class_names),
            "preprocessing": about,
            "viewable": _FORMULAS.get(self.preprocessing.kind, self.preprocessing.kind),
            "evaluation": evaluation,
            "augmentation": _mapping(evaluation.get("training")).get("dsa"),
            "provenance": self.provenance,
            "storage": asdict(self.storage),
        }
        if self.encoded is not None:
            header["decoder"] = self.encoded.description
        meanings = {name: _MEANINGS.get(name) or _MEANINGS[f"{name.partition('.')[0]}."] for name in stored}
        write_tensors(path, KEY, header, stored, meanings=meanings)

    @classmethod
    def load(cls, path: str | os.PathLike[str]) -> Artefact:
        """Read an artefact from a file or a run folder and verify its checksums; runs no code from the file.

        Raises:
            InputError: `path` has no artefact.
            FormatError: the file is damaged, not an artefact, or has another format.
        """
        file = Path(path)
        if file.is_dir():
            file = file / SET_NAME
        if not file.is_file():
            raise InputError(*_absent(path, file))
        header, tensors = read_tensors(file, KEY, (FORMAT, ENCODED_FORMAT), "a distilled set")
        try:
            about = {name.removeprefix(_PREFIX): value for name, value in tensors.items() if name.startswith(_PREFIX)}
            encoded = None
            if header["format"] == ENCODED_FORMAT:
                encoded = _read_encoded(header["decoder"], tensors)
                tensors |= {"images": encoded.images(), "initial_images": encoded.initial_images()}
            artefact = cls(
                images=tensors["images"],
                labels=tensors["labels"],
                classes=tensors["classes"],
                lr=float(header["lr"]),
                preprocessing=Preprocessing.from_state(header["preprocessing"], about),
                provenance=dict(header["provenance"]),
                initial_images=tensors.get("initial_images"),
                encoded=encoded,
            )
            fault = _fault(artefact)
        except (KeyError, TypeError, ValueError, OverflowError, AttributeError, RuntimeError) as error:
            raise FormatError(f"{file} is damaged or not a distilled set written by pydistill ({error})") from error
        if fault is not None:
            raise FormatError(f"{file} is damaged: {fault}")
        return artefact


def check_destination(path: str | os.PathLike[str]) -> None:
    """Check that a distilled set may be written to a path.

    Raises:
        InputError: the name does not end in .safetensors, the path exists and is not an intact distilled set, or it is
            that of the final or best set of a run, even if that does not exist yet.
    """
    check_path("path", path)
    file = Path(path)
    if file.suffix != ".safetensors" or file.is_dir():
        raise InputError(f"a distilled set is written to a file whose name ends in .safetensors, not to {path}")
    # Outside a run, a set may have one of these names.
    if file.name in (SET_NAME, BEST_NAME) and any(
        (file.parent / name).exists() for name in (METRICS_NAME, CHECKPOINT_NAME)
    ):
        raise InputError(f"{path} is the set of a run; choose another file")
    if file.exists():
        try:
            Artefact.load(file)
        except (FormatError, InputError) as error:
            raise InputError(f"{path} exists and is not an intact distilled set; choose another file") from error


def _stored_images(artefact: Artefact) -> dict[str, Tensor]:
    """Return the tensors of the file that make the images, and the initial ones."""
    encoded = artefact.encoded
    if encoded is None:
        initial = {} if artefact.initial_images is None else {"initial_images": artefact.initial_images}
        return {"images": artefact.images} | initial
    return {
        f"{prefix}{name}": value
        for prefix, tensors in ((_CODE, encoded.codes), (_BUFFER, encoded.buffers), (_INITIAL, encoded.initial_codes))
        for name, value in tensors.items()
    }


def _read_encoded(description: dict[str, Any], tensors: Mapping[str, Tensor]) -> Encoded:
    codes, buffers, initial = (
        {name.removeprefix(prefix): value for name, value in tensors.items() if name.startswith(prefix)}
        for prefix in (_CODE, _BUFFER, _INITIAL)
    )
    return Encoded(description, codes, buffers, initial)


def _absent(path: str | os.PathLike[str], file: Path) -> tuple[str, ...]:
    """Return the parts of the message for a missing set."""
    run = file.parent
    if file.name == BEST_NAME and (run / METRICS_NAME).exists() and (run / SET_NAME).exists():
        return (f"{file}, the best set of the run in {run}, is missing; its final set is {run / SET_NAME}",)
    if file.name in (SET_NAME, BEST_NAME) and (run / METRICS_NAME).exists():
        when = "at the end" if file.name == SET_NAME else "after the first evaluation"
        best = file.name == SET_NAME and (run / BEST_NAME).exists()
        other = ("its best set so far can be loaded with ", Name("which"), " best; ") if best else ()
        return (
            f"the run in {run} has no {file.name}, which is written {when}: the run has not reached it, or the file "
            "was removed; ",
            *other,
            "the run can be resumed",
        )
    if file.name in (SET_NAME, BEST_NAME) and run.is_dir():
        remedy = other_runs(run) or "give a run's folder, or a set's file"
        return (f"{run} holds no distilled set: there is no {file.name} in it; {remedy}",)
    return (f"{path} holds no distilled set: there is no such file or folder; give a run's folder, or a set's file",)


def _mapping(value: Any) -> Mapping[str, Any]:
    return value if isinstance(value, Mapping) else {}


def _fault(artefact: Artefact) -> str | None:
    """Return why this is not a valid distilled set, as the end of a sentence; None if it is valid."""
    images, labels, classes = artefact.images, artefact.labels, artefact.classes
    count = images.shape[0] if images.ndim == 4 else -1
    agrees = labels.ndim in (1, 2) and classes.ndim == 1 and labels.shape[0] == count == classes.shape[0]
    if not agrees or (artefact.initial_images is not None and artefact.initial_images.shape != images.shape):
        return "its images, labels and classes do not agree in number"
    labels_fit = labels.is_floating_point() if labels.ndim == 2 else labels.dtype == torch.int64
    if not (images.is_floating_point() and classes.dtype == torch.int64 and labels_fit):
        return "its images, labels or classes have the wrong dtype"
    tensors = [images, labels] + ([] if artefact.initial_images is None else [artefact.initial_images])
    if not all(bool(torch.isfinite(tensor).all()) for tensor in tensors) or not (
        math.isfinite(artefact.lr) and artefact.lr > 0
    ):
        return "its images, labels or learning rate are not finite, or the learning rate is not positive"
    if not all(isinstance(artefact.provenance.get(name, {}), Mapping) for name in ("dataset", "recipe")):
        return "its provenance has an unknown form"
    names = artefact.class_names
    if not names or not all(isinstance(name, str) for name in names):
        return "its classes have no names"
    numbers = [classes] + ([labels] if labels.ndim == 1 else [])
    outside = any(bool(((values < 0) | (values >= len(names))).any()) for values in numbers)
    if count < 1 or outside or (labels.ndim == 2 and labels.shape[1] != len(names)):
        return f"its labels do not belong to its {len(names)} classes"
    if labels.ndim == 2 and not _are_probabilities(labels):
        return "its soft labels are not probabilities, which are at least 0 and sum to 1 in every row"
    if not torch.equal(classes, torch.arange(len(names), device=classes.device).repeat_interleave(count // len(names))):
        return "its images are not sorted by class with equally many per class"
    artefact.preprocessing.invert(images[:1])
    if artefact.encoded is not None:
        decoded = artefact.encoded.images().to(images)
        if decoded.shape != images.shape or (decoded - images).abs().amax() > _DECODING_TOLERANCE * images.abs().amax():
            return "its images are not those of its codes; leave out `encoded` to store the images"
    return None


def _are_probabilities(rows: Tensor) -> bool:
    """Return whether all rows [n, K] are class probabilities, up to rounding."""
    sums = rows.double().sum(dim=1)
    return bool((rows >= 0).all()) and bool(((sums - 1).abs() <= _ROW_TOLERANCE).all())
