"""Settings and fixtures shared by all tests."""

from __future__ import annotations

import os
import signal
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch

from pydistill.artefact.figures import curves_figure
from pydistill.trajectories import TrajectoryStore
from tests.helpers.curves import curves_drawn_by, without_curves
from tests.helpers.small_runs import experts

# The tests' problems are tiny: a second thread costs more than it does, and everything waits when the cores are busy.
# The processes that tests start inherit it: sums over other numbers of threads differ in their last bits.
torch.set_num_threads(1)
os.environ["OMP_NUM_THREADS"] = "1"

# A shell starts what runs in its background with Ctrl-C ignored; the tests are about what it does.
signal.signal(signal.SIGINT, signal.default_int_handler)


@pytest.fixture
def open_folder() -> Iterator[Path]:
    """A temporary folder that anybody can look into, as pytest's are not: for what is tried `as_unprivileged_user`."""
    with tempfile.TemporaryDirectory() as folder:
        os.chmod(folder, 0o755)
        yield Path(folder)


@pytest.fixture(scope="session")
def store(tmp_path_factory: pytest.TempPathFactory) -> TrajectoryStore:
    """The experts of `tests.helpers.small_runs`, trained once; tests must not change them."""
    return experts(tmp_path_factory.mktemp("experts"))


@pytest.fixture(scope="session", autouse=True)
def _without_curves() -> Iterator[None]:
    """Runs of this process draw empty curves; those of programs that tests start draw all."""
    with curves_drawn_by(without_curves):
        yield


@pytest.fixture(scope="module")
def curves() -> Iterator[None]:
    """The runs and reports of a module draw their curves."""
    with curves_drawn_by(curves_figure):
        yield
