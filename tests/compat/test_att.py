"""`att.main`: the files of the pixels and of their average."""

from __future__ import annotations

from pathlib import Path

import torch

from pydistill.artefact.file import Artefact
from pydistill.compat import att
from pydistill.recipes.recipe import load_recipe
from tests.compat.scripts import RUN, names, read


def test_att_writes_averages_and_pixels(here: Path) -> None:
    assert att.main([*RUN, "--ema_decay", "0.9"]) == 0
    pixels, averages = here / "logged_files/tensors/att", here / "ema_logged_files/tensors/att"
    assert {"ema_images_0.pt", "ema_images_2.pt", "ema_images_best.pt", "ema_labels_best.pt"} <= set(names(averages))
    assert {"images_0.pt", "images_2.pt", "images_best.pt", "labels_best.pt"} <= set(names(pixels))
    best = Artefact.load(pixels / "run" / "best.safetensors")
    assert torch.equal(read(averages / "ema_images_best.pt"), best.images)
    assert not torch.equal(read(pixels / "images_best.pt"), best.images)
    assert torch.equal(read(pixels / "images_0.pt"), read(averages / "ema_images_0.pt"))
    assert load_recipe(pixels / "run/recipe.json").distill.ema == 0.9
