"""The devices that pydistill runs on."""

from __future__ import annotations

import re

import torch

from pydistill._util.format import first_line
from pydistill.errors import SettingError


def usable_device(device: torch.device | str) -> torch.device:
    """Check that a device exists and that pydistill runs on it.

    Args:
        device: cpu, cuda, or cuda:N.

    Raises:
        SettingError: it is any other device, or is not available on this machine.
    """
    if re.fullmatch(r"cpu|cuda|cuda:\d+", str(device)) is None:
        raise SettingError("device", str(device), "cpu, cuda or cuda:N")
    try:
        usable = torch.device(device)
        torch.empty(0, device=usable)
    except (RuntimeError, AssertionError) as error:
        reason = first_line(error).split(". ")[0].rstrip(".")
        raise SettingError("device", str(device), "one that is available", f"{reason}; use cpu") from error
    return usable
