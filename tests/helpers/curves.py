"""The curves in a run's report and in curves.png, which take ten times as long to draw as a small run takes."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import pytest

from pydistill.artefact import figures


def without_curves(*_: Any) -> Any:
    """Return an empty figure in place of `curves_figure`."""
    return figures._figure(1.0, 1.0, layout=None)


@contextmanager
def curves_drawn_by(draw: Callable[..., Any]) -> Iterator[None]:
    """Draw the curves of runs by `draw`: `curves_figure` or `without_curves`."""
    with pytest.MonkeyPatch.context() as patched:
        for module in ("page", "pictures"):
            patched.setattr(f"pydistill.runs.report.{module}.curves_figure", draw)
        yield
