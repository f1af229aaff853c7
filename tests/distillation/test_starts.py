"""The start of a distillation and its segments: images, labels, frozen images, spread starts, growing M, redraws."""

from __future__ import annotations

import copy
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from pydistill.distillation.distiller import Distiller, DistillSettings
from pydistill.errors import InputError, SettingError
from pydistill.nn import build, unflatten
from pydistill.synthesis.decoders import DecoderSettings
from pydistill.synthesis.initialisation import StartingSet
from pydistill.synthesis.labels import correct_logits, teacher_probabilities
from pydistill.synthesis.real_images import correct_images, images_of_difficulty, representative_images
from pydistill.synthesis.set import moving_images
from pydistill.trajectories import StartSampler, TrajectoryStore
from tests.helpers.blobs import blobs
from tests.helpers.small_runs import MODEL, changed, experts, in_double, recipe

DATA = blobs()


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> TrajectoryStore:
    return experts(tmp_path_factory.mktemp("experts"))


@pytest.fixture(scope="module")
def teachers(store: TrajectoryStore) -> list[torch.nn.Module]:
    made = []
    for trajectory in store:
        made.append(build(MODEL, 1, 4, 8, seed=0))
        unflatten(made[-1], trajectory.point(trajectory.end))
    return made


def distiller(
    store: TrajectoryStore, teachers: Any = (), start: StartingSet | None = None, **settings: Any
) -> Distiller:
    student = build(MODEL, 1, 4, 8, seed=0)
    return Distiller(recipe(**settings).distill, DATA, store, student, teachers=teachers, start=start)


def generator(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


@pytest.mark.parametrize(
    "changes", [{"initialisation": "correct"}, {"initialisation": "difficulty"}, {"labels": "teacher"}]
)
def test_experts_of_another_dtype_than_the_images(changes: Any, store: TrajectoryStore, teachers: Any) -> None:
    """Experts in float32 choose and label images in float64."""
    student = build(MODEL, 1, 4, 8, seed=0).double()
    running = Distiller(recipe(**changes).distill, in_double(DATA), store, student, teachers=teachers)
    other = distiller(store, teachers, **changes)
    assert running.images.dtype == torch.float64
    torch.testing.assert_close(running.images.float(), other.images)
    torch.testing.assert_close(
        running.synthetic.training_labels.to(other.images), other.synthetic.training_labels.to(other.images)
    )


@pytest.mark.parametrize("start", ["probabilities", "correct_logits"])
def test_labels_of_mirror_images_are_their_own(start: str, store: TrajectoryStore, teachers: Any) -> None:
    """Not those of the real images that the mirror images replace."""
    settings = {"ipc": 2, "decoder": DecoderSettings("mirror"), "labels": "learned", "label_start": start}
    running = distiller(store, teachers, **settings)
    images = torch.stack(
        [image if i % 2 == 0 else running.images[i - 1].flip(2) for i, image in enumerate(running.images)]
    )
    rule = {"probabilities": teacher_probabilities(teachers, images).log()}
    rule["correct_logits"] = correct_logits(teachers, images, running.synthetic.classes)
    assert running.synthetic.label_rows is not None
    torch.testing.assert_close(running.synthetic.label_rows.detach(), rule[start], rtol=0, atol=0)


class TestInitialisation:
    def test_kmeans_on_the_untrained_student(self, store: TrajectoryStore, teachers: Any) -> None:
        student = build(MODEL, 1, 4, 8, seed=0)
        running = distiller(store, teachers, ipc=3, initialisation="kmeans")
        index = representative_images(DATA, 3, student, generator())
        assert torch.equal(running.images, DATA.train_images[index])

    def test_kmeans_on_the_first_expert(self, store: TrajectoryStore, teachers: Any) -> None:
        running = distiller(store, teachers, ipc=3, initialisation="kmeans", kmeans_network="expert")
        index = representative_images(DATA, 3, teachers[0], generator())
        assert torch.equal(running.images, DATA.train_images[index])

    def test_correct(self, store: TrajectoryStore, teachers: Any) -> None:
        running = distiller(store, teachers, ipc=2, initialisation="correct")
        index = correct_images(DATA, 2, teachers, generator())
        assert torch.equal(running.images, DATA.train_images[index])
        assert torch.equal(running.synthetic.classes, torch.arange(4).repeat_interleave(2))

    def test_difficulty(self, store: TrajectoryStore, teachers: Any) -> None:
        running = distiller(store, teachers, ipc=2, initialisation="difficulty", difficulty_start=1.5)
        index = images_of_difficulty(DATA, 2, teachers[0], 1.5)
        assert torch.equal(running.images, DATA.train_images[index])

    @pytest.mark.parametrize(
        ("settings", "missing"),
        [
            ({"initialisation": "correct"}, "at least one expert"),
            ({"initialisation": "difficulty"}, "at least one expert"),
            ({"initialisation": "kmeans", "kmeans_network": "expert"}, "a network"),
            ({"initialisation": "file", "start_from": "set"}, "a set to start from"),
        ],
    )
    def test_what_they_need(self, settings: dict[str, Any], missing: str, store: TrajectoryStore) -> None:
        with pytest.raises(InputError, match=f"initialisation {settings['initialisation']} needs {missing}"):
            distiller(store, **settings)


class TestStartingSet:
    """`start`, as read for initialisation file."""

    @staticmethod
    def start(soft: bool) -> StartingSet:
        images = torch.randn(8, 1, 8, 8, generator=generator(4))
        probabilities = torch.randn(8, 4, generator=generator(5)).softmax(1) if soft else None
        return StartingSet(images, torch.arange(4).repeat_interleave(2), probabilities, 0.03)

    def make(self, store: TrajectoryStore, soft: bool, teachers: Any = (), **settings: Any) -> Distiller:
        return distiller(store, teachers, self.start(soft), ipc=2, initialisation="file", start_from="set", **settings)

    def test_images_and_learning_rate(self, store: TrajectoryStore) -> None:
        running = self.make(store, False)
        assert torch.equal(running.images, self.start(False).images)
        assert running.lr == pytest.approx(0.03)
        assert torch.equal(running.synthetic.training_labels, self.start(False).classes)

    @pytest.mark.parametrize("labels", ["learned", "teacher"])
    def test_soft_labels(self, labels: str, store: TrajectoryStore) -> None:
        running = self.make(store, True, method="tesla", labels=labels)
        torch.testing.assert_close(running.synthetic.training_labels, self.start(True).probabilities)
        assert ("label_logits" in running.synthetic.learned()) == (labels == "learned")

    def test_hard_labels_become_the_experts_(self, store: TrajectoryStore, teachers: Any) -> None:
        running = self.make(store, False, teachers, method="tesla", labels="learned")
        expected = teacher_probabilities(teachers, self.start(False).images)
        torch.testing.assert_close(running.synthetic.training_labels, expected)


def test_label_start(store: TrajectoryStore, teachers: Any) -> None:
    running = distiller(store, teachers, ipc=2, method="tesla", labels="learned", label_start="correct_logits")
    expected = correct_logits(teachers, running.initial_images, running.synthetic.classes)
    assert torch.equal(running.synthetic.learned()["label_logits"].detach(), expected)


def test_labels_have_their_own_momentum(store: TrajectoryStore, teachers: Any) -> None:
    """Against v ← μ v + g written out for every leaf."""
    settings = {"method": "tesla", "labels": "learned", "momentum": 0.5, "momentum_label": 0.9, "lr_label": 2.0}
    running = distiller(store, teachers, **settings)
    leaves = {name: leaf.detach().clone() for name, leaf in running.synthetic.learned().items()}
    moments = {name: torch.zeros_like(leaf) for name, leaf in leaves.items()}
    rates, momenta = {"images": 1.0, "lr": 1e-4, "label_logits": 2.0}, {"label_logits": 0.9}
    for number in range(3):
        gradients = {name: torch.full_like(leaf, 0.1 * (number + 1)) for name, leaf in leaves.items()}
        assert running._apply(gradients) is None
        for name in leaves:
            moments[name] = momenta.get(name, 0.5) * moments[name] + gradients[name]
            leaves[name] = leaves[name] - rates[name] * moments[name]
    for name, leaf in running.synthetic.learned().items():
        torch.testing.assert_close(leaf.detach(), leaves[name])


class TestFrozen:
    @pytest.mark.parametrize(
        ("ipc", "frozen", "still"),
        [(4, 0.25, 1), (4, 0.26, 2), (5, 0.99, 5), (100, 0.55, 55), (3, 0.0, 0), (1, 0.5, 1)],
    )
    def test_the_first_images_of_each_class(self, ipc: int, frozen: float, still: int) -> None:
        moving = moving_images(torch.arange(3).repeat_interleave(ipc), frozen)
        assert moving.shape == (3 * ipc, 1, 1, 1)
        assert moving.view(3, ipc).tolist() == [[False] * still + [True] * (ipc - still)] * 3

    def test_frozen_images_stay_and_the_others_move_as_without(self, store: TrajectoryStore) -> None:
        settings: dict[str, Any] = {"method": "mtt", "ipc": 4, "batch_size": 6, "lr_image": 20.0}
        some, none = distiller(store, frozen=0.5, **settings), distiller(store, **settings)
        some.iterate(), none.iterate()
        moving = moving_images(some.synthetic.classes, 0.5).flatten()
        assert torch.equal(some.images[~moving], some.initial_images[~moving])
        assert torch.equal(some.images[moving], none.images[moving])
        assert changed(none.images[~moving], none.initial_images[~moving])
        for _ in range(4):
            some.iterate()
        assert torch.equal(some.images[~moving], some.initial_images[~moving])

    def test_the_average_of_a_frozen_image_is_the_image(self, store: TrajectoryStore) -> None:
        running = distiller(store, method="att", ipc=2, frozen=0.5, lr_image=20.0)
        for _ in range(4):
            running.iterate()
        still = ~moving_images(running.synthetic.classes, 0.5).flatten()
        assert torch.equal(running.images[still], running.initial_images[still])
        assert changed(running.images, running.synthetic.images)


def test_spread_starts_cover_the_range(store: TrajectoryStore) -> None:
    for seed in range(5):
        running = distiller(store, experts_per_step=4, spread_starts=True, max_start=4, seed=seed)
        report = running.iterate()
        assert [segment.start for segment in report.segments] == [0, 1, 2, 3]


class TestProgressive:
    def test_m_grows_and_the_start_stays(self, store: TrajectoryStore, teachers: Any) -> None:
        running = distiller(store, teachers, method="progressive", expert_epochs=4, max_start=None, grow_iterations=6)
        segments = [running.iterate().segments[0] for _ in range(8)]
        assert {segment.start for segment in segments} == {0}
        assert [segment.target for segment in segments] == [1 + 3 * i // 6 if i < 6 else 4 for i in range(8)]

    def test_growth_follows_its_formula(self) -> None:
        for first in (1, 2, 5):
            settings = DistillSettings(expert_epochs=5, expert_epochs_from=first, grow_iterations=7)
            for i in range(20):
                assert settings.expert_epochs_at(i) == first + int((5 - first) * min(7, i) // 7)
        assert {DistillSettings(expert_epochs=3).expert_epochs_at(i) for i in range(2000)} == {3}

    def test_the_defaults_of_the_row(self) -> None:
        row, other = DistillSettings(method="progressive", expert_epochs=6), DistillSettings(method="mtt")
        assert (row.first_expert_epochs, row.last_start, row.redraws_every) == (1, 1, 500)
        assert (other.first_expert_epochs, other.last_start, other.redraws_every) == (2, 2, 0)
        real = DistillSettings(method="progressive", trajectories="convexified", continuous=True)
        assert StartSampler(real.start_settings).draw(7, generator(), 10.0, 2.5) == (0, 2.5)

    def test_overlapping_images_are_drawn_anew(self, store: TrajectoryStore, teachers: Any) -> None:
        running = distiller(store, teachers, ipc=3, method="mtt", ema=0.9, redraw_every=2, redraw_share=0.2)
        with torch.no_grad():  # images 1 and 2 of the first class are the same, and so is their history
            for holder in (running.synthetic.codes["images"], running._good.leaves["images"]):
                holder[2] = holder[1]
        assert [running.iterate().redrawn for _ in range(2)] == [(), ()]
        before, velocity = running.synthetic.images, running.moments["images"].flatten(1).norm(dim=1)
        redrawn = running._redraw()
        pair = next(redraw for redraw in redrawn if redraw.image in (1, 2))
        assert {pair.image, pair.like} == {1, 2}
        assert velocity[pair.image] <= velocity[pair.like]
        assert pair.similarity > 0.95
        assert len(redrawn) <= 2  # a fifth of twelve
        assert running.average is not None
        assert running._good.average is not None
        for images in (
            running.synthetic.images,
            running._good.leaves["images"],
            running.average.codes["images"],
            running._good.average[0]["images"],
        ):
            assert all(torch.equal(images[redraw.image], DATA.train_images[redraw.real]) for redraw in redrawn)
        stay = [image for image in range(12) if image not in {redraw.image for redraw in redrawn}]
        assert torch.equal(running.synthetic.images[stay], before[stay])
        for moments in (running.moments, running._good.moments):
            assert not moments["images"][[redraw.image for redraw in redrawn]].any()

    def test_the_record_of_a_redraw(self, store: TrajectoryStore, teachers: Any) -> None:
        running = distiller(store, teachers, ipc=3, redraw_every=1, redraw_above=0.01, redraw_share=0.5)
        assert running.iterate().redrawn == ()  # the images are those of the start
        report = running.iterate()
        record = report.redraw_record()
        assert (record["event"], record["iteration"]) == ("redraw", 2)
        assert record["image"] == [redraw.image for redraw in report.redrawn] != []
        assert len(record["image"]) == len(record["like"]) == len(record["similarity"]) == len(record["real"]) <= 6


def state_after(running: Distiller, iterations: int) -> dict[str, Tensor]:
    for _ in range(iterations):
        running.iterate()
    values, tensors = running.state()
    return copy.deepcopy({name: tensor.detach() for name, tensor in tensors.items()}) | {
        "iteration": torch.tensor(values["iteration"])
    }


@pytest.mark.parametrize(
    "settings",
    [
        {
            "method": "tesla",
            "labels": "learned",
            "label_start": "correct_logits",
            "momentum_label": 0.9,
            "lr_label": 5.0,
        },
        {"initialisation": "kmeans", "frozen": 0.4, "method": "att", "batch_size": 5},
        {"experts_per_step": 3, "spread_starts": True, "initialisation": "difficulty", "difficulty_start": 0.5},
        {"method": "progressive", "redraw_every": 2, "redraw_above": 0.2, "expert_epochs": 4, "max_start": None},
        {"method": "progressive", "redraw_every": 1, "redraw_above": 0.01, "ema": 0.9, "redraw_share": 0.5},
    ],
    ids=["labels", "frozen", "spread", "progressive", "averaged and redrawn"],
)
def test_a_restored_state_continues_bit_for_bit(settings: Any, store: TrajectoryStore, teachers: Any) -> None:
    one = distiller(store, teachers, ipc=3, **settings)
    state_after(one, 3)
    values, tensors = copy.deepcopy(one.state())
    other = distiller(store, teachers, ipc=3, **settings | {"seed": 5})
    other.load_state(values, tensors)
    object.__setattr__(other, "settings", one.settings)  # the seed of modules that draw random numbers
    first, second = state_after(one, 4), state_after(other, 4)
    assert first.keys() == second.keys()
    assert all(torch.equal(first[name], second[name]) for name in first)


@pytest.mark.parametrize(
    ("settings", "name", "other"),
    [
        ({"initialisation": "file"}, "start_from", "initialisation"),
        ({"start_from": "set"}, "start_from", "set initialisation to file"),
        ({"difficulty_start": 1}, "difficulty_start", "set initialisation to difficulty"),
        ({"frozen": 0.5, "ipc": 2, "initialisation": "noise"}, "frozen", "initialisation"),
        ({"label_start": "correct_logits"}, "label_start", "labels"),
        ({"spread_starts": True}, "spread_starts", "experts_per_step"),
        ({"redraw_every": 5, "labels": "learned"}, "redraw_every", "labels"),
        ({"redraw_every": 5, "frozen": 0.5, "ipc": 2}, "redraw_every", "frozen"),
        ({"method": "progressive", "labels": "teacher"}, "redraw_every", "labels"),
        ({"expert_epochs_from": 3}, "expert_epochs_from", "expert_epochs"),
        ({"expert_epochs_from": 1.5}, "expert_epochs_from", "integer"),
        ({"redraw_every": 5}, "redraw_every", "expert"),
        ({"frozen": 1.0}, "frozen", "below 1"),
        ({"frozen": 0.5, "ipc": 1}, "frozen", "ipc"),
        ({"frozen": 0.8, "ipc": 4}, "frozen", "ipc"),
        ({"frozen": 0.5, "ipc": 2, "decoder": DecoderSettings("upsample")}, "frozen", "decoder"),
        ({"redraw_every": 5, "decoder": DecoderSettings("upsample")}, "redraw_every", "decoder"),
        ({"redraw_every": 5, "optimiser": "adam"}, "redraw_every", "adam"),
        ({"momentum_label": 1.0}, "momentum_label", "below 1"),
        ({"momentum_label": 0.9}, "momentum_label", "set labels to learned"),
        ({"kmeans_network": "expert"}, "kmeans_network", "set initialisation to kmeans"),
        ({"redraw_above": 0.0}, "redraw_above", "above 0"),
        ({"redraw_share": 1.5}, "redraw_share", "at most 1"),
    ],
)
def test_settings_that_do_not_go_together(
    settings: dict[str, Any], name: str, other: str, store: TrajectoryStore
) -> None:
    with pytest.raises(SettingError) as raised:
        distiller(store, **settings)
    assert raised.value.setting == name
    assert other in str(raised.value)


def test_a_store_without_epochs_for_the_last_m(store: TrajectoryStore, teachers: Any, tmp_path: Path) -> None:
    with pytest.raises(SettingError, match="at most 6"):
        distiller(store, teachers, method="progressive", expert_epochs=7, max_start=None)
