"""The stand-in for CUDA graphs."""

from __future__ import annotations

import pytest

from tests.engine.captured import FakeGraphs


@pytest.fixture
def gpu(monkeypatch: pytest.MonkeyPatch) -> FakeGraphs:
    return FakeGraphs(monkeypatch)
