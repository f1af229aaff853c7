"""The package's messages, with the flags of the published scripts in place of names that these do not have."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from contextlib import contextmanager

from pydistill.errors import PydistillError

OTHER_STORE = {
    "choose another folder with --out": "choose another folder by --experts",
    "choose another folder": "choose another folder by --experts",
    "give the data, the model and the training of those experts": "give the --dataset, --data_path, --zca and --model "
    "of those experts",
}
"""Of a store of experts that this command cannot use."""


@contextmanager
def in_flags(names: Mapping[str, str]) -> Iterator[None]:
    """Let an error that is raised inside name flags.

    Args:
        names: by what a message says, whole words of it, what it shall say; the first that fits counts.
    """
    try:
        yield
    except PydistillError as error:
        if len(error.args) == 1:
            error.args = (renamed(str(error), names),)
        raise


def renamed(message: str, names: Mapping[str, str]) -> str:
    """The message with these words replaced."""
    words = "|".join(re.escape(name) for name in names)
    return re.sub(rf"(?<![\w.-])(?:{words})(?![\w-])", lambda found: names[found[0]], message)
