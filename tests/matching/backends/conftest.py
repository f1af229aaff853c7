"""Fixtures of the backends' tests."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from pydistill.engine.student import release_students


@pytest.fixture
def no_cached_programs() -> Iterator[None]:
    """Release the engine's students and programs before the test and after it."""
    release_students()
    yield
    release_students()
