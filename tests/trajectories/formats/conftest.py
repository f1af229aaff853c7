"""A folder of MTT's files."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from tests.trajectories.formats.files import nested
from tests.trajectories.samples import walk


@pytest.fixture
def mtt(tmp_path: Path) -> Path:
    """A folder with three experts in two files of MTT's format."""
    folder = tmp_path / "mtt"
    folder.mkdir()
    torch.save([nested(walk(seed=0)), nested(walk(seed=1))], folder / "replay_buffer_2.pt")
    torch.save([nested(walk(seed=2))], folder / "replay_buffer_10.pt")
    return folder
