"""`mtt.main`: the recipe of its flags and the files that it writes."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from pydistill.artefact.file import Artefact
from pydistill.compat import mtt
from pydistill.recipes.recipe import load_recipe
from tests.compat.scripts import RUN, names, read


def test_mtt_writes_its_files(here: Path) -> None:
    assert mtt.main([*RUN, "--name", "first"]) == 0
    folder = here / "logged_files/tensors/first"
    written = set(names(folder))
    assert {"images_0.pt", "images_2.pt", "images_best.pt", "labels_best.pt", "lr_best.pt"} <= written
    best, last = (Artefact.load(folder / "run" / file) for file in ("best.safetensors", "distilled.safetensors"))
    assert torch.equal(read(folder / "images_best.pt"), best.images)
    assert torch.equal(read(folder / "labels_best.pt"), torch.arange(4))
    assert float(read(folder / "lr_best.pt")) == pytest.approx(best.lr)
    assert torch.equal(read(folder / "images_0.pt"), last.initial_images)
    assert not torch.equal(best.images, last.initial_images)
    iteration = best.provenance["iteration"]
    assert torch.equal(read(folder / f"images_{iteration}.pt"), best.images)
    assert (folder / "run" / "summary.json").exists()


def test_the_flags_reach_the_recipe(here: Path) -> None:
    flags = ("--ipc", "2", "--batch_syn", "3", "--pix_init", "noise", "--no_aug", "True", "--lr_lr", "3e-4")
    assert mtt.main([*RUN, *flags, "--Iteration", "1", "--batch_train", "5", "--seed", "7"]) == 0
    recipe = load_recipe(here / "logged_files/tensors/mtt/run/recipe.json")
    settings = recipe.distill
    assert (settings.method, settings.ipc, settings.batch_size, settings.initialisation) == ("mtt", 2, 3, "noise")
    assert (settings.lr_image, settings.lr_lr, settings.lr_init, settings.seed) == (1.0, 3e-4, 0.1, 7)
    assert (settings.steps, settings.expert_epochs, settings.max_start, settings.evaluate_every) == (2, 2, 2, 2)
    assert settings.dsa is None
    assert recipe.evaluation.training.dsa is not None, "--no_aug is about the distillation"
    assert (recipe.evaluation.training.batch_size, recipe.evaluation.repeats) == (5, 1)
    assert (recipe.expert.count, recipe.expert.training.epochs) == (3, 4)


def test_a_resumed_run_writes_the_same_files(here: Path) -> None:
    assert mtt.main([*RUN, "--name", "uninterrupted"]) == 0
    assert mtt.main([*RUN, "--name", "resumed", "--Iteration", "2"]) == 0
    parent = here / "logged_files/tensors"
    for name in ("images_2.pt", "images_best.pt"):  # as after a kill before they were written
        (parent / "resumed" / name).unlink()
    leftover = parent / "resumed" / ".images_2.pt.1234-0123abcd.tmp"
    leftover.write_text("half")
    assert mtt.main([*RUN, "--name", "resumed", "--resume"]) == 0
    assert not leftover.exists()
    assert names(parent / "resumed") == names(parent / "uninterrupted")
    for file in names(parent / "uninterrupted"):
        assert torch.equal(read(parent / "resumed" / file), read(parent / "uninterrupted" / file)), file


def test_an_existing_name_is_refused(here: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (here / "logged_files/tensors/first").mkdir(parents=True)
    assert mtt.main([*RUN, "--name", "first"]) == 2
    assert "--name" in capsys.readouterr().err
    assert mtt.main([*RUN, "--resume"]) == 2
    assert "--resume needs " in capsys.readouterr().err
    for name in ("../first", "..", ".", "", "first/", "/"):
        for flags in ([], ["--resume"]):
            assert mtt.main([*RUN, "--name", name, *flags]) == 2
            assert "--name must be " in capsys.readouterr().err
    assert [path.name for path in (here / "logged_files").rglob("*")] == ["tensors", "first"]


def test_other_networks_are_evaluated_at_the_end(here: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert mtt.main([*RUN, "--Iteration", "1", "--eval_mode", "C"]) == 0
    table = capsys.readouterr().out
    assert "convnet2-w4 " in table
    assert "convnet3-w128-in " in table


def test_whitened_images_are_also_written_unwhitened(here: Path) -> None:
    assert mtt.main([*RUN, "--zca", "--cache", "cache", "--Iteration", "2"]) == 0
    folder = here / "logged_files/tensors/mtt"
    artefact = Artefact.load(folder / "run")
    assert artefact.preprocessing.kind == "zca"
    for when in ("0", "2"):
        expected = artefact.preprocessing.invert(read(folder / f"images_{when}.pt"))
        assert torch.equal(read(folder / f"images_zca_{when}.pt"), expected)


def test_an_unused_flag_is_reported(here: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert mtt.main([*RUN, "--Iteration", "1", "--lr_init", "0.5"]) == 0
    assert "--lr_init is never used" in capsys.readouterr().err


def test_no_aug_false_leaves_augmentation_on(here: Path) -> None:
    assert mtt.main([*RUN, "--Iteration", "1", "--no_aug", "False"]) == 0
    recipe = load_recipe(here / "logged_files/tensors/mtt/run/recipe.json")
    assert recipe.distill.dsa is not None
