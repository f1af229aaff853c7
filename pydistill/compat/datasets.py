"""MTT's names of data sets, and the folders of its buffers."""

from __future__ import annotations

import argparse
from pathlib import Path

from pydistill.compat.flags import Script
from pydistill.data import DataSettings
from pydistill.data.imagenet import SUBSETS
from pydistill.data.settings import NAMES
from pydistill.data.statistics import PUBLISHED
from pydistill.errors import InputError

_NAMES = {"CIFAR10": "cifar10", "CIFAR100": "cifar100", "Tiny": "tiny-imagenet"}
_IMAGENET_SIZE = 128


def data_of(values: argparse.Namespace, script: Script = "mtt") -> DataSettings:
    """Return the data settings of the flags, with the published normalisation where there is one.

    Raises:
        InputError: there is no such data set or subset; or TESLA's ImageNet, which has all classes, without a subset.
    """
    name, size = _NAMES.get(values.dataset, values.dataset), None
    if values.dataset == "ImageNet":
        name, size = _subset(values), values.res or _IMAGENET_SIZE
        if script == "tesla" and values.subset is None:
            raise InputError(
                "--dataset ImageNet of TESLA has 1,000 classes at 64×64, which is not implemented; choose a --subset "
                f"of 10 classes: {', '.join(SUBSETS)}"
            )
        if name not in SUBSETS:
            raise InputError(f"--subset must be one of {', '.join(SUBSETS)}, not {name}")
    elif values.res is not None and script != "datm":  # whose files set it for every data set
        raise InputError(f"--res={values.res} is for --dataset ImageNet; leave it out")
    if name not in NAMES:
        raise InputError(
            f"--dataset must be CIFAR10, CIFAR100, Tiny, ImageNet or one of {', '.join(NAMES)}, not {values.dataset}"
        )
    return DataSettings(
        name=name,
        path=None if name == "digits" else values.data_path,
        image_size=size,
        zca=values.zca,
        statistics="published" if name in PUBLISHED and not values.zca else "measured",
        download=values.download,
        cache=values.cache,
    )


def buffer_folder(values: argparse.Namespace, script: Script = "mtt") -> Path:
    """Return the folder of the buffers, BUFFER_PATH/DATASET[_NO_ZCA][/SUBSET[/RES]]/MODEL.

    For ImageNet, older and newer revisions of MTT differ in the level RES, and for Tiny, MTT and MCT in _NO_ZCA; a
    folder that exists is preferred.
    """
    folder = Path(values.buffer_path) / str(values.dataset)
    model = str(values.model)
    if values.dataset == "ImageNet":
        folder /= _subset(values)
        with_size = folder / str(values.res or _IMAGENET_SIZE) / model
        return folder / model if (folder / model).is_dir() and not with_size.is_dir() else with_size
    unwhitened = folder.with_name(f"{folder.name}_NO_ZCA") / model
    of_mct = script == "mct" and values.dataset == "Tiny" and unwhitened.is_dir()
    if not values.zca and (of_mct or values.dataset in ("CIFAR10", "CIFAR100")):
        return unwhitened
    return folder / model


def _subset(values: argparse.Namespace) -> str:
    return str(values.subset or "imagenette")
