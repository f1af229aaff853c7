"""Device names: cpu and cuda are accepted; other names and missing devices raise an error."""

from __future__ import annotations

import re

import pytest
import torch

from pydistill._util.devices import usable_device
from pydistill.data import DataSettings, load
from pydistill.errors import InputError


def test_cpu_is_available() -> None:
    assert usable_device("cpu") == usable_device(torch.device("cpu")) == torch.device("cpu")


@pytest.mark.parametrize(
    ("gpu", "data", "chosen"), [(True, "cpu", "cuda"), (False, "cpu", "cpu"), (True, "cuda:1", "cuda:1")]
)
def test_default_device(gpu: bool, data: str, chosen: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: gpu)
    assert usable_device(None, torch.device(data)) == torch.device(chosen)


@pytest.mark.parametrize("name", ["mps", "meta", "xpu", "bla", "cuda:x", ""])
def test_other_devices_are_refused(name: str) -> None:
    with pytest.raises(InputError, match=re.escape(repr(name))):
        usable_device(name)
    with pytest.raises(InputError, match="device"):
        load(DataSettings("digits"), name)


def test_missing_device() -> None:
    with pytest.raises(InputError, match="cuda:99"):
        usable_device("cuda:99")
