"""Devices by name: those that pydistill runs on, and one sentence for the others."""

from __future__ import annotations

import re

import pytest
import torch

from pydistill._util.devices import usable_device
from pydistill.data import DataSettings, load
from pydistill.errors import InputError


def test_the_processor_is_there() -> None:
    assert usable_device("cpu") == usable_device(torch.device("cpu")) == torch.device("cpu")


@pytest.mark.parametrize("name", ["mps", "meta", "xpu", "bla", "cuda:x", ""])
def test_only_two_kinds_are_taken(name: str) -> None:
    with pytest.raises(InputError, match=re.escape(repr(name))):
        usable_device(name)
    with pytest.raises(InputError, match="device"):
        load(DataSettings("digits"), name)


def test_one_that_is_not_there() -> None:
    with pytest.raises(InputError, match=r"^device 'cuda:99' is not available: [^;\n]{5,90}; use cpu$"):
        usable_device("cuda:99")
