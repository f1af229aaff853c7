"""From settings to a data set."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from pydistill.data.cache import cache_folder
from pydistill.data.dataset import Dataset, prepare
from pydistill.data.digits import read_digits
from pydistill.data.raw import RawData
from pydistill.data.settings import DataSettings
from pydistill.errors import InputError


def load(settings: DataSettings) -> Dataset:
    """Read a data set, fit its preprocessing on the training images and apply it.

    Raises:
        InputError: the name is unknown, files are missing (the message says which argument to give), or the
            data are unsound.
        FormatError: a file is damaged.
        MissingDependencyError: an optional package is needed.
    """
    if settings.name not in READERS:
        raise InputError(f"data.name={settings.name!r} is none of {', '.join(READERS)}")
    cache = cache_folder(settings.cache)
    return prepare(READERS[settings.name](settings, cache), zca=settings.zca, cache=cache)


READERS: dict[str, Callable[[DataSettings, Path], RawData]] = {
    "digits": lambda settings, cache: read_digits(),
}
