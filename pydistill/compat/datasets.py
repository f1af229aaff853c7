"""MTT's names of data sets, and where its scripts look for their buffers."""

from __future__ import annotations

import argparse
from pathlib import Path

from pydistill.compat.flags import Script
from pydistill.data import DataSettings
from pydistill.data.imagenet import SUBSETS
from pydistill.data.load import NAMES
from pydistill.data.statistics import PUBLISHED
from pydistill.errors import InputError

_NAMES = {"CIFAR10": "cifar10", "CIFAR100": "cifar100", "Tiny": "tiny-imagenet"}
IMAGENET_SIZE = 128


def data_of(values: argparse.Namespace) -> DataSettings:
    """The data set that the flags mean, normalised by the published numbers where there are some.

    Raises:
        InputError: there is no such data set.
    """
    name, size = _NAMES.get(values.dataset, values.dataset), None
    if values.dataset == "ImageNet":
        if values.subset not in SUBSETS:
            raise InputError(f"--subset must be one of {', '.join(SUBSETS)}, not {values.subset}")
        name, size = values.subset, values.res or IMAGENET_SIZE
    elif values.res is not None:
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
    """BUFFER_PATH/DATASET[_NO_ZCA][/SUBSET[/RES]]/MODEL: where the scripts keep and look for buffers.

    With and without the level RES for ImageNet, as MTT's older and newer revisions have it; a folder that exists wins.
    """
    folder = Path(values.buffer_path) / str(values.dataset)
    model = str(values.model)
    marked = ("CIFAR10", "CIFAR100", "Tiny") if script == "mct" else ("CIFAR10", "CIFAR100")
    if values.dataset == "ImageNet":
        folder /= str(values.subset)
        with_size = folder / str(values.res or IMAGENET_SIZE) / model
        return folder / model if (folder / model).is_dir() and not with_size.is_dir() else with_size
    if values.dataset in marked and not values.zca:
        folder = folder.with_name(f"{folder.name}_NO_ZCA")
    return folder / model
