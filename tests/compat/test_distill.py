"""The published scripts' commands: they read the buffers, obey the flags and leave the files."""

from __future__ import annotations

import json
import os
import runpy
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch.func import functional_call

from pydistill.artefact.file import Artefact
from pydistill.compat import att, buffer, mct, mtt, tesla
from pydistill.nn import build, layout_of
from pydistill.recipes.recipe import load_recipe
from pydistill.runs.folder import RunFolder
from pydistill.trajectories import TrajectoryStore, export_mct, import_mct, import_mtt
from tests.compat.scripts import BUFFERS, RUN, make_buffers


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("trained")
    before = Path.cwd()
    os.chdir(folder)
    try:
        assert make_buffers() == 0
    finally:
        os.chdir(before)
    return folder


@pytest.fixture
def here(trained: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder with data and buffers, which is the current one."""
    shutil.copytree(trained, tmp_path, dirs_exist_ok=True)
    monkeypatch.chdir(tmp_path)
    return tmp_path


def names(folder: Path, pattern: str = "*.pt") -> list[str]:
    return sorted(file.name for file in folder.glob(pattern))


def read(file: Path) -> torch.Tensor:
    tensor = torch.load(file, weights_only=True)
    assert isinstance(tensor, torch.Tensor)
    return tensor


def test_mtt_leaves_its_files(here: Path) -> None:
    assert mtt.main([*RUN, "--name", "first"]) == 0
    folder = here / "logged_files/tensors/first"
    found = names(folder)
    assert {"images_0.pt", "images_2.pt", "images_best.pt", "labels_best.pt", "lr_best.pt"} <= set(found)
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


def test_a_continued_run_leaves_the_same_files(here: Path) -> None:
    assert mtt.main([*RUN, "--name", "whole"]) == 0
    assert mtt.main([*RUN, "--name", "halves", "--Iteration", "2"]) == 0
    parent = here / "logged_files/tensors"
    for name in ("images_2.pt", "images_best.pt"):  # as if it had been killed before they were written
        (parent / "halves" / name).unlink()
    assert mtt.main([*RUN, "--name", "halves", "--resume"]) == 0
    assert names(parent / "halves") == names(parent / "whole")
    for file in names(parent / "whole"):
        assert torch.equal(read(parent / "halves" / file), read(parent / "whole" / file)), file


def test_a_name_that_is_taken_is_refused(here: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (here / "logged_files/tensors/first").mkdir(parents=True)
    assert mtt.main([*RUN, "--name", "first"]) == 2
    assert "is there already; give another --name, or --resume" in capsys.readouterr().err
    assert mtt.main([*RUN, "--resume"]) == 2
    assert "--resume needs the run's --name" in capsys.readouterr().err
    for name in ("../first", "..", ".", "", "first/", "/"):
        for flags in ([], ["--resume"]):
            assert mtt.main([*RUN, "--name", name, *flags]) == 2
            assert (
                f"--name must be the name of a folder in logged_files/tensors, not {name!r}" in capsys.readouterr().err
            )
    assert [path.name for path in (here / "logged_files").rglob("*")] == ["tensors", "first"]


def test_att_leaves_averages_and_pixels(here: Path) -> None:
    assert att.main([*RUN, "--ema_decay", "0.9"]) == 0
    pixels, averages = here / "logged_files/tensors/att", here / "ema_logged_files/tensors/att"
    assert {"ema_images_0.pt", "ema_images_2.pt", "ema_images_best.pt", "ema_labels_best.pt"} <= set(names(averages))
    assert {"images_0.pt", "images_2.pt", "images_best.pt", "labels_best.pt"} <= set(names(pixels))
    best = Artefact.load(pixels / "run" / "best.safetensors")
    assert torch.equal(read(averages / "ema_images_best.pt"), best.images)
    assert not torch.equal(read(pixels / "images_best.pt"), best.images)
    assert torch.equal(read(pixels / "images_0.pt"), read(averages / "ema_images_0.pt"))
    assert load_recipe(pixels / "run/recipe.json").distill.ema == 0.9


def test_tesla_takes_the_published_steps(here: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert tesla.main([*RUN, "--teacher_label", "--Iteration", "2"]) == 0
    assert "--lr_img is halved here" in capsys.readouterr().err
    folder = here / "logged_files/tensors/tesla"
    settings = load_recipe(folder / "run/recipe.json").distill
    assert (settings.method, settings.lr_image, settings.labels) == ("tesla", 0.5, "teacher")
    labels = read(folder / "labels_best.pt")
    assert torch.equal(labels, Artefact.load(folder / "run").labels)
    torch.testing.assert_close(labels.sum(1), torch.ones(4))


def published_update(
    run: Path, store: TrajectoryStore, lr_img: float, lr_lr: float, lr_teacher: float, steps: int
) -> tuple[torch.Tensor, float]:
    """Pixels and α after the first iteration of TESLA's code, in fp64.

    It sums the gradients on the way, differentiates direction · gradient again at every step, where it loses the factor
    2 of the pixels, and differentiates ‖θ₀ − α Σ g − θ*‖² / ‖θ₀ − θ*‖² by α.
    """
    line = next(line for line in RunFolder(run).metrics() if line["event"] == "iteration")
    trajectory = store.recorded(line["expert"])
    start, target = (trajectory.point(line[name]).double() for name in ("start", "target"))
    net = build(load_recipe(run / "recipe.json").model, Artefact.load(run).images.shape[1], 4, (8, 8)).double()
    images = Artefact.load(run).initial_images.double().requires_grad_()  # type: ignore[union-attr]
    labels = torch.arange(4)
    alpha = torch.tensor(lr_teacher, dtype=torch.float64, requires_grad=True)

    def gradient(theta: torch.Tensor) -> torch.Tensor:
        logits = functional_call(net, layout_of(net).split(theta), (images,))
        return torch.autograd.grad(F.cross_entropy(logits, labels), theta, create_graph=True)[0]

    points, total = [start.clone().requires_grad_()], torch.zeros_like(start)
    for _ in range(steps):
        found = gradient(points[-1]).detach()
        total += found
        points.append((points[-1].detach() - lr_teacher * found).requires_grad_())
    scale = (start - target).square().sum()
    direction = lr_teacher * (target - start) + lr_teacher**2 * total
    to_images = torch.zeros_like(images)
    for theta in points[:-1]:
        to_images += torch.autograd.grad(direction @ gradient(theta) / scale, images)[0]
    to_alpha = torch.autograd.grad((start - alpha * total - target).square().sum() / scale, alpha)[0]
    return (images - lr_img * to_images).detach(), lr_teacher - lr_lr * float(to_alpha)


def test_tesla_makes_the_published_update(here: Path) -> None:
    flags = ("--Iteration", "1", "--no_aug", "True", "--lr_img", "2", "--lr_lr", "1e-4", "--syn_steps", "3")
    assert tesla.main([*RUN, *flags]) == 0
    run = here / "logged_files/tensors/tesla/run"
    store = TrajectoryStore.open(here / BUFFERS / "pydistill-replay")
    images, lr = published_update(run, store, lr_img=2, lr_lr=1e-4, lr_teacher=0.1, steps=3)
    after = Artefact.load(run)
    assert after.initial_images is not None
    moved = images - after.initial_images
    assert float(moved.abs().max()) > 0.01
    assert abs(lr - 0.1) > 1e-4
    torch.testing.assert_close(after.images.double() - after.initial_images, moved, rtol=1e-3, atol=1e-5)
    assert after.lr - 0.1 == pytest.approx(lr - 0.1, rel=1e-3)


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
    assert float(read(folder / "lr_best.pt")) == pytest.approx(0.1), "--mute_syn_lr keeps it"
    settings = load_recipe(folder / "run/recipe.json").distill
    assert (settings.expert_epochs, settings.max_start, settings.gradient) == (1.5, 1.5, "exact")


def test_other_networks_are_evaluated_at_the_end(here: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert mtt.main([*RUN, "--Iteration", "1", "--eval_mode", "C"]) == 0
    table = capsys.readouterr().out
    assert "convnet2-w4 " in table
    assert "convnet3-w128-in " in table


def test_whitened_images_are_also_left_without_their_whitening(here: Path) -> None:
    assert mtt.main([*RUN, "--zca", "--cache", "cache", "--Iteration", "2"]) == 0
    folder = here / "logged_files/tensors/mtt"
    artefact = Artefact.load(folder / "run")
    assert artefact.preprocessing.kind == "zca"
    for when in ("0", "2"):
        expected = artefact.preprocessing.invert(read(folder / f"images_{when}.pt"))
        assert torch.equal(read(folder / f"images_zca_{when}.pt"), expected)


def test_limits_on_files_and_experts(here: Path) -> None:
    short = [*RUN, "--Iteration", "1", "--eval_it", "1"]
    assert mtt.main([*short, "--name", "file", "--max_files", "1"]) == 0
    assert mtt.main([*short, "--name", "expert", "--max_experts", "1"]) == 0
    runs = [here / "logged_files/tensors" / name / "run" for name in ("file", "expert")]
    counts = [load_recipe(run / "recipe.json").expert.count for run in runs]
    assert counts == [2, 2]
    sources = [
        [TrajectoryStore.open(here / BUFFERS / store).details(position)["source"] for position in (0, 1)]
        for store in ("pydistill-replay-1-files", "pydistill-replay-1-experts")
    ]
    assert sources == [["replay_buffer_0.pt"] * 2, ["replay_buffer_0.pt", "replay_buffer_1.pt"]]


SHORT = [*RUN, "--Iteration", "1", "--eval_it", "1"]


def test_changed_buffers_are_not_ignored(here: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert mtt.main(SHORT) == 0
    buffer_1 = here / BUFFERS / "replay_buffer_1.pt"
    os.utime(buffer_1, (1e9, 1e9))
    assert mtt.main(SHORT) == 0, "a copy of the same content"
    content = bytearray(buffer_1.read_bytes())
    content[-1000] ^= 1
    buffer_1.write_bytes(content)
    assert mtt.main(SHORT) == 2
    assert "replay_buffer_1.pt has changed since its experts were imported into" in capsys.readouterr().err


@pytest.mark.parametrize("flags", [["--max_files", "1"], ["--max_experts", "1"], []])
def test_experts_of_other_files_or_limits_are_refused(
    flags: list[str], here: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Where --experts says where they are; without a flag a buffer is gone."""
    elsewhere = [*SHORT, "--experts", "elsewhere"]
    assert mtt.main(elsewhere) == 0
    if not flags:
        (here / BUFFERS / "replay_buffer_1.pt").unlink()
    assert mtt.main([*elsewhere, *flags]) == 2
    told = capsys.readouterr().err
    assert "holds the experts imported from all experts of replay_buffer_0.pt, replay_buffer_1.pt, and this" in told
    assert ("the first expert of" in told) == ("--max_experts" in flags)
    (here / "elsewhere" / "sources.json").unlink()  # as an import that was stopped leaves it
    assert mtt.main([*elsewhere, *flags]) == 2
    assert "holds 3 experts and the files to import 2" in capsys.readouterr().err


@pytest.mark.parametrize("published", [True, False], ids=["waypoint files", "replay buffers"])
def test_buffers_are_read_once(published: bool, here: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    script, flags, damaged = mtt, SHORT, "replay_buffer_1.pt"
    if published:
        recorded = TrajectoryStore.open(here / BUFFERS / "pydistill-experts")
        export_mct(recorded.write_convexified(here / "convexified", waypoints=3), here / BUFFERS)
        script, flags, damaged = mct, [*SHORT, "--num_interpolation", "3"], "step_buffer_ip3_0.pt"
    assert script.main(flags) == 0
    with monkeypatch.context() as patch:
        for module in ("mtt", "mct"):
            patch.delattr(f"pydistill.trajectories.formats.{module}.load_untrusted")
        assert script.main(flags) == 0
        assert script.main([*flags, "--model", "convnet2-w8", "--experts", str(store_of(here, published))]) == 2
    (here / BUFFERS / damaged).write_bytes(b"changed")
    assert script.main(flags) == 2
    if published:
        (here / BUFFERS / damaged).unlink()
        assert script.main(flags) == 2


def test_an_imported_expert_that_is_gone_is_imported_again(here: Path) -> None:
    assert mtt.main(SHORT) == 0
    digest = TrajectoryStore.open(store_of(here, False)).digest
    (store_of(here, False) / "expert_0001.safetensors").unlink()
    assert mtt.main([*SHORT, "--name", "again"]) == 0
    again = TrajectoryStore.open(store_of(here, False))
    assert again.digest == digest
    assert again.verify() == {}


@pytest.mark.parametrize("published", [True, False], ids=["waypoint files", "replay buffers"])
def test_an_import_that_was_killed_does_not_mix_buffers(
    published: bool, here: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """After one expert, and before it is written down what was imported; then the buffers are replaced."""
    script, flags, add = mtt, SHORT, "add"
    if published:
        recorded = TrajectoryStore.open(here / BUFFERS / "pydistill-experts")
        export_mct(recorded.write_convexified(here / "convexified", waypoints=3), here / BUFFERS)
        script, flags, add = mct, [*SHORT, "--num_interpolation", "3"], "add_convexified"
    whole = getattr(TrajectoryStore, add)

    def killed(store: TrajectoryStore, number: int, *rest: Any, **named: Any) -> None:
        whole(store, number, *rest, **named)
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(TrajectoryStore, add, killed)
        assert script.main(flags) == 130
    assert TrajectoryStore.open(store_of(here, published)).experts == (0,)
    for name in ["step_buffer_ip3_0.pt", "waypoint_buffer_ip3_0.pt"] if published else ["replay_buffer_0.pt"]:
        file = here / BUFFERS / name
        torch.save(torch.load(file, weights_only=True)[::-1], file)
    assert script.main(flags) == 0
    store = TrajectoryStore.open(store_of(here, published))
    alone = (import_mct if published else import_mtt)(here / BUFFERS, here / "alone", store.record)
    assert store.digest == alone.digest


def test_the_scripts_share_one_store(here: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Of the same buffers, whichever imported them; also where an older import names another script."""
    assert tesla.main(SHORT) == 0
    store = TrajectoryStore.open(store_of(here, False))
    assert store.record.training == {"source": "mtt"}, "the files' layout, not the script"
    index = store_of(here, False) / "index.json"
    for source in ("mtt", "att"):
        about = json.loads(index.read_text())
        about["record"]["training"]["source"] = source
        index.write_text(json.dumps(about))
        before = index.read_bytes()
        for script in (mtt, att, tesla, mct):
            with monkeypatch.context() as patch:
                patch.delattr("pydistill.trajectories.formats.mtt.load_untrusted")
                assert script.main([*SHORT, "--name", f"{script.__name__}-{source}"]) == 0
        assert index.read_bytes() == before


@pytest.mark.parametrize("imported", [True, False], ids=["imported", "stopped"])
def test_a_store_of_other_experts_is_refused_by_the_flags_that_there_are(
    imported: bool, here: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert mtt.main(SHORT) == 0
    if not imported:
        (store_of(here, False) / "sources.json").unlink()
    assert att.main([*SHORT, "--zca"]) == 2
    told = capsys.readouterr().err
    assert "preprocessing is" in told
    assert mtt.main([*SHORT, "--experts", str(here / BUFFERS / "pydistill-experts")]) == 2
    told = capsys.readouterr().err
    assert "choose another folder" in told


def store_of(here: Path, published: bool) -> Path:
    return here / BUFFERS / ("pydistill-waypoint_ip3" if published else "pydistill-replay")


def test_a_damaged_list_of_sources(here: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert mtt.main(SHORT) == 0
    (store_of(here, False) / "sources.json").write_text('{"files": [1]}')
    assert mtt.main(SHORT) == 1
    assert "sources.json is damaged; remove" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("flags", "told"),
    [
        (["--texture"], "--texture is refused: textures on a larger canvas are not implemented"),
        (["--eval_it", "0"], "--eval_it must be at least 1, not 0"),
        (["--eval_mode", "ZZ"], "--eval_mode must be one of S, C, M, W, D, A, P, N, not ZZ"),
        (["--model", "LeNet"], "--model LeNet is a network that pydistill does not have"),
        (["--model", "ConvNetXY"], "--model ConvNetXY is none of ConvNet"),
        (["--dataset", "MNIST"], "--dataset must be CIFAR10"),
        (["--dataset", "ImageNet", "--subset", "cats"], "--subset must be one of imagenette"),
        (["--res", "64"], "--res=64 is for --dataset ImageNet"),
        (["--buffer_path", "elsewhere"], "holds no replay_buffer_0.pt; train experts into it"),
        (["--max_files", "0"], "--max_files must be at least 1, not 0"),
        (["--max_experts", "0"], "--max_experts must be at least 1, not 0"),
        (["--no_aug", "perhaps"], "argument --no_aug: 'perhaps' is neither True nor False"),
        (["--nosuchthing"], "there is no flag --nosuchthing (python -m pydistill.compat.mtt --help lists the flags)"),
        (["--lr_imgg", "3"], "there is no flag --lr_imgg; did you mean --lr_img? (python -m pydistill.compat.mtt"),
        (["--lr_img 3"], "there is no flag --lr_img 3"),
        (["--zca", "yes"], "'yes' is one argument too many; a flag's name goes before its value (python -m"),
        (["--model", "convnet1-w4"], "and the record do not agree"),
    ],
)
def test_what_is_not_done_is_refused(
    flags: list[str], told: str, here: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    if "convnet1-w4" in flags:
        shutil.copytree(here / BUFFERS, here / BUFFERS.with_name("convnet1-w4"))
    assert mtt.main([*RUN, *flags]) == 2
    lines = capsys.readouterr().err.splitlines()
    assert told in lines[-1]
    assert not (here / "logged_files").exists()


@pytest.mark.parametrize(
    "flags",
    [
        ["--max_start_epoch", "20"],
        ["--syn_steps", "0"],
        ["--lr_img", "-1"],
        ["--batch_syn", "0"],
        ["--batch_train", "0"],
        ["--epoch_eval_train", "0"],
        ["--num_eval", "0"],
        ["--dsa_strategy", "wave"],
        ["--data_path", "nowhere"],
    ],
)
def test_messages_name_the_flags(flags: list[str], here: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert mtt.main([*RUN, *flags]) == 2
    assert capsys.readouterr().err.startswith(f"pydistill: error: {flags[0]} must be ")
    assert not (here / "logged_files").exists(), "the same --name can be given again"


@pytest.mark.parametrize(
    ("flags", "told"),
    [
        (["--train_epochs", "0"], "--train_epochs must be "),
        (["--mom", "2"], "--mom must be "),
        (["--lr_teacher", "0.5"], "; choose another folder, or give "),
    ],
)
def test_messages_name_the_flags_of_buffer(
    flags: list[str], told: str, here: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert make_buffers(*flags) == 2
    assert told in capsys.readouterr().err


@pytest.mark.parametrize(
    ("flags", "told"),
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
def test_mct_s_own_flags(flags: list[str], told: str, here: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert mct.main([*RUN, *flags]) == 2
    assert told in capsys.readouterr().err


def test_tesla_s_random_trajectory_is_refused(here: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert tesla.main([*RUN, "--random_trajectory"]) == 2
    assert "--random_trajectory is refused" in capsys.readouterr().err


def test_an_unused_flag_is_told(here: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert mtt.main([*RUN, "--Iteration", "1", "--lr_init", "0.5"]) == 0
    assert "--lr_init is read and never used by the published scripts" in capsys.readouterr().err


def test_false_is_false(here: Path) -> None:
    assert mtt.main([*RUN, "--Iteration", "1", "--no_aug", "False"]) == 0
    recipe = load_recipe(here / "logged_files/tensors/mtt/run/recipe.json")
    assert recipe.distill.dsa is not None


@pytest.mark.parametrize("store", [True, False], ids=["beside experts of ours", "alone"])
def test_buffers_of_others_are_not_overwritten(store: bool, here: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Neither replaced files nor those that another program added."""
    if store:
        shutil.copy(here / BUFFERS / "replay_buffer_0.pt", here / BUFFERS / "replay_buffer_2.pt")
        theirs, flags = here / BUFFERS / "replay_buffer_2.pt", ["--num_experts", "6"]
    else:
        for ours in ("pydistill-experts", "pydistill-exported.json"):
            path = here / BUFFERS / ours
            shutil.rmtree(path) if path.is_dir() else path.unlink()
        theirs, flags = here / BUFFERS / "replay_buffer_0.pt", []
    before = theirs.read_bytes()
    assert make_buffers(*flags) == 2
    assert f"{theirs.name} would be replaced or removed and is of another program" in capsys.readouterr().err
    assert theirs.read_bytes() == before


def test_a_changed_buffer_is_not_overwritten(here: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (here / BUFFERS / "replay_buffer_0.pt").write_bytes(b"mine")
    assert make_buffers() == 2
    assert "or was changed since it was written here" in capsys.readouterr().err
    assert (here / BUFFERS / "replay_buffer_0.pt").read_bytes() == b"mine"


def test_a_buffer_command_that_was_killed_while_it_exports_is_given_again(
    here: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Between the two files: one is new, the other old, and both are ours."""
    replace, left = Path.replace, [1]

    def stop(self: Path, target: Path) -> Path:
        if self.suffix == ".pt" and not left:
            raise KeyboardInterrupt
        left.clear()
        return replace(self, target)

    with monkeypatch.context() as patch:
        patch.setattr(Path, "replace", stop)
        assert make_buffers("--num_experts", "4", "--save_interval", "3") == 130
    assert make_buffers("--num_experts", "4", "--save_interval", "3") == 0
    found = [torch.load(here / BUFFERS / f"replay_buffer_{number}.pt", weights_only=True) for number in (0, 1)]
    assert [len(each) for each in found] == [3, 1]


@pytest.mark.parametrize("flags", [("--mom", "0.9"), ("--l2", "0.1"), ("--l2", "0.1", "--decay")])
def test_experts_train_with_momentum_and_weight_decay(flags: tuple[str, ...], here: Path) -> None:
    """As SGD of PyTorch does with these numbers, which the store keeps."""
    before = torch.load(here / BUFFERS / "replay_buffer_0.pt", weights_only=True)
    other = ["--num_experts", "1", "--buffer_path", "other"]
    if "--decay" in flags:
        assert make_buffers("--num_experts", "1", "--buffer_path", "decayed", "--decay") == 0
        before = torch.load(here / "decayed/tensors/convnet2-w4/replay_buffer_0.pt", weights_only=True)
    assert make_buffers(*other, *flags) == 0
    folder = here / "other/tensors/convnet2-w4"
    after = torch.load(folder / "replay_buffer_0.pt", weights_only=True)
    assert torch.equal(after[0][0][0], before[0][0][0])
    assert not torch.equal(after[0][-1][0], before[0][-1][0])
    training = TrajectoryStore.open(folder / "pydistill-experts").record.training
    expected = (0.9, 0.0) if "--mom" in flags else (0.0, 0.1)
    assert (training["momentum"], training["weight_decay"]) == expected


def test_one_expert_in_a_buffer(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    assert make_buffers("--num_experts", "1") == 0
    assert capsys.readouterr().out.startswith("1 expert in buffers")


def test_buffers_can_be_added_to(here: Path, capsys: pytest.CaptureFixture[str]) -> None:
    before = torch.load(here / BUFFERS / "replay_buffer_0.pt", weights_only=True)
    assert make_buffers("--num_experts", "4") == 0
    assert "4 experts in" in capsys.readouterr().out
    after = [torch.load(here / BUFFERS / f"replay_buffer_{number}.pt", weights_only=True) for number in (0, 1)]
    assert [len(each) for each in after] == [2, 2]
    assert torch.equal(after[0][1][4][0], before[1][4][0])


def test_fewer_buffers_take_the_place_of_more(here: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Else the experts of the files that stay would be there twice; also after a kill before they are removed."""
    assert make_buffers("--save_interval", "1") == 0
    assert names(here / BUFFERS) == [f"replay_buffer_{number}.pt" for number in range(3)]
    unlink = Path.unlink

    def stop(self: Path, missing_ok: bool = False) -> None:
        if self.suffix == ".pt":
            raise KeyboardInterrupt
        unlink(self, missing_ok)

    with monkeypatch.context() as patch:
        patch.setattr(Path, "unlink", stop)
        assert make_buffers() == 130
    assert make_buffers() == 0
    assert names(here / BUFFERS) == ["replay_buffer_0.pt", "replay_buffer_1.pt"]
    assert [len(torch.load(here / BUFFERS / f"replay_buffer_{n}.pt", weights_only=True)) for n in (0, 1)] == [2, 1]


@pytest.mark.parametrize("about", [[], {"replay_buffer_0.pt": "x"}, {"../mine.pt": []}])
def test_a_damaged_record_of_exports(about: object, here: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (here / BUFFERS / "pydistill-exported.json").write_text(json.dumps(about))
    assert make_buffers() == 1
    assert "pydistill-exported.json is damaged; remove it" in capsys.readouterr().err


def test_a_changed_buffer_is_not_removed(here: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """One that is no longer written, and would be read along."""
    (here / BUFFERS / "replay_buffer_1.pt").write_bytes(b"mine")
    assert make_buffers("--save_interval", "3") == 2
    assert "replay_buffer_1.pt would be replaced or removed and is of another program" in capsys.readouterr().err
    assert (here / BUFFERS / "replay_buffer_1.pt").read_bytes() == b"mine"


@pytest.mark.parametrize(
    ("flags", "told"),
    [
        (["--dsa", "False"], "--dsa False is refused"),
        (["--decay", "--mom", "0.9"], "--mom with --decay is refused: buffer.py then forgets its momentum"),
        (["--save_interval", "0"], "--save_interval must be at least 1"),
    ],
)
def test_buffer_s_own_flags(flags: list[str], told: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert buffer.main(flags) == 2
    assert told in capsys.readouterr().err


@pytest.mark.parametrize("name", ["mtt", "att", "tesla", "mct", "buffer"])
def test_as_modules(name: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.setattr("sys.argv", [name, "--texture", "--res", "x"])
    monkeypatch.delitem(__import__("sys").modules, f"pydistill.compat.{name}")
    with pytest.raises(SystemExit) as stopped:
        runpy.run_module(f"pydistill.compat.{name}", run_name="__main__")
    assert stopped.value.code == 2
    assert f"python -m pydistill.compat.{name} --help" in capsys.readouterr().err


def test_debug_shows_the_traceback(here: Path) -> None:
    with pytest.raises(ValueError, match="--texture is refused"):
        mtt.main([*RUN, "--texture", "--debug"])


@pytest.mark.parametrize(
    ("error", "code", "told"),
    [
        (KeyError("lost"), 1, "pydistill: error: unexpected KeyError: 'lost'"),
        (RuntimeError("can't allocate memory"), 1, "pydistill: error: out of memory"),
        (BrokenPipeError(), 0, ""),
        (KeyboardInterrupt(), 130, "pydistill: stopped"),
    ],
)
def test_no_error_shows_a_traceback(
    error: BaseException, code: int, told: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def fail(*arguments: object) -> None:
        raise error

    monkeypatch.setattr("pydistill.compat.distill.distil", fail)
    assert mtt.main(RUN) == code
    assert capsys.readouterr().err.startswith(told)
    if isinstance(error, KeyError):
        with pytest.raises(KeyError, match="lost"):
            mtt.main([*RUN, "--debug"])
