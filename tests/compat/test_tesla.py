"""`tesla.main`: the published update, from a slow loop."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
import torch.nn.functional as F
from torch.func import functional_call

from pydistill.artefact.file import Artefact
from pydistill.compat import tesla
from pydistill.nn import build, layout_of
from pydistill.recipes.recipe import load_recipe
from pydistill.runs.folder import RunFolder
from pydistill.trajectories import TrajectoryStore
from tests.compat.scripts import BUFFERS, RUN, read


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


def test_tesla_s_random_trajectory_is_refused(here: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert tesla.main([*RUN, "--random_trajectory"]) == 2
    assert "--random_trajectory is refused" in capsys.readouterr().err
