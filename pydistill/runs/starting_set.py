"""The distilled set that a run goes on from (`initialisation: file`)."""

from __future__ import annotations

from torch import Tensor

from pydistill._util.settings import in_group
from pydistill.artefact.distilled_set import load
from pydistill.artefact.file import Artefact
from pydistill.data import Dataset
from pydistill.distillation.settings import DistillSettings
from pydistill.errors import InputError, MismatchError, Name, SettingError
from pydistill.synthesis.decoders import make_decoder
from pydistill.synthesis.initialisation import StartingSet


def starting_set(settings: DistillSettings, dataset: Dataset) -> StartingSet | None:
    """Read the set that a run goes on from; None if it begins with a set of its own.

    Images with another preprocessing are converted: inverted to pixels, and preprocessed as the data set's.

    Raises:
        InputError: the path holds no distilled set, or its number of images per class is not ipc.
        MismatchError: its images have another shape, its classes are others, or its labels are soft and the run's hard.
        FormatError: the file is damaged.
    """
    if settings.start_from is None:
        return None
    path, artefact = settings.start_from, load(settings.start_from).artefact
    shape, expected = list(artefact.images.shape[1:]), [dataset.in_channels, *dataset.image_size]
    if shape != expected:
        raise MismatchError(f"the images of {path} have shape {shape} and those of {dataset.name} {expected}")
    _check_classes(artefact, dataset, path)
    ipc = len(artefact.images) // len(artefact.class_names)
    with in_group("distill"):
        images = make_decoder(settings.decoder, (shape[0], shape[1], shape[2]), settings.ipc).images_per_class
        if ipc != images:
            if settings.decoder is None:
                raise SettingError("ipc", settings.ipc, f"{ipc}, the images per class of {path}")
            allowed = f"one that makes {ipc} images per class, as {path} has"
            raise SettingError("decoder.kind", settings.decoder.kind, allowed, f"it makes {images}")
    soft = artefact.labels.ndim == 2
    if soft and settings.resolved_method.labels == "hard":
        raise MismatchError(
            f"the set in {path} has soft labels and this run hard ones; set ", Name("distill.labels"), " to learned"
        )
    return StartingSet(
        _converted(artefact, dataset, path),
        artefact.classes.to(dataset.device),
        artefact.labels.to(dataset.device, dataset.train_pictures.dtype) if soft else None,
        artefact.lr,
    )


def _check_classes(artefact: Artefact, dataset: Dataset, path: str) -> None:
    """Refuse other classes; an imported set may name its classes by their numbers only."""
    names, count = artefact.class_names, dataset.num_classes
    if names not in (dataset.class_names, tuple(map(str, range(count)))):
        raise MismatchError(
            f"the set in {path} has the {len(names)} classes {_first(names)}, and {dataset.name} the {count} classes "
            f"{_first(dataset.class_names)}; a run goes on from a set of its own classes, in their order"
        )


def _converted(artefact: Artefact, dataset: Dataset, path: str) -> Tensor:
    """Return the images with the data set's preprocessing, on its device."""
    images = artefact.images.to(dataset.device, dataset.train_pictures.dtype)
    if artefact.preprocessing.fingerprint == dataset.preprocessing.fingerprint:
        return images
    try:
        return dataset.preprocessing.apply(artefact.preprocessing.to(dataset.device).invert(images))
    except InputError as error:
        raise MismatchError(f"the preprocessing of the set in {path} does not fit {dataset.name}: {error}") from error


def _first(names: tuple[str, ...]) -> str:
    return ", ".join(names[:3]) + (", …" if len(names) > 3 else "")
