"""A small distilled set and files in MTT's format."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch

from pydistill.artefact.distilled_set import DistilledSet
from pydistill.artefact.file import Artefact
from pydistill.data import from_arrays
from tests.helpers.small_runs import recipe

BOTH_WAYS = ("mtt", "dcbench", "ddranking")
"""The formats that are exported and imported."""


def made(dataset: str = "cifar10", *, ipc: int = 2, soft: bool = False, zca: bool = False) -> DistilledSet:
    """Make a small set of three classes, attributed to the data set `dataset`."""
    generator = torch.Generator().manual_seed(0)
    raw, labels = torch.rand(48, 3, 4, 4, generator=generator), torch.arange(48) % 3
    data = from_arrays(raw, labels, raw, labels, zca=zca)
    images, classes = data.sample_per_class(ipc, generator)
    rows = torch.rand(len(images), 3, generator=generator).softmax(1)
    provenance = {
        "dataset": {"name": dataset, "digest": data.digest, "classes": ["ant", "bee", "cat"]},
        "recipe": recipe().as_dict(),
    }
    labels = rows if soft else classes
    return DistilledSet(Artefact(images, labels, classes, 0.0123, data.preprocessing, provenance, images))


def save(folder: Path, images: Any = None, labels: Any = None, lr: Any = None) -> Path:
    """Write MTT's files with random or explicit content."""
    torch.save(torch.rand(6, 3, 4, 4) if images is None else images, folder / "images_best.pt")
    torch.save(torch.arange(6) % 3 if labels is None else labels, folder / "labels_best.pt")
    if lr is not None:
        torch.save(lr, folder / "lr_best.pt")
    return folder
