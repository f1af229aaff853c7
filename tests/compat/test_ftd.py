"""`ftd.main`: the average of constant decay, and its files beside those of the pixels."""

from __future__ import annotations

from pathlib import Path

import torch

from pydistill.artefact.file import Artefact
from pydistill.compat import ftd
from pydistill.recipes.recipe import load_recipe
from tests.compat.scripts import RUN, names, read


def test_ftd_writes_averages_of_constant_decay(here: Path) -> None:
    flags = ("--Iteration", "2", "--eval_it", "1", "--lr_img", "100", "--lr_lr", "0", "--ema_decay", "0.75")
    assert ftd.main([*RUN, *flags]) == 0
    pixels, averages = here / "logged_files/tensors/ftd", here / "ema_logged_files/tensors/ftd"
    assert {"images_0.pt", "images_best.pt", "labels_best.pt"} <= set(names(pixels))
    assert {"ema_images_0.pt", "ema_images_best.pt", "ema_labels_best.pt"} <= set(names(averages))
    settings = load_recipe(pixels / "run/recipe.json").distill
    assert (settings.method, settings.ema, settings.resolved_method.ema_warmup) == ("ftd", 0.75, False)
    first, after_one = (read(pixels / f"images_{iteration}.pt") for iteration in (0, 1))
    average = read(averages / "ema_images_1.pt")
    assert (after_one - first).abs().max() > 1e-3
    torch.testing.assert_close(average, 0.75 * first + 0.25 * after_one)
    best = Artefact.load(pixels / "run/best.safetensors")
    assert torch.equal(read(averages / "ema_images_best.pt"), best.images)


def test_the_published_decay_is_the_default(here: Path) -> None:
    assert ftd.main([*RUN, "--Iteration", "1", "--eval_it", "1"]) == 0
    assert load_recipe(here / "logged_files/tensors/ftd/run/recipe.json").distill.ema == 0.999
