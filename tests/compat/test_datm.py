"""`datm.main`: its configuration files, the recipe of their settings, and the files that it writes."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch

from pydistill.artefact.exchange.importing import import_set
from pydistill.artefact.file import Artefact
from pydistill.compat import datm
from pydistill.compat.flags import distill_parser
from pydistill.compat.recipe import recipe_of
from pydistill.distillation.settings import DistillSettings
from pydistill.recipes.recipe import Recipe, load_recipe
from tests.compat.scripts import NETWORK, names, read

CONFIG = f"""\
dataset: tensors
data_path: blobs.npz
model: {NETWORK}
device: [0]
ipc: 1
syn_steps: 2
expert_epochs: 2
lr_img: 1
lr_teacher: 0.1
buffer_path: buffers
ema_decay: 0.995
Iteration: 4
batch_syn: 1000

project: anything
num_eval: 1
eval_it: 2
skip_first_eva: True
epoch_eval_train: 1

lr_y: 2.
Momentum_y: 0.8
threshold: 3.
pix_init: samples_predicted_correctly
Sequential_Generation: True
batch_train: 3
min_start_epoch: 0
current_max_start_epoch: 1
max_start_epoch: 3
expansion_end_epoch: 2
lr_lr: 0.00001
zca: False
"""


@pytest.fixture
def config(here: Path) -> str:
    (here / "IPC1.yaml").write_text(CONFIG)
    return "IPC1.yaml"


def run(*words: str) -> tuple[Path, DistillSettings, Recipe]:
    """Run DATM's command; return the folder of its files, and the settings that it ran with."""
    assert datm.main([*words, "--quiet"]) == 0
    folder = Path("logged_files/tensors/1") / NETWORK / "datm"
    recipe = load_recipe(folder / "run/recipe.json")
    return folder / "Normal", recipe.distill, recipe


def recipe(*flags: str) -> DistillSettings:
    return recipe_of(distill_parser("datm").parse([*flags]), "datm")[0].distill


def test_a_configuration_is_run(config: str) -> None:
    files, settings, recipe = run("--cfg", config)
    assert (settings.method, settings.ipc, settings.steps, settings.iterations) == ("datm", 1, 2, 4)
    assert (settings.min_start, settings.max_start, settings.resolved_method.growing) == (0, 3, True)
    assert (settings.grow_from, settings.grow_iterations) == (1, 2)
    assert (settings.lr_image, settings.lr_label, settings.lr_lr, settings.lr_init) == (1.0, 2.0, 1e-5, 0.1)
    assert (settings.momentum, settings.momentum_label, settings.skip_loss_above) == (0.5, 0.8, 3.0)
    assert (settings.initialisation, settings.label_start) == ("correct", "correct_logits")
    assert (settings.resolved_method.labels, settings.gradient, settings.ema_decay) == ("learned", "exact", 0.0)
    assert (recipe.evaluation.training.batch_size, recipe.evaluation.repeats) == (3, 1)
    assert not recipe.data.zca
    written = set(names(files))
    assert {"images_best.pt", "labels_best.pt", "lr_best.pt"} <= written
    assert {name.split("_")[0] for name in written} == {"images", "labels", "lr"}
    assert len(written) % 3 == 0, "a learning rate with every set"


def test_the_labels_are_logits(config: str) -> None:
    files, _, _ = run("--cfg", config)
    best = Artefact.load(files.parent / "run/best.safetensors")
    labels = read(files / "labels_best.pt")
    assert float((labels.sum(1) - 1).abs().max()) > 1e-3
    torch.testing.assert_close(labels.softmax(1), best.labels)
    assert torch.equal(read(files / "images_best.pt"), best.images)
    assert float(read(files / "lr_best.pt")) == pytest.approx(best.lr)
    imported = import_set("mtt", files, dataset="digits", like=best).artefact
    torch.testing.assert_close(imported.labels, best.labels)
    assert torch.equal(imported.images, best.images)


def test_flags_override_the_configuration(config: str) -> None:
    flags = ("--Iteration", "1", "--eval_it", "1", "--lr_y=3", "--Sequential_Generation", "False", "--pix_init", "real")
    _, settings, _ = run("--cfg", config, *flags, "--gradient", "truncated")
    assert (settings.iterations, settings.lr_label, settings.resolved_method.growing) == (1, 3.0, False)
    assert (settings.initialisation, settings.label_start) == ("real", "one_expert")
    assert (settings.gradient, settings.lr_image) == ("truncated", 1.0), "DATM's truncated gradient is not halved"


def test_defaults_are_those_of_the_script() -> None:
    settings = recipe()
    assert (settings.lr_label, settings.momentum_label, settings.skip_loss_above) == (2.0, 0.9, 1.0)
    assert (settings.grow_from, settings.max_start, settings.grow_iterations) == (20, 25, 3000)
    values = vars(distill_parser("datm").parse([]))
    assert (values["zca"], values["num_eval"], values["eval_it"], values["batch_train"]) == (True, 5, 100, 256)


def test_a_range_that_would_shrink_is_fixed() -> None:
    settings = recipe("--max_start_epoch", "4")  # below current_max_start_epoch, 20
    assert (settings.max_start, settings.resolved_method.growing) == (4, False)


@pytest.mark.parametrize(
    ("change", "part"),
    [
        ({"ipc: 1": "ipcs: 1"}, "--cfg IPC1.yaml sets ipcs, which"),
        ({"ipc: 1": "cfg: other.yaml"}, "--cfg IPC1.yaml sets cfg, which"),
        ({"ipc: 1": "ipc: many"}, "--ipc must be an integer, not 'many'"),
        ({"ipc: 1": "ipc: 0"}, "--ipc must be "),
        ({"ipc: 1": "ipc: [1"}, "--cfg IPC1.yaml: it is not readable as YAML"),
        ({CONFIG: "3"}, "--cfg IPC1.yaml must be a mapping"),
        ({"zca: False": "zca: perhaps"}, "--zca must be True or False, not 'perhaps'"),
        ({"lr_y: 2.": "lr_y: -1"}, "--lr_y must be "),
        ({"Momentum_y: 0.8": "Momentum_y: 1"}, "--Momentum_y must be "),
        ({"threshold: 3.": "threshold: 0"}, "--threshold must be "),
        ({"min_start_epoch: 0": "min_start_epoch: -1"}, "--min_start_epoch must be "),
        ({"min_start_epoch: 0": "min_start_epoch: 2"}, "--current_max_start_epoch must be "),
        ({"project: anything": "Initialize_Label_With_Another_Model: True"}, "--Label_Model_Timestamp are refused"),
        ({"project: anything": "Label_Model_Timestamp: 30"}, "--Label_Model_Timestamp are refused"),
        ({"pix_init: samples_predicted_correctly": "pix_init: noise"}, "--pix_init must be "),
        ({"project: anything": "texture: True"}, "--texture is refused"),
    ],
)
def test_wrong_configurations_are_refused(
    change: dict[str, str], part: str, here: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    text = CONFIG
    for old, new in change.items():
        assert old in text
        text = text.replace(old, new)
    (here / "IPC1.yaml").write_text(text)
    assert datm.main(["--cfg", "IPC1.yaml", "--quiet"]) == 2
    assert part in capsys.readouterr().err
    assert not (here / "logged_files").exists()


@pytest.mark.parametrize("content", [None, b"\xff\xfe"], ids=["missing", "not text"])
def test_an_unreadable_configuration(content: Any, here: Path, capsys: pytest.CaptureFixture[str]) -> None:
    if content is not None:
        (here / "IPC1.yaml").write_bytes(content)
    assert datm.main(["--cfg", "IPC1.yaml"]) == 2
    assert "--cfg IPC1.yaml " in capsys.readouterr().err


def test_tiny_imagenet_s_size_is_accepted() -> None:
    values = distill_parser("datm").parse(["--dataset", "Tiny", "--res", "64", "--model", "ConvNetD4"])
    data = recipe_of(values, "datm")[0].data
    assert (data.name, data.image_size, data.zca) == ("tiny-imagenet", None, True)
