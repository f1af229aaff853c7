"""Every preset has the published values and runs for two iterations on data of its shape."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

from pydistill._util.settings import from_dict
from pydistill.data import Dataset, from_arrays
from pydistill.distillation.distiller import DistillSettings
from pydistill.errors import InputError
from pydistill.nn import build, flatten
from pydistill.recipes.recipe import Recipe, load_recipe, preset_names, preset_path
from pydistill.runs.run import run_distillation
from pydistill.synthesis.decoders import DecoderSettings, make_decoder
from pydistill.training.experts import experts_record
from pydistill.training.gsam import SharpnessSettings
from pydistill.trajectories import TrajectoryStore

# channels, side and number of classes of every data set
SHAPES = {
    "digits": (1, 8, 10),
    "cifar10": (3, 32, 10),
    "cifar100": (3, 32, 100),
    "tiny-imagenet": (3, 64, 200),
    "imagenette": (3, 128, 10),
    "folder": (3, 32, 3),
    "tensors": (4, 1, 3),
}

# Published tables: steps, expert epochs, max start, lr of images, lr of lr, initial lr, ZCA, EMA, iterations.
ATT = {
    "cifar10-ipc1": (80, 4, 2, 1e2, 1e-7, 1e-2, True, 0.9999, 6_000),
    "cifar10-ipc10": (30, 2, 20, 1e4, 1e-4, 1e-2, True, 0.9999, 60_000),
    "cifar10-ipc50": (50, 2, 40, 1e2, 1e-5, 1e-3, False, 0.999, 1_000_000),
    "cifar100-ipc1": (50, 4, 20, 500, 1e-5, 1e-2, True, 0.9995, 3_000),
    "cifar100-ipc10": (20, 2, 40, 1e3, 1e-5, 1e-2, False, 0.9995, 200_000),
    "cifar100-ipc50": (80, 2, 40, 1e3, 1e-5, 1e-2, True, 0.999, 100_000),
    "tiny-imagenet-ipc1": (30, 2, 10, 1e4, 1e-4, 1e-2, False, 0.999, 10_000),
    "tiny-imagenet-ipc10": (20, 2, 40, 1e4, 1e-5, 1e-4, False, 0.999, 80_000),
    "imagenet-subset-ipc1": (20, 2, 10, 1e4, 5e-8, 1e-2, False, 0.9999, 10_000),
    "imagenet-subset-ipc10": (20, 2, 10, 1e4, 1e-4, 1e-2, False, 0.999, 100_000),
}
MCT = {
    "cifar10-ipc1": (60, 6, 4, 1e3, 1e-7, 1e-2, False, None, 5_000),
    "cifar10-ipc10": (30, 15, 8, 1e3, 1e-5, 1e-2, False, None, 5_000),
    "cifar10-ipc50": (30, 2, 40, 1e3, 1e-5, 1e-3, False, None, 5_000),
    "cifar10-zca-ipc1": (50, 5, 3, 1e3, 1e-7, 1e-2, True, None, 5_000),
}
MTT = {
    "cifar10-ipc1": (50, 2, 2, 100, 1e-7, 0.01, True, None, 5_000),
    "cifar10-ipc10": (30, 2, 20, 100, 1e-5, 0.001, True, None, 5_000),
    "cifar10-ipc50": (30, 2, 40, 1000, 1e-5, 0.001, False, None, 5_000),
    "cifar100-ipc1": (20, 3, 20, 1000, 1e-5, 0.01, True, None, 5_000),
    "cifar100-ipc10": (20, 2, 20, 1000, 1e-5, 0.01, False, None, 5_000),
    "cifar100-ipc50": (80, 2, 40, 1000, 1e-5, 0.01, True, None, 5_000),
    "tiny-imagenet-ipc1": (10, 2, 10, 1e4, 1e-4, 0.01, False, None, 5_000),
    "tiny-imagenet-ipc10": (20, 2, 40, 1e4, 1e-4, 0.01, False, None, 5_000),
    "tiny-imagenet-ipc50": (20, 2, 40, 1e4, 1e-4, 0.01, False, None, 5_000),
}
FTD = {
    "cifar10-ipc1": (50, 2, 2, 100, 1e-7, 0.01, True, 0.9999, 5_000),
    "cifar10-ipc10": (30, 2, 20, 100, 1e-5, 0.001, True, 0.9995, 5_000),
    "cifar10-ipc50": (30, 2, 40, 1000, 1e-5, 0.01, True, 0.999, 5_000),
    "cifar100-ipc1": (40, 3, 20, 1000, 1e-5, 0.01, True, 0.9995, 5_000),
    "cifar100-ipc10": (20, 2, 40, 1000, 1e-5, 0.01, True, 0.9995, 5_000),
    "cifar100-ipc50": (80, 2, 40, 1000, 1e-5, 0.01, True, 0.999, 5_000),
    "tiny-imagenet-ipc1": (30, 2, 10, 1e4, 1e-4, 0.01, False, 0.999, 5_000),
    "tiny-imagenet-ipc10": (20, 2, 40, 1e4, 1e-4, 0.01, False, 0.999, 5_000),
}
# Steps, expert epochs, first start, end of the starts at first (None: fixed), end, iterations until then; lr of images,
# of lr and of labels; initial images.
DATM = {
    "cifar10-ipc1": (80, 2, 0, None, 4, None, 100, 1e-7, 5, "correct"),
    "cifar10-ipc10": (80, 2, 0, 10, 20, 1000, 100, 1e-5, 2, "correct"),
    "cifar10-ipc50": (80, 2, 0, 20, 40, 2000, 1000, 1e-5, 2, "correct"),
    "cifar10-ipc500": (40, 2, 40, None, 60, None, 50, 1e-5, 10, "correct"),
    "cifar10-ipc1000": (100, 2, 40, None, 60, None, 50, 1e-5, 10, "correct"),
    "cifar100-ipc1": (40, 3, 0, 10, 20, 1000, 1000, 1e-5, 10, "correct"),
    "cifar100-ipc10": (80, 2, 0, 30, 50, 2000, 1000, 1e-5, 10, "correct"),
    "cifar100-ipc50": (80, 2, 20, None, 70, None, 1000, 1e-5, 10, "real"),
    "cifar100-ipc100": (80, 2, 30, None, 70, None, 50, 1e-5, 10, "correct"),
    "tiny-imagenet-ipc1": (40, 2, 0, 15, 20, 2000, 1e4, 1e-4, 10, "correct"),
    "tiny-imagenet-ipc10": (40, 2, 10, None, 50, None, 100, 1e-4, 10, "correct"),
    "tiny-imagenet-ipc50": (20, 2, 40, None, 70, None, 100, 1e-4, 10, "correct"),
    "cifar100-ipc10-paper": (80, 2, 0, 20, 40, 2000, 1000, 1e-5, 10, "correct"),
    "cifar100-ipc50-paper": (80, 2, 40, 60, 80, 2000, 1000, 1e-5, 10, "real"),
    "cifar100-ipc100-paper": (80, 2, 40, None, 80, None, 50, 1e-5, 10, "correct"),
    "tiny-imagenet-ipc1-paper": (60, 2, 0, 15, 30, 6000, 1e4, 1e-4, 10, "correct"),
    "tiny-imagenet-ipc10-paper": (60, 2, 0, 20, 40, 8000, 100, 1e-4, 10, "correct"),
    "tiny-imagenet-ipc50-paper": (80, 2, 20, 40, 60, 8000, 100, 1e-4, 10, "correct"),
}
ALPHA = {name: 0.3 if name in ("cifar10-ipc1", "cifar10-ipc10") else 1.0 for name in FTD}
# Sets with a decoder: kind, steps, max start, lr of codes, lr of lr, optimiser, ZCA, iterations, images per class.
DECODED = {
    "ddif/cifar10-ipc1": ("siren", 60, 10, 1e-4, 1e-5, "adam", False, 15_000, 37),
    "fred/cifar10-ipc1": ("dct", 50, 5, 24_414, 1e-7, "sgd", False, 15_000, 16),
    "gsdd/cifar10-ipc1": ("gaussians", 60, 30, 1e-3, 1e-5, "adam", True, 15_000, 30),
    "idc/cifar10-ipc1": ("upsample", 50, 2, 100, 1e-7, "sgd", True, 5_000, 4),
}
PUBLISHED = {
    f"{method}/{name}": row
    for method, table in (("att", ATT), ("ftd", FTD), ("mct", MCT), ("mtt", MTT))
    for name, row in table.items()
}
BATCHES = {
    "att/cifar100-ipc50": 1200,
    "datm/cifar10-ipc500": 1000,
    "datm/cifar10-ipc1000": 1000,
    "datm/cifar100-ipc50": 1000,
    "datm/cifar100-ipc100": 1000,
    "datm/tiny-imagenet-ipc10": 500,
    "datm/tiny-imagenet-ipc50": 1000,
    "datm/cifar100-ipc50-paper": 1000,
    "datm/cifar100-ipc100-paper": 1000,
    "datm/tiny-imagenet-ipc10-paper": 250,
    "datm/tiny-imagenet-ipc50-paper": 250,
    "ftd/cifar100-ipc50": 1000,
    "ftd/tiny-imagenet-ipc10": 500,
    "mtt/cifar100-ipc50": 125,
    "mtt/tiny-imagenet-ipc10": 200,
    "mtt/tiny-imagenet-ipc50": 300,
}


def test_presets_are_those_of_the_tables() -> None:
    others = {f"demo/digits-{method}" for method in ("att", "mct", "mtt", "tesla")} | {"cpu/cifar10-w32"}
    others |= {"quick/images", "quick/table"}
    others |= {f"{method}/digits-ipc1" for method in ("ddif", "fred", "gsdd", "idc")}
    assert set(preset_names()) == set(PUBLISHED) | {f"datm/{name}" for name in DATM} | set(DECODED) | others


@pytest.mark.parametrize("name", sorted(DECODED))
def test_values_with_decoders(name: str) -> None:
    recipe = load_recipe(preset_path(name))
    distill = recipe.distill
    assert distill.decoder is not None
    row = (distill.decoder.kind, distill.steps, distill.max_start, distill.lr_image, distill.lr_lr, distill.optimiser)
    images = make_decoder(distill.decoder, (3, 32, 32), distill.ipc).images_per_class
    assert (*row, recipe.data.zca, distill.iterations, images) == DECODED[name]
    assert (distill.method, distill.expert_epochs, distill.lr_init, distill.momentum) == ("mtt", 2, 0.01, 0.5)


def test_gaussians_have_the_published_number_of_points() -> None:
    """GSDD's tables: images per class and Gaussians in each, at the storage of 1, 10 and 50 images per class."""
    for ipc, images, points in ((1, 30, 22), (10, 160, 42), (50, 250, 136), (10, 80, 85), (50, 400, 85)):
        settings = DecoderSettings("gaussians", images=images)
        assert make_decoder(settings, (3, 32, 32), ipc).points == points  # type: ignore[attr-defined]


@pytest.mark.parametrize("name", sorted(PUBLISHED))
def test_published_values(name: str) -> None:
    recipe = load_recipe(preset_path(name))
    distill: DistillSettings = recipe.distill
    row = (distill.steps, distill.expert_epochs, distill.max_start, distill.lr_image, distill.lr_lr, distill.lr_init)
    assert (*row, recipe.data.zca, distill.ema, distill.iterations) == PUBLISHED[name]
    assert distill.batch_size == BATCHES.get(name)
    assert (distill.method, distill.ipc) == (name.split("/")[0], int(name.split("ipc")[-1]))
    assert distill.momentum == 0.5
    assert distill.dsa is not None
    assert (recipe.model.width, recipe.model.norm) == (128, "instance")
    assert recipe.model.depth == {"tiny-imagenet": 4, "imagenette": 5}.get(recipe.data.name, 3)
    evaluation = recipe.evaluation
    assert evaluation.repeats == (3 if distill.method == "mct" else 5)
    assert (evaluation.training.epochs, evaluation.training.momentum) == (1000, 0.9)
    training = recipe.expert.training
    assert (training.epochs, training.lr, training.momentum, training.weight_decay) == (50, 0.01, 0, 0)
    assert training.batch_size == (512 if distill.method == "att" else 256)
    flat = SharpnessSettings(0.01, ALPHA[name.split("/")[1]], adaptive=True) if distill.method == "ftd" else None
    assert training.sharpness == flat


@pytest.mark.parametrize("name", sorted(DATM))
def test_published_values_of_datm(name: str) -> None:
    recipe = load_recipe(preset_path(f"datm/{name}"))
    distill, training, evaluation = recipe.distill, recipe.expert.training, recipe.evaluation.training
    growing = distill.resolved_method.growing
    row = (distill.steps, distill.expert_epochs, distill.min_start, distill.grow_from if growing else None)
    row += (distill.max_start, distill.grow_iterations, distill.lr_image, distill.lr_lr, distill.lr_label)
    assert (*row, distill.initialisation) == DATM[name]
    assert growing == (DATM[name][5] is not None)
    assert distill.batch_size == BATCHES.get(f"datm/{name}")
    assert (recipe.data.name, f"ipc{distill.ipc}") == tuple(name.removesuffix("-paper").rsplit("-", 1))
    assert distill.label_start == ("one_expert" if distill.initialisation == "real" else "correct_logits")
    assert distill.skip_loss_above == (1.1 if name == "cifar10-ipc1" else 1.0)
    assert (distill.method, distill.iterations, distill.lr_init) == ("datm", 10_000, 0.01)
    assert (distill.momentum, distill.momentum_label, distill.ema_decay) == (0.5, 0.9, 0.0)
    assert recipe.data.zca
    assert (recipe.model.width, recipe.model.norm) == (128, "instance")
    assert recipe.model.depth == (4 if recipe.data.name == "tiny-imagenet" else 3)
    assert (recipe.expert.count, training.epochs, training.lr, training.batch_size) == (100, 100, 0.01, 256)
    assert (training.momentum, training.weight_decay) == (0, 0)
    assert training.sharpness == SharpnessSettings(0.01, 0.3, adaptive=True)
    assert None not in (distill.dsa, training.dsa, evaluation.dsa)
    assert (evaluation.epochs, evaluation.batch_size, evaluation.schedule) == (1000, 128, "halfway")
    assert (evaluation.momentum, evaluation.weight_decay, evaluation.sharpness) == (0.9, 5e-4, None)


def test_waypoints_of_mct() -> None:
    assert load_recipe(preset_path("mct/cifar10-ipc1")).distill.waypoints == 4
    assert load_recipe(preset_path("mct/cifar10-zca-ipc1")).distill.waypoints == [0, 6, 25, 50]


@pytest.mark.parametrize("name", preset_names())
def test_two_iterations(name: str, tmp_path: Path) -> None:
    """Use the preset's method, expert epochs and starts with a narrow network, one image per class and few steps.

    The data have all their classes for the presets of one image per class without a decoder; for the others as many as
    give a batch its images.
    """
    overrides: dict[str, Any] = {
        "model.width": 2,
        "distill.ipc": 1,
        "distill.steps": 2,
        "distill.iterations": 2,
        "distill.batch_size": 10,
        "distill.evaluate_every": 0,
        "evaluation.repeats": 1,
        "evaluation.training.epochs": 1,
    }
    if name.startswith("datm/"):  # experts that drift at random classify no image right, and are hard to follow
        overrides |= {"distill.initialisation": "real", "distill.skip_loss_above": None}
    if (load_recipe(preset_path(name)).distill.decoder or DecoderSettings()).is_fitted:
        overrides["distill.decoder.fit_steps"] = 2
    recipe = load_recipe(preset_path(name), overrides)
    channels, side, classes = SHAPES[recipe.data.name]
    per_class = make_decoder(recipe.distill.decoder, (channels, side, side), 1).images_per_class
    if recipe.distill.decoder is not None or load_recipe(preset_path(name)).distill.ipc > 1:
        classes = max(2, -(-10 // per_class))
    dataset = random_data(channels, side, classes, per_class)
    result = run_distillation(recipe, dataset, walk(recipe, dataset, tmp_path / "experts"), tmp_path / "run")
    lines = [line for line in result.folder.metrics() if line["event"] == "iteration"]
    assert [line["iteration"] for line in lines] == [1, 2]
    assert all(line["loss"] is not None and "rejected" not in line for line in lines)
    assert result.final.images.shape == (per_class * classes, *dataset.train_images.shape[1:])
    assert not torch.equal(result.final.images, result.final.initial_images)


def random_data(channels: int, side: int, classes: int, per_class: int) -> Dataset:
    generator = torch.Generator().manual_seed(0)
    labels = torch.arange(classes).repeat_interleave(per_class)
    images = torch.randint(0, 256, (len(labels), channels, side, side), generator=generator, dtype=torch.uint8)
    return from_arrays(images, labels, images[:10], labels[:10], class_names=[str(number) for number in range(classes)])


def walk(recipe: Recipe, dataset: Dataset, folder: Path) -> TrajectoryStore:
    """Make an expert of the preset's length and shape that drifts at random."""
    epochs = recipe.expert.training.epochs
    begin = flatten(build(recipe.model, dataset.in_channels, dataset.num_classes, dataset.image_size, seed=0))
    drift = 0.01 * torch.randn(epochs, len(begin), generator=torch.Generator().manual_seed(0))
    store = TrajectoryStore.create(folder, experts_record(dataset, recipe.model, recipe.expert))
    store.add(0, torch.cat([begin[None], begin + drift.cumsum(0)]))
    return store


def test_recipe_round_trips_through_a_dictionary() -> None:
    recipe = load_recipe(preset_path("mct/cifar10-zca-ipc1"))
    assert from_dict(Recipe, recipe.as_dict()) == recipe


def test_unknown_preset_lists_the_presets() -> None:
    with pytest.raises(InputError, match=r"'att/mnist'.*att/cifar10-ipc1"):
        preset_path("att/mnist")


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("distill: {stps: 3}", "stps"),
        ("distill: {steps: many}", "steps.*many"),
        ("distill: [", "recipe .*yaml"),
        ("3", "recipe .*yaml"),
    ],
)
def test_unreadable_recipe(text: str, message: str, tmp_path: Path) -> None:
    file = tmp_path / "recipe.yaml"
    file.write_text(text)
    with pytest.raises(InputError, match=message):
        load_recipe(file)


def test_overrides_of_a_preset() -> None:
    recipe = load_recipe(preset_path("att/cifar10-ipc1"), {"distill.steps": 7, "expert.training.dsa": None})
    assert recipe.distill.steps == 7
    assert recipe.distill.lr_image == 100
    assert recipe.expert.training.dsa is None
    assert replace(recipe.distill, steps=80) == load_recipe(preset_path("att/cifar10-ipc1")).distill
