"""`trajectory_compression.main`: waypoint files of the buffers, which `mct` reads."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from pydistill.compat import mct, trajectory_compression
from tests.compat.scripts import BUFFERS, DATA, SHORT, names

FLAGS = [*DATA, "--quiet"]


def test_its_files_are_those_that_mct_reads(here: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert trajectory_compression.main([*FLAGS, "--num_interpolation", "3"]) == 0
    pairs = [f"{kind}_buffer_ip3_{number}.pt" for kind in ("step", "waypoint") for number in (0, 1)]
    assert names(here / BUFFERS) == ["replay_buffer_0.pt", "replay_buffer_1.pt", *pairs]
    sizes = [len(torch.load(here / BUFFERS / name, weights_only=True)) for name in pairs]
    assert sizes == [2, 1, 2, 1]  # as many experts as in the buffers
    flags = ("--num_interpolation", "3", "--expert_epochs", "1", "--max_start_epoch", "1")
    assert mct.main([*SHORT, *flags]) == 0
    assert "are convexified" not in capsys.readouterr().err


def test_its_files_are_written_again_and_others_kept(here: Path) -> None:
    two = [*FLAGS, "--num_interpolation", "2"]
    for flags in ([], ["--abl_uniform_points"], []):
        assert trajectory_compression.main([*two, *flags]) == 0
    written = names(here / BUFFERS)
    assert {"replay_buffer_1.pt", "waypoint_buffer_1.pt", "step_buffer_uni_1.pt"} <= set(written)
    (here / BUFFERS / "waypoint_buffer_0.pt").write_bytes(b"mine")
    assert trajectory_compression.main(two) == 2
    assert (here / BUFFERS / "waypoint_buffer_0.pt").read_bytes() == b"mine"
    assert trajectory_compression.main([*FLAGS, "--num_interpolation", "3", "--abl_uniform_points"]) == 2
