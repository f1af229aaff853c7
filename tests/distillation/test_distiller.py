"""The outer loop: methods as combinations, guard, labels, image average, the same course with every backend."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

from pydistill.data import DsaSettings
from pydistill.distillation.distiller import Distiller, DistillSettings
from pydistill.distillation.methods import METHODS
from pydistill.errors import InputError, MismatchError, SettingError
from pydistill.nn import build, unflatten
from pydistill.synthesis.averaging import CodeAverage
from pydistill.synthesis.labels import teacher_probabilities
from pydistill.trajectories import TrajectoryStore
from tests.helpers.blobs import blobs
from tests.helpers.small_runs import MODEL, changed, experts, in_double, recipe
from tests.matching.problems import SWEEPS

DATA = blobs()


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> TrajectoryStore:
    return experts(tmp_path_factory.mktemp("experts"))


@pytest.fixture(scope="module")
def convexified(store: TrajectoryStore, tmp_path_factory: pytest.TempPathFactory) -> TrajectoryStore:
    return store.write_convexified(tmp_path_factory.mktemp("convexified"), waypoints=3)


def distiller(store: TrajectoryStore, dataset: Any = DATA, teachers: Any = (), **settings: Any) -> Distiller:
    student = build(MODEL, 1, 4, 8, seed=0)
    if settings.get("method") == "progressive":  # compares images by an expert's features
        teachers = teachers or [build(MODEL, 1, 4, 8, seed=1).to(dataset.train_images.dtype)]
    return Distiller(recipe(**settings).distill, dataset, store, student, teachers=teachers)


def test_methods_are_the_published_combinations() -> None:
    att, datm, ftd, mct, mtt, tesla = (METHODS[name] for name in ("att", "datm", "ftd", "mct", "mtt", "tesla"))
    assert (mtt.trajectories, mtt.selection, mtt.gradient, mtt.ema) == ("recorded", "last", "exact", False)
    assert (att.selection, att.ema) == ("nearest", True)
    assert (mct.trajectories, mct.continuous, mct.selection) == ("convexified", True, "last")
    assert (tesla.gradient, tesla.selection) == ("truncated", "last")
    assert replace(ftd, ema=False, ema_warmup=True) == mtt
    assert (ftd.ema, ftd.ema_warmup, att.ema_warmup) == (True, False, True)
    assert replace(datm, growing=False, labels="hard") == mtt
    assert (datm.growing, datm.labels) == (True, "learned")


@pytest.mark.parametrize("method", sorted(METHODS))
def test_each_method_lowers_its_loss(
    method: str, store: TrajectoryStore, convexified: TrajectoryStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    """On one fixed segment and all images in each step, ten updates lower the loss."""
    experts = convexified if METHODS[method].trajectories == "convexified" else store
    running = distiller(experts, teachers=[build(MODEL, 1, 4, 8, seed=0)], method=method, lr_image=20.0)
    monkeypatch.setattr(running.sampler.order, "next", lambda generator: 0)
    monkeypatch.setattr(running.sampler.starts, "draw", lambda *arguments: (1.0, 3.0))
    losses = [running.iterate().loss for _ in range(10)]
    assert losses[-1] < 0.95 * losses[0]


def test_a_budget_of_memory_changes_no_bit(store: TrajectoryStore) -> None:
    images = []
    for memory in ("0B", "50%"):
        running = distiller(store, backend="torch", memory=memory)
        running.iterate()
        images.append(running.images)
    assert torch.equal(*images)


def test_a_method_s_choices_can_be_replaced() -> None:
    settings = DistillSettings(method="mtt", selection="nearest", gradient="truncated", labels="learned")
    method = settings.resolved_method
    assert (method.trajectories, method.selection, method.gradient) == ("recorded", "nearest", "truncated")
    assert method.labels == "learned"


def test_mct_starts_at_real_epochs(convexified: TrajectoryStore) -> None:
    running = distiller(convexified, method="mct")
    starts = [running.iterate().segments[0].start for _ in range(6)]
    assert all(0 <= start < 3 for start in starts)
    assert any(start != int(start) for start in starts)


def test_segments_without_movement_are_passed_over(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    source = experts(tmp_path / "experts")
    snapshots = torch.stack([source[0].point(epoch) for epoch in range(7)])
    partly = TrajectoryStore.create(tmp_path / "partly", source.record)
    still = TrajectoryStore.create(tmp_path / "still", source.record)
    partly.add(0, snapshots[[0, 0, 0, 3, 4, 5, 6]])
    assert "at epoch 1, 2" in caplog.text
    still.add(0, snapshots[[1] * 7])
    running = distiller(partly, max_start=3, expert_epochs=1)
    assert {running.iterate().segments[0].start for _ in range(8)} == {2}
    with pytest.raises(InputError, match=r"expert 0 .* epochs"):
        distiller(still).iterate()


def test_growing_range_begins_narrow(convexified: TrajectoryStore) -> None:
    running = distiller(convexified, method="mct", growing=True, grow_from=0.25, grow_iterations=1000)
    assert all(running.iterate().segments[0].start < 0.3 for _ in range(6))


@pytest.mark.parametrize("backend", SWEEPS)
@pytest.mark.parametrize("dsa", [None, DsaSettings(strategy="crop_cutout_flip_scale_rotate")], ids=["plain", "dsa"])
@pytest.mark.parametrize("method", sorted(METHODS))
def test_backends_take_the_same_course(
    method: str,
    dsa: DsaSettings | None,
    backend: str,
    store: TrajectoryStore,
    convexified: TrajectoryStore,
) -> None:
    """Ten outer iterations in fp64: every loss, every step and the final pixels agree; TESLA's labels are learned."""
    experts = convexified if METHODS[method].trajectories == "convexified" else store
    labels = {"labels": "learned", "lr_label": 1.0} if method == "tesla" else {}
    teachers = [build(MODEL, 1, 4, 8, seed=0).double()]
    courses = []
    for name in (backend, "autograd"):
        running = distiller(
            experts, in_double(DATA), teachers, method=method, backend=name, dsa=dsa, ipc=2, batch_size=5, **labels
        )
        reports = [running.iterate() for _ in range(10)]
        courses.append(([(item.loss, *item.steps, item.lr) for item in reports], running))
    for one, other in zip(*(course for course, _ in courses), strict=True):
        assert one == pytest.approx(other, rel=1e-9)
    one, other = (running for _, running in courses)
    torch.testing.assert_close(one.images, other.images, rtol=1e-9, atol=1e-9)
    torch.testing.assert_close(one.synthetic.training_labels, other.synthetic.training_labels, rtol=1e-9, atol=1e-9)


def test_the_update_is_sgd_with_momentum(store: TrajectoryStore) -> None:
    running = distiller(store, method="mtt", momentum=0.5, lr_image=2.0)
    before = running.images
    gradients = [torch.full_like(before, value) for value in (1.0, 3.0)]
    for gradient in gradients:
        zero = torch.zeros(())
        assert running._apply({"images": gradient, "lr": zero}) is None
    torch.testing.assert_close(running.images, before - 2.0 * 1.0 - 2.0 * (0.5 * 1.0 + 3.0))


def test_teacher_labels_are_the_experts_mean_probabilities(store: TrajectoryStore) -> None:
    teachers = []
    for trajectory in store:
        teachers.append(build(MODEL, 1, 4, 8, seed=0))
        unflatten(teachers[-1], trajectory.point(trajectory.end))
    running = distiller(store, teachers=teachers, labels="teacher", method="tesla")
    with torch.no_grad():
        expected = sum(teacher(running.initial_images).softmax(1) for teacher in teachers) / len(teachers)
    torch.testing.assert_close(running.synthetic.training_labels, expected)
    running.iterate()
    torch.testing.assert_close(running.synthetic.training_labels, expected)


def test_learned_labels_begin_at_the_teachers_and_move(store: TrajectoryStore) -> None:
    teacher = build(MODEL, 1, 4, 8, seed=0)
    running = distiller(store, teachers=[teacher], labels="learned", method="tesla", lr_label=10.0)
    before = teacher_probabilities([teacher], running.initial_images)
    torch.testing.assert_close(running.synthetic.training_labels, before)
    running.iterate()
    assert changed(running.synthetic.training_labels, before)
    torch.testing.assert_close(running.synthetic.training_labels.sum(1), torch.ones(4))


def test_soft_labels_need_a_teacher(store: TrajectoryStore) -> None:
    with pytest.raises(InputError, match="soft labels"):
        distiller(store, labels="teacher")


def test_image_average() -> None:
    average = CodeAverage({"images": torch.zeros(1)}, 0.5)
    expected = 0.0
    for number, value in enumerate((1.0, 4.0, -2.0), start=1):
        average.update({"images": torch.tensor([value])})
        decay = min(0.5, (1 + number) / (10 + number))
        expected = decay * expected + (1 - decay) * value
    assert float(average.codes["images"]) == pytest.approx(expected)


def test_image_average_of_constant_decay(store: TrajectoryStore) -> None:
    """As FTD published it: the first image has weight 0.9ᵗ."""
    running = distiller(store, method="ftd", lr_image=20.0, ema=0.9)
    expected = running.initial_images.double()
    for _ in range(3):
        running.iterate()
        expected = 0.9 * expected + 0.1 * running.synthetic.images.detach().double()
    torch.testing.assert_close(running.images.double(), expected, rtol=1e-6, atol=1e-6)
    warm = distiller(store, method="ftd", lr_image=20.0, ema=0.9, ema_warmup=True)
    for _ in range(3):
        warm.iterate()
    assert changed(warm.images, running.images)
    assert torch.equal(warm.synthetic.images, running.synthetic.images)


def test_att_evaluates_the_average_and_mtt_the_pixels(store: TrajectoryStore) -> None:
    att, mtt = distiller(store, method="att", lr_image=20.0), distiller(store, method="mtt", lr_image=20.0)
    for running in (att, mtt):
        for _ in range(3):
            running.iterate()
    assert att.average is not None
    assert torch.equal(att.images, att.average.codes["images"])
    assert changed(att.images, att.synthetic.images)
    assert torch.equal(mtt.images, mtt.synthetic.images)


def test_noise_and_real_initialisation(store: TrajectoryStore) -> None:
    real, noise = distiller(store), distiller(store, initialisation="noise")
    rows = {tuple(image.flatten().tolist()) for image in DATA.train_images}
    assert all(tuple(image.flatten().tolist()) in rows for image in real.images)
    assert all(tuple(image.flatten().tolist()) not in rows for image in noise.images)


class TestSeveralExperts:
    """`experts_per_step`: the mean of independent gradients."""

    def test_the_update_is_that_of_the_mean_gradient(self, store: TrajectoryStore) -> None:
        running = distiller(store, experts_per_step=3, method="mtt", batch_size=3)
        other = distiller(store, method="mtt", batch_size=3)
        gradients: list[dict[str, torch.Tensor]] = []
        losses = []
        matched = other.synthetic.matched()
        for _ in range(3):  # one after the other from one generator, all at the first iteration's images
            draw = other.sampler.draw(0, matched)
            [outcome] = other._match([draw], 0)
            leaves = matched.inputs
            losses.append(float(outcome.loss.detach()))
            gradients.append(dict(zip(leaves, torch.autograd.grad(outcome.loss, list(leaves.values())), strict=True)))
        mean = {name: sum(item[name] for item in gradients) / 3 for name in gradients[0]}
        assert other._apply(mean) is None
        report = running.iterate()
        torch.testing.assert_close(running.images, other.images, rtol=1e-6, atol=1e-7)
        assert running.lr == pytest.approx(other.lr, rel=1e-6)
        assert report.loss == pytest.approx(sum(losses) / 3, rel=1e-6)
        assert torch.equal(running.generator.get_state(), other.generator.get_state())

    def test_groups_of_any_size_give_the_same(self, store: TrajectoryStore, monkeypatch: pytest.MonkeyPatch) -> None:
        """One at a time, as on the CPU, and all at once, as on a GPU."""
        one, other = (distiller(store, experts_per_step=3, batch_size=3, dsa=DsaSettings()) for _ in range(2))

        def all_at_once(draws: Any, _: Any) -> Any:
            yield draws, other._match(draws, 0)

        monkeypatch.setattr(other, "_matches", all_at_once)
        for _ in range(2):
            first, second = one.iterate(), other.iterate()
            assert first.steps == second.steps
        torch.testing.assert_close(one.images, other.images, rtol=1e-5, atol=1e-6)

    def test_segments_and_batches_are_independent(self, store: TrajectoryStore) -> None:
        reports = [
            distiller(store, experts_per_step=3, seed=seed, batch_size=3, max_start=4).iterate() for seed in range(6)
        ]
        assert all({segment.expert for segment in report.segments} == {0, 1, 2} for report in reports)
        assert any(len({segment.start for segment in report.segments}) > 1 for report in reports)
        running = distiller(store, experts_per_step=3, batch_size=3)
        draws = [running.sampler.draw(0, running.synthetic.matched()) for _ in range(3)]
        assert len({tuple(draw.batches.index.flatten().tolist()) for draw in draws}) == 3

    def test_the_record_has_a_list_where_there_are_several(self, store: TrajectoryStore) -> None:
        report = distiller(store, experts_per_step=2, method="att").iterate()
        record = report.as_record()
        assert record["step"] == report.steps == [segment.step for segment in report.segments]
        assert record["expert"] == [segment.expert for segment in report.segments]
        assert [len(record[name]) for name in ("step", "expert", "start", "target")] == [2] * 4
        assert record["loss"] == report.loss == pytest.approx(sum(s.loss for s in report.segments) / 2)
        one = distiller(store, method="att").iterate()
        assert list(one.as_record()) == [
            *("event", "iteration", "loss", "step", "lr", "seconds", "expert", "start", "target")
        ]
        [segment] = one.segments
        assert (one.as_record()["step"], one.as_record()["expert"]) == (segment.step, segment.expert)
        assert len(segment.distances) == 4

    def test_one_loss_that_is_not_finite_rejects_the_update(
        self, store: TrajectoryStore, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        running = distiller(store, experts_per_step=2, method="mtt")
        match = running._match

        def second_breaks(draws: Any, first: int) -> Any:
            outcomes = match(draws, first)
            return [replace(item, loss=item.loss * float("inf")) for item in outcomes] if first == 1 else outcomes

        monkeypatch.setattr(running, "_match", second_breaks)
        before = running.images
        report = running.iterate()
        assert report.rejected == "the matching loss is not finite"
        assert report.as_record()["loss"] is None
        assert torch.equal(running.images, before)


@pytest.mark.cuda
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs an NVIDIA GPU")
@pytest.mark.parametrize("method", ["att", "mtt"])
def test_several_experts_on_the_gpu(method: str, store: TrajectoryStore) -> None:
    """Side by side on the GPU, in turn on the CPU, in fp64: the same losses, steps and pixels."""
    courses = []
    for device in ("cuda", "cpu"):
        data, student = in_double(DATA).to(device), build(MODEL, 1, 4, 8, seed=0).to(device)
        settings = recipe(method=method, experts_per_step=3, batch_size=3, dsa=DsaSettings()).distill
        running = Distiller(settings, data, store, student)
        courses.append(([running.iterate() for _ in range(3)], running.images.cpu()))
    for one, other in zip(courses[0][0], courses[1][0], strict=True):
        assert one.steps == other.steps
        assert one.loss == pytest.approx(other.loss, rel=1e-7)
    torch.testing.assert_close(courses[0][1], courses[1][1], rtol=1e-7, atol=1e-7)


@pytest.mark.parametrize(
    ("settings", "name"),
    [
        ({"method": "magic"}, "method"),
        ({"ipc": 0}, "ipc"),
        ({"steps": 0}, "steps"),
        ({"memory": "much"}, "memory"),
        ({"iterations": 0}, "iterations"),
        ({"lr_init": 0.0}, "lr_init"),
        ({"lr_image": float("nan")}, "lr_image"),
        ({"expert_epochs": -1}, "expert_epochs"),
        ({"expert_epochs": 1.5}, "expert_epochs"),
        ({"momentum": 1.0}, "momentum"),
        ({"ema": 1.0}, "ema"),
        ({"lr_form": "exponential"}, "lr_form"),
        ({"lr_min": 0.0}, "lr_min"),
        ({"lr_form": "clamped", "lr_min": 0.2}, "lr_init"),
        ({"clip_gradient": 0.0}, "clip_gradient"),
        ({"skip_loss_above": float("nan")}, "skip_loss_above"),
        ({"max_pixel": -1.0}, "max_pixel"),
        ({"snapshot_every": 0}, "snapshot_every"),
        ({"rejection_window": 0}, "rejection_window"),
        ({"batch_size": 0}, "batch_size"),
        ({"experts_per_step": 0}, "experts_per_step"),
        ({"evaluate_every": -1}, "evaluate_every"),
        ({"continuous": True}, "continuous"),
        ({"max_start": 6}, "max_start"),
    ],
)
def test_bad_settings(settings: dict[str, Any], name: str, store: TrajectoryStore) -> None:
    with pytest.raises(SettingError) as raised:
        distiller(store, **settings)
    assert raised.value.setting == name


def test_more_images_than_a_class_has(store: TrajectoryStore) -> None:
    with pytest.raises(InputError, match=r"12.*13"):
        distiller(store, ipc=13)


def test_kind_of_store_must_fit_the_method(store: TrajectoryStore) -> None:
    with pytest.raises(MismatchError, match="mct"):
        distiller(store, method="mct")


def test_student_of_another_size(store: TrajectoryStore) -> None:
    student = build(MODEL, 1, 5, 8, seed=0)
    with pytest.raises(MismatchError, match="the student"):
        Distiller(recipe().distill, DATA, store, student)
