"""The two versions of every op."""

from __future__ import annotations

from types import ModuleType

import pytest

import pydistill.ops
import pydistill.reference


@pytest.fixture(params=["ops", "reference"])
def module(request: pytest.FixtureRequest) -> ModuleType:
    """The ops, compiled where there are kernels, and the same in plain PyTorch."""
    return getattr(pydistill, request.param)
