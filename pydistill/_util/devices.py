"""Choose and check the device to run on."""

from __future__ import annotations

import re

import torch

from pydistill._util.format import first_line
from pydistill.errors import SettingError

_CPU = torch.device("cpu")


def usable_device(device: torch.device | str | None, data: torch.device = _CPU) -> torch.device:
    """Check that a device exists and that pydistill runs on it.

    Args:
        device: cpu, cuda, or cuda:N; None chooses a GPU if there is one and the data are on the CPU, else their device.
        data: the device of the data.

    Raises:
        SettingError: it is any other device, or is not available on this machine.
    """
    if device is None:
        return torch.device("cuda") if data.type == "cpu" and torch.cuda.is_available() else data
    if re.fullmatch(r"cpu|cuda|cuda:\d+", str(device)) is None:
        raise SettingError("device", str(device), "cpu, cuda or cuda:N")
    try:
        usable = torch.device(device)
        torch.empty(0, device=usable)
    except (RuntimeError, AssertionError) as error:
        reason = first_line(error).split(". ")[0].rstrip(".")
        raise SettingError("device", str(device), "one that is available", f"{reason}; use cpu") from error
    return usable
