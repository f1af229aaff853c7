"""Read the data set again that a distilled set records."""

from __future__ import annotations

import os
from dataclasses import replace

import torch

from pydistill.data import Dataset, DataSettings, load
from pydistill.errors import InputError, Name, SettingError


def recorded_data(
    settings: DataSettings, path: str | os.PathLike[str] | None, device: torch.device | str | None
) -> Dataset:
    """Read the data set of these settings, from another path if it has moved.

    Raises:
        InputError: the data were in memory, or need no path.
    """
    if path is not None and settings.name == "digits":
        raise SettingError("data", os.fspath(path), "left out for digits, which come with scikit-learn")
    read_from = settings.path if path is None else os.fspath(path)
    if read_from is None and settings.name == "tensors":
        raise InputError(
            "the set was distilled from data in memory: pass these, data=…, in Python, or save the arrays in a .npz "
            "file and give its path as ",
            Name("data"),
        )
    # A file from elsewhere must not cause downloads or choose the cache folder.
    return load(replace(settings, path=read_from, download=False, cache=None), device)
