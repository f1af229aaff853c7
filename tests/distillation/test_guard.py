"""The guard: every way in which a run diverges is provoked, and what is gone back to is looked at bit by bit."""

from __future__ import annotations

import json
from dataclasses import replace
from typing import Any

import pytest
import torch
from torch import Tensor

from pydistill.data import Pictures
from pydistill.distillation.distiller import Distiller, DistillSettings
from pydistill.distillation.guard import Guard, Refusal, data_scale
from pydistill.errors import DivergedError, FormatError
from pydistill.nn import build
from pydistill.trajectories import TrajectoryStore
from tests.helpers.blobs import blobs
from tests.helpers.small_runs import MODEL, experts, recipe

DATA = blobs()
LARGE = "the student's learning rate would reach"
OTHER_FORM = "lr_lr (or take lr_form = log"


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> TrajectoryStore:
    return experts(tmp_path_factory.mktemp("experts"))


def distiller(store: TrajectoryStore, **settings: Any) -> Distiller:
    return Distiller(recipe(**settings).distill, DATA, store, build(MODEL, 1, 4, 8, seed=0))


def moving(running: Distiller) -> list[Tensor]:
    """All that an update moves."""
    leaves = [leaf.detach().clone() for leaf in running.synthetic.learned().values()]
    average: list[Tensor] = []
    if running.average is not None:
        average = [running.average.codes["images"].clone(), torch.tensor(running.average.updates)]
    return leaves + [velocity.clone() for velocity in running.moments.values()] + average


def same(one: list[Tensor], other: list[Tensor]) -> bool:
    return all(torch.equal(a, b) for a, b in zip(one, other, strict=True))


def break_at(running: Distiller, iterations: set[int], monkeypatch: pytest.MonkeyPatch) -> None:
    """Let the matching loss of these iterations not be finite."""
    match = running._match

    def broken(draws: Any, first: int) -> Any:
        outcomes = match(draws, first)
        if running.iteration + 1 in iterations:
            return [replace(value, loss=value.loss * float("nan")) for value in outcomes]
        return outcomes

    monkeypatch.setattr(running, "_match", broken)


def test_a_gradient_whose_square_is_infinite_is_rejected(store: TrajectoryStore) -> None:
    """Adam's mean square would stay infinite, and the codes would never move again."""
    running = distiller(store, method="mtt", optimiser="adam")
    before = moving(running)
    gradients = {name: torch.full_like(leaf, 1e25) for name, leaf in running.synthetic.learned().items()}
    refusal = running._apply(gradients | {"lr": torch.tensor(0.0)})
    assert refusal is not None
    assert refusal.what == "gradient"
    assert same(moving(running), before)


@pytest.mark.parametrize("method", ["mtt", "att"], ids=["pixels", "average"])
def test_a_rejected_iteration_goes_back_to_the_last_good_state(
    method: str, store: TrajectoryStore, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """States 0, 3, 6 … are kept: each had a finite loss and gradient when it was left."""
    running = distiller(store, method=method, snapshot_every=3)
    break_at(running, {3, 9}, monkeypatch)
    states = [moving(running)]
    for _ in range(9):
        running.iterate()
        states.append(moving(running))
    assert same(states[3], states[0])
    assert not same(states[2], states[0])
    # 3 good ones after the return, at iteration 7 the state after 6 is kept.
    assert same(states[9], states[6])
    assert not same(states[8], states[6])
    assert "iteration 9: the matching loss is not finite; the update was not applied" in caplog.text
    assert "iteration 6 (2 of at most 10 rejections in 1000 iterations)" in caplog.text
    assert "lr_image or lr_init" in caplog.text


@pytest.mark.parametrize("stored_at", [2, 4, 8])
def test_the_good_state_is_continued_from_a_stored_one(
    stored_at: int, store: TrajectoryStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The state restored at iteration 9 is the one after 6, however long ago it was stored."""
    courses = []
    for stop in (None, stored_at):
        running = distiller(store, snapshot_every=3)
        break_at(running, {9}, monkeypatch)
        for iteration in range(1, 10):
            running.iterate()
            if iteration == stop:
                values, tensors = running.state()
                stored = {name: value.clone() for name, value in tensors.items()}
                running = distiller(store, snapshot_every=3)
                running.load_state(json.loads(json.dumps(values)), stored)
                break_at(running, {9}, monkeypatch)
        courses.append(moving(running))
        assert running.good_iteration == 6
    assert same(*courses)


def test_after_a_return_another_segment_and_another_course_are_drawn(
    store: TrajectoryStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    running = distiller(store, batch_size=3, snapshot_every=100)
    break_at(running, {2}, monkeypatch)
    generator = running.generator.get_state()
    first = running.iterate()
    running.iterate()
    again = running.iterate()
    assert not torch.equal(running.generator.get_state(), generator)
    assert again.loss != first.loss


def test_an_undisturbed_course_does_not_depend_on_the_guard(store: TrajectoryStore) -> None:
    one = distiller(store, snapshot_every=1, max_pixel=None, rejection_window=1)
    other = distiller(store, snapshot_every=5, clip_gradient=1e30, skip_loss_above=1e30)
    for _ in range(6):
        one.iterate()
        other.iterate()
    assert same(moving(one), moving(other))


@pytest.mark.parametrize(
    ("settings", "what", "reason", "knob"),
    [
        ({"lr_init": 1e30}, "loss", "the matching loss is not finite", "lr_image or lr_init"),
        ({"lr_lr": 1e6}, "lr", LARGE, f"{OTHER_FORM}, or raise max_lr)"),
        ({"lr_lr": 1e6, "max_lr": None}, "lr", "the student's learning rate would become -", f"{OTHER_FORM})"),
        ({"lr_image": 1e5, "lr_lr": 0.0}, "pixels", "a pixel would reach", "lr_image (or set clip_gradient)"),
        ({"lr_lr": 1e6, "lr_form": "log"}, "lr", "the student's learning rate would become", "lr_lr"),
        ({"lr_lr": 0.1, "lr_form": "log", "max_lr": 1.001}, "lr", LARGE, "lr_lr (or raise max_lr)"),
    ],
    ids=[
        "loss",
        "large learning rate",
        "negative learning rate",
        "pixels explode",
        "logarithm overflows",
        "logarithm beyond the limit",
    ],
)
def test_what_is_refused(settings: dict[str, Any], what: str, reason: str, knob: str, store: TrajectoryStore) -> None:
    running = distiller(store, method="mtt", **settings)
    before = moving(running)
    reports = []
    while not reports or reports[-1].guard is None:
        reports.append(running.iterate())
    event = reports[-1].guard
    assert event is not None
    assert event.refusal.what == what
    assert event.refusal.reason.startswith(reason)
    assert event.refusal.knob == knob
    assert event.as_record() == {
        "event": "guard",
        "iteration": len(reports),
        "what": what,
        "reason": event.refusal.reason,
        "knob": event.refusal.knob,
        "rejections": 1,
    }
    assert reports[-1].rejected == event.refusal.reason == reports[-1].as_record()["rejected"]
    assert same(moving(running), before)


@pytest.mark.parametrize(("lr", "max_lr", "refused"), [(101, 1000, True), (99, 1000, False), (1e6, None, False)])
def test_a_learning_rate_that_explodes(lr: float, max_lr: float | None, refused: bool, store: TrajectoryStore) -> None:
    """From 0.1 at most to a thousand times as much, in one step or several."""
    running = distiller(store, lr_init=0.1, lr_lr=1.0, momentum=0.0, max_lr=max_lr)
    gradients = {name: torch.zeros_like(value) for name, value in running.synthetic.learned().items()}
    gradients["lr"] -= lr
    reason = f"the student's learning rate would reach {lr:.3g} and max_lr allows 100"
    refusal = Refusal("lr", reason, ("take lr_form = log", "raise max_lr")) if refused else None
    assert running._apply(gradients) == refusal


@pytest.mark.parametrize("leaf", ["images", "lr"])
def test_a_gradient_that_is_not_finite(leaf: str, store: TrajectoryStore) -> None:
    running = distiller(store)
    before = moving(running)
    gradients = {name: torch.zeros_like(value) for name, value in running.synthetic.learned().items()}
    gradients[leaf].view(-1)[0] = torch.inf
    assert running._apply(gradients) == Refusal("gradient", f"the gradient of the {leaf} is not finite")
    assert same(moving(running), before)


@pytest.mark.parametrize(
    ("leaf", "refusal"),
    [
        ("images", Refusal("pixels", "the pixels would no longer be finite")),
        ("label_logits", Refusal("labels", "the label logits would no longer be finite")),
    ],
)
def test_values_that_leave_the_finite_numbers(leaf: str, refusal: Refusal, store: TrajectoryStore) -> None:
    teacher = build(MODEL, 1, 4, 8, seed=0)
    settings = recipe(labels="learned", lr_image=3e38, lr_label=3e38, method="tesla").distill
    running = Distiller(settings, DATA, store, build(MODEL, 1, 4, 8, seed=0), teachers=[teacher])
    gradients = {name: torch.zeros_like(value) for name, value in running.synthetic.learned().items()}
    gradients[leaf] += 100
    assert running._apply(gradients) == refusal


def test_a_loss_above_the_threshold_is_skipped_and_does_not_count(
    store: TrajectoryStore, caplog: pytest.LogCaptureFixture
) -> None:
    plain = distiller(store, method="mtt")
    losses = [plain.iterate().loss for _ in range(3)]
    running = distiller(store, method="mtt", skip_loss_above=losses[0] * 0.999, max_rejections=0, snapshot_every=1)
    report = running.iterate()
    assert report.guard is not None
    assert (report.guard.refusal.what, report.guard.refusal.knob, report.guard.rejections) == (
        "skipped",
        "skip_loss_above",
        0,
    )
    assert same(moving(running), moving(distiller(store, method="mtt")))
    for _ in range(11):
        running.iterate()
    assert running.guard.ended is None
    assert "iteration 1: the matching loss" in caplog.text
    assert "the update is skipped (1 so far); raise skip_loss_above if too many are" in caplog.text
    skipped = [line for line in caplog.messages if "is skipped" in line]
    assert len(skipped) <= 2  # the first and the tenth


def test_too_many_rejections_end_the_run(store: TrajectoryStore) -> None:
    running = distiller(store, lr_init=1e30, method="mtt", max_rejections=2)
    reports = [running.iterate() for _ in range(3)]
    assert [report.guard.rejections for report in reports if report.guard is not None] == [1, 2, 3]
    message = r"3 updates within 1000 iterations had to be rejected, .* lower lr_image or lr_init and run again"
    with pytest.raises(DivergedError, match=message):
        running.iterate()


def test_rejections_are_those_of_the_window() -> None:
    guard = Guard(DistillSettings(max_rejections=1, rejection_window=10), scale=1.0)
    refusal = Refusal("loss", "the matching loss is not finite")
    assert [guard.refuse(iteration, refusal, 0).rejections for iteration in (1, 11, 22)] == [1, 1, 1]
    assert guard.ended is None
    assert guard.refuse(31, refusal, 0).rejections == 2
    assert guard.ended is not None
    allowed = Guard(DistillSettings(max_rejections=2, rejection_window=10), scale=1.0)
    allowed.load_state(guard.state())
    assert allowed.ended is None
    again = Guard(DistillSettings(max_rejections=1, rejection_window=10), scale=1.0)
    again.load_state(guard.state())
    assert again.ended == guard.ended
    assert again.state() == guard.state()


@pytest.mark.parametrize(
    "state", [{}, {"rejected_at": [1.5], "skips": 0, "ended": None}, {"rejected_at": [], "skips": "", "ended": None}]
)
def test_a_damaged_state(state: dict[str, Any]) -> None:
    with pytest.raises(FormatError, match="the state of the guard is damaged"):
        Guard(DistillSettings(), scale=1.0).load_state(state)


def test_the_scale_of_the_data() -> None:
    assert data_scale(DATA) == pytest.approx(float(DATA.train_images.abs().max()))
    black = replace(DATA, train_pictures=Pictures(torch.zeros_like(DATA.train_images)))
    assert data_scale(black) == 1.0
    many = torch.zeros(3000, 1, 8, 8)
    many[1500] = 7.0
    assert data_scale(replace(DATA, train_pictures=Pictures(many))) == 7.0
