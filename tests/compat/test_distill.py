"""Commands of the published scripts: reading buffers, following flags, writing files."""

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
    """A copy of the data and buffers, as the current folder."""
    shutil.copytree(trained, tmp_path, dirs_exist_ok=True)
    monkeypatch.chdir(tmp_path)
    return tmp_path


def names(folder: Path, pattern: str = "*.pt") -> list[str]:
    return sorted(file.name for file in folder.glob(pattern))


def read(file: Path) -> torch.Tensor:
    tensor = torch.load(file, weights_only=True)
    assert isinstance(tensor, torch.Tensor)
    return tensor


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
    assert mtt.main([*RUN, "--name", "resumed", "--resume"]) == 0
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


def test_tesla_halves_the_image_rate_as_published(here: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert tesla.main([*RUN, "--teacher_label", "--Iteration", "2"]) == 0
    assert "--lr_img is halved" in capsys.readouterr().err
    folder = here / "logged_files/tensors/tesla"
    settings = load_recipe(folder / "run/recipe.json").distill
    assert (settings.method, settings.lr_image, settings.labels) == ("tesla", 0.5, "teacher")
    labels = read(folder / "labels_best.pt")
    assert torch.equal(labels, Artefact.load(folder / "run").labels)
    torch.testing.assert_close(labels.sum(1), torch.ones(4))


def published_update(
    run: Path, store: TrajectoryStore, lr_img: float, lr_lr: float, lr_teacher: float, steps: int
) -> tuple[torch.Tensor, float]:
    """Return the pixels and α after the first iteration of TESLA's code, in fp64.

    TESLA sums the gradients of all steps, differentiates direction · gradient at every step, which omits the factor 2
    of the pixels, and differentiates ‖θ₀ − α Σ g − θ*‖² / ‖θ₀ − θ*‖² by α.
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
        step = gradient(points[-1]).detach()
        total += step
        points.append((points[-1].detach() - lr_teacher * step).requires_grad_())
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
    assert float(read(folder / "lr_best.pt")) == pytest.approx(0.1), "constant under --mute_syn_lr"
    settings = load_recipe(folder / "run/recipe.json").distill
    assert (settings.expert_epochs, settings.max_start, settings.gradient) == (1.5, 1.5, "exact")


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


def test_changed_buffers_are_refused(here: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert mtt.main(SHORT) == 0
    buffer_1 = here / BUFFERS / "replay_buffer_1.pt"
    os.utime(buffer_1, (1e9, 1e9))
    assert mtt.main(SHORT) == 0, "the content is the same"
    content = bytearray(buffer_1.read_bytes())
    content[-1000] ^= 1
    buffer_1.write_bytes(content)
    assert mtt.main(SHORT) == 2
    assert "replay_buffer_1.pt has changed since its experts were imported into" in capsys.readouterr().err


@pytest.mark.parametrize("flags", [["--max_files", "1"], ["--max_experts", "1"], []])
def test_experts_of_other_files_or_limits_are_refused(
    flags: list[str], here: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """A store in --experts, then other limits; or, without a limit, a missing buffer."""
    elsewhere = [*SHORT, "--experts", "elsewhere"]
    assert mtt.main(elsewhere) == 0
    if not flags:
        (here / BUFFERS / "replay_buffer_1.pt").unlink()
    assert mtt.main([*elsewhere, *flags]) == 2
    message = capsys.readouterr().err
    assert "all experts of replay_buffer_0.pt, replay_buffer_1.pt, " in message
    assert ("the first expert of" in message) == ("--max_experts" in flags)
    (here / "elsewhere" / "sources.json").unlink()  # as after a stopped import
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


def test_a_missing_imported_expert_is_imported_again(here: Path) -> None:
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
    """The kill comes after one expert, before the sources are recorded; then the buffers are replaced."""
    script, flags, add = mtt, SHORT, "add"
    if published:
        recorded = TrajectoryStore.open(here / BUFFERS / "pydistill-experts")
        export_mct(recorded.write_convexified(here / "convexified", waypoints=3), here / BUFFERS)
        script, flags, add = mct, [*SHORT, "--num_interpolation", "3"], "add_convexified"
    original = getattr(TrajectoryStore, add)

    def killed(store: TrajectoryStore, number: int, *arguments: Any, **options: Any) -> None:
        original(store, number, *arguments, **options)
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
    """Whichever script imported the buffers, and whichever source the record names."""
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
def test_a_store_of_other_experts_is_refused(imported: bool, here: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert mtt.main(SHORT) == 0
    if not imported:
        (store_of(here, False) / "sources.json").unlink()
    assert att.main([*SHORT, "--zca"]) == 2
    assert "preprocessing is" in capsys.readouterr().err
    assert mtt.main([*SHORT, "--experts", str(here / BUFFERS / "pydistill-experts")]) == 2
    assert "choose another folder" in capsys.readouterr().err


def store_of(here: Path, published: bool) -> Path:
    return here / BUFFERS / ("pydistill-waypoint_ip3" if published else "pydistill-replay")


def test_a_damaged_record_of_sources(here: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert mtt.main(SHORT) == 0
    (store_of(here, False) / "sources.json").write_text('{"files": [1]}')
    assert mtt.main(SHORT) == 1
    assert "sources.json is damaged; remove" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("flags", "part"),
    [
        (["--texture"], "--texture is refused: "),
        (["--eval_it", "0"], "--eval_it must be at least 1, not 0"),
        (["--eval_mode", "ZZ"], "--eval_mode must be "),
        (["--model", "LeNet"], "--model LeNet "),
        (["--model", "ConvNetXY"], "--model must be "),
        (["--dataset", "MNIST"], "--dataset must be CIFAR10"),
        (["--dataset", "ImageNet", "--subset", "cats"], "--subset must be one of imagenette"),
        (["--res", "64"], "--res=64 is for --dataset ImageNet"),
        (["--buffer_path", "elsewhere"], "holds no replay_buffer_0.pt"),
        (["--max_files", "0"], "--max_files must be at least 1, not 0"),
        (["--max_experts", "0"], "--max_experts must be at least 1, not 0"),
        (["--no_aug", "perhaps"], "--no_aug must be True or False, not 'perhaps'"),
        (["--nosuchthing"], "there is no flag --nosuchthing (python -m pydistill.compat.mtt --help lists the flags)"),
        (["--lr_imgg", "3"], "there is no flag --lr_imgg; did you mean --lr_img? (python -m pydistill.compat.mtt"),
        (["--lr_img 3"], "there is no flag --lr_img 3"),
        (["--zca", "yes"], "'yes' is one argument too many"),
        (["--model", "convnet1-w4"], "and the record do not agree"),
    ],
)
def test_wrong_and_unsupported_flags_are_refused(
    flags: list[str], part: str, here: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    if "convnet1-w4" in flags:
        shutil.copytree(here / BUFFERS, here / BUFFERS.with_name("convnet1-w4"))
    assert mtt.main([*RUN, *flags]) == 2
    lines = capsys.readouterr().err.splitlines()
    assert part in lines[-1]
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
    assert not (here / "logged_files").exists(), "the same --name can be used again"


@pytest.mark.parametrize(
    ("flags", "part"),
    [
        (["--train_epochs", "0"], "--train_epochs must be "),
        (["--mom", "2"], "--mom must be "),
        (["--lr_teacher", "0.5"], "; choose another folder, or give "),
    ],
)
def test_messages_name_the_flags_of_buffer(
    flags: list[str], part: str, here: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert make_buffers(*flags) == 2
    assert part in capsys.readouterr().err


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


def test_tesla_s_random_trajectory_is_refused(here: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert tesla.main([*RUN, "--random_trajectory"]) == 2
    assert "--random_trajectory is refused" in capsys.readouterr().err


def test_an_unused_flag_is_reported(here: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert mtt.main([*RUN, "--Iteration", "1", "--lr_init", "0.5"]) == 0
    assert "--lr_init is never used" in capsys.readouterr().err


def test_no_aug_false_leaves_augmentation_on(here: Path) -> None:
    assert mtt.main([*RUN, "--Iteration", "1", "--no_aug", "False"]) == 0
    recipe = load_recipe(here / "logged_files/tensors/mtt/run/recipe.json")
    assert recipe.distill.dsa is not None


@pytest.mark.parametrize("store", [True, False], ids=["next to our experts", "alone"])
def test_buffers_of_other_programs_are_not_overwritten(
    store: bool, here: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Files that replaced ours, and files that another program added."""
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
    assert theirs.name in capsys.readouterr().err
    assert theirs.read_bytes() == before


def test_a_changed_buffer_is_not_overwritten(here: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (here / BUFFERS / "replay_buffer_0.pt").write_bytes(b"mine")
    assert make_buffers() == 2
    assert "replay_buffer_0.pt" in capsys.readouterr().err
    assert (here / BUFFERS / "replay_buffer_0.pt").read_bytes() == b"mine"


def test_a_buffer_command_killed_during_its_export_can_be_run_again(
    here: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Killed between two files: one is new, the other old, and both are ours."""
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
    buffers = [torch.load(here / BUFFERS / f"replay_buffer_{index}.pt", weights_only=True) for index in (0, 1)]
    assert [len(experts) for experts in buffers] == [3, 1]


@pytest.mark.parametrize("flags", [("--mom", "0.9"), ("--l2", "0.1"), ("--l2", "0.1", "--decay")])
def test_experts_train_with_momentum_and_weight_decay(flags: tuple[str, ...], here: Path) -> None:
    """The settings are those of PyTorch's SGD, and are recorded in the store."""
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


def test_one_expert_is_reported_in_the_singular(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    assert make_buffers("--num_experts", "1") == 0
    assert capsys.readouterr().out.startswith("1 expert in buffers")


def test_a_larger_count_adds_experts(here: Path, capsys: pytest.CaptureFixture[str]) -> None:
    before = torch.load(here / BUFFERS / "replay_buffer_0.pt", weights_only=True)
    assert make_buffers("--num_experts", "4") == 0
    assert "4 experts in" in capsys.readouterr().out
    after = [torch.load(here / BUFFERS / f"replay_buffer_{number}.pt", weights_only=True) for number in (0, 1)]
    assert [len(experts) for experts in after] == [2, 2]
    assert torch.equal(after[0][1][4][0], before[1][4][0])


def test_an_export_with_fewer_buffers_removes_the_others(here: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Otherwise their experts would be read twice; also after a kill before they are removed."""
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
    """A buffer that the new export does not write would be removed."""
    (here / BUFFERS / "replay_buffer_1.pt").write_bytes(b"mine")
    assert make_buffers("--save_interval", "3") == 2
    assert "replay_buffer_1.pt" in capsys.readouterr().err
    assert (here / BUFFERS / "replay_buffer_1.pt").read_bytes() == b"mine"


@pytest.mark.parametrize(
    ("flags", "part"),
    [
        (["--dsa", "False"], "--dsa False is refused"),
        (["--decay", "--mom", "0.9"], "--mom with --decay is refused"),
        (["--save_interval", "0"], "--save_interval must be at least 1"),
    ],
)
def test_wrong_flags_of_buffer(flags: list[str], part: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert buffer.main(flags) == 2
    assert part in capsys.readouterr().err


@pytest.mark.parametrize("name", ["mtt", "att", "tesla", "mct", "buffer"])
def test_the_commands_run_as_modules(
    name: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr("sys.argv", [name, "--texture", "--res", "x"])
    monkeypatch.delitem(__import__("sys").modules, f"pydistill.compat.{name}")
    with pytest.raises(SystemExit) as stopped:
        runpy.run_module(f"pydistill.compat.{name}", run_name="__main__")
    assert stopped.value.code == 2
    assert f"python -m pydistill.compat.{name} --help" in capsys.readouterr().err


def test_debug_shows_the_traceback(here: Path) -> None:
    with pytest.raises(ValueError, match="--texture"):
        mtt.main([*RUN, "--texture", "--debug"])


@pytest.mark.parametrize(
    ("error", "code", "part"),
    [
        (KeyError("lost"), 1, "pydistill: error: unexpected KeyError: 'lost'"),
        (RuntimeError("can't allocate memory"), 1, "pydistill: error: out of memory"),
        (BrokenPipeError(), 0, ""),
        (KeyboardInterrupt(), 130, "pydistill: stopped"),
    ],
)
def test_no_error_shows_a_traceback(
    error: BaseException, code: int, part: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def fail(*arguments: object) -> None:
        raise error

    monkeypatch.setattr("pydistill.compat.distill.distil", fail)
    assert mtt.main(RUN) == code
    assert capsys.readouterr().err.startswith(part)
    if isinstance(error, KeyError):
        with pytest.raises(KeyError, match="lost"):
            mtt.main([*RUN, "--debug"])
