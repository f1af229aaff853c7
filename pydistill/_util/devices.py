"""The devices that pydistill runs on."""

from __future__ import annotations

import re

import torch

from pydistill._util.format import first_line
from pydistill.errors import InputError


def usable_device(device: torch.device | str) -> torch.device:
    """The device of a name, if pydistill runs on it and it is there.

    Args:
        device: cpu, cuda, or cuda:N.

    Raises:
        InputError: it is another one, or not to be had on this machine.
    """
    if re.fullmatch(r"cpu|cuda|cuda:\d+", str(device)) is None:
        raise InputError(f"device {str(device)!r} is not to be had: only cpu, cuda and cuda:N (N = 0, 1, …) are taken")
    try:
        found = torch.device(device)
        torch.empty(0, device=found)
    except (RuntimeError, AssertionError) as error:
        why = first_line(error).split(". ")[0].rstrip(".")
        raise InputError(f"device {str(device)!r} is not to be had: {why}; take cpu") from error
    return found
