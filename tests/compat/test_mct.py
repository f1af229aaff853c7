"""`mct.main`: waypoint files and replay buffers; refused flags."""

from __future__ import annotations

from pathlib import Path

import pytest

from pydistill.compat import mct
from pydistill.recipes.recipe import load_recipe
from pydistill.trajectories import TrajectoryStore, export_mct
from tests.compat.scripts import BUFFERS, RUN, names, read


@pytest.mark.parametrize("published", [True, False], ids=["waypoint files", "replay buffers"])
def test_mct_reads_both_kinds_of_buffers(published: bool, here: Path, capsys: pytest.CaptureFixture[str]) -> None:
    if published:
        recorded = TrajectoryStore.open(here / BUFFERS / "pydistill-experts")
        export_mct(recorded.write_convexified(here / "convexified", waypoints=3), here / BUFFERS)
    flags = ("--num_interpolation", "3", "--expert_epochs", "1.5", "--max_start_epoch", "1.5", "--mute_syn_lr")
    assert mct.main([*RUN, *flags]) == 0
    assert ("are convexified" in capsys.readouterr().err) is not published
    folder = here / "logged_files/tensors/convexified_v1"
    assert {"images_ipc-1_0.pt", "images_ipc-1_2.pt", "images_ipc-1_best.pt", "labels_ipc-1_best.pt"} <= set(
        names(folder)
    )
    assert float(read(folder / "lr_best.pt")) == pytest.approx(0.1), "constant under --mute_syn_lr"
    settings = load_recipe(folder / "run/recipe.json").distill
    assert (settings.expert_epochs, settings.max_start, settings.gradient) == (1.5, 1.5, "exact")


@pytest.mark.parametrize(
    ("flags", "part"),
    [
        (["--lr_decay"], "--lr_decay is refused"),
        (["--num_interpolation", "9"], "--num_interpolation must be 2 to 5"),
        (["--noise_start", "0.05"], "--noise_start is refused"),
        (["--optimizer", "Adam"], "--optimizer must be SGD"),
        (["--num_interpolation", "1"], "--num_interpolation must be at least 2"),
        (["--abl_uniform_points"], "go with --num_interpolation 2 only"),
        (["--num_interpolation", "2", "--abl_uniform_points", "--abl_projected_points"], "exclude each other"),
    ],
)
def test_wrong_flags_of_mct(flags: list[str], part: str, here: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert mct.main([*RUN, *flags]) == 2
    assert part in capsys.readouterr().err
