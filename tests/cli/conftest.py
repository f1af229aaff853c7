"""Experts and a finished run on digits."""

from __future__ import annotations

from pathlib import Path

import pytest

from pydistill.artefact.figures import curves_figure
from tests.cli.commands import SMALL, run
from tests.helpers.curves import curves_drawn_by


@pytest.fixture(scope="session")
def experts(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("cli") / "experts"
    assert run("experts", *SMALL, "--out", folder, "--quiet") == 0
    return folder


@pytest.fixture(scope="session")
def finished(experts: Path) -> Path:
    out = experts.parent / "run"
    with curves_drawn_by(curves_figure):
        assert run("distill", *SMALL, "--experts", experts, "--out", out, "--quiet") == 0
    return out
