"""Random combinations of a distillation's choices: backends agree on the legal ones; refusals name both settings."""

from __future__ import annotations

import re
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import settings as hypothesis_settings
from hypothesis import strategies as st
from torch import nn

from pydistill.data import DsaSettings
from pydistill.distillation.distiller import Distiller
from pydistill.distillation.methods import METHODS
from pydistill.distillation.weighting import MatchedParameters
from pydistill.errors import SettingError
from pydistill.nn import build, unflatten
from pydistill.synthesis.decoders import DecoderSettings
from pydistill.trajectories import TrajectoryStore
from tests.helpers.blobs import blobs
from tests.helpers.small_runs import MODEL, experts, in_double, recipe

CHOICES: dict[str, list[Any]] = {
    "method": sorted(METHODS),
    "trajectories": ["recorded", "convexified"],
    "continuous": [True, False],
    "growing": [True, False],
    "selection": ["last", "nearest"],
    "distance": ["l1", "l2"],
    "gradient": ["exact", "truncated"],
    "labels": ["hard", "teacher", "learned"],
    "label_start": ["correct_logits", "one_expert"],
    "initialisation": ["noise", "kmeans", "correct", "difficulty"],
    "ipc": [2, 3],
    "frozen": [0.4],
    "batch_size": [3],
    "experts_per_step": [2],
    "spread_starts": [True],
    "redraw_every": [1],
    "ema": [0.9],
    "ema_warmup": [True, False],
    "lr_form": ["clamped", "log"],
    "optimiser": ["adam"],
    "dsa": [DsaSettings(strategy="crop_cutout_flip_scale_rotate")],
    "decoder": [
        DecoderSettings("upsample"),
        DecoderSettings("mirror"),
        DecoderSettings("dct", coefficients=16),
        DecoderSettings("gaussians", images=3, fit_steps=2, stored="float32"),
        DecoderSettings("siren", width=4, layers=1, fit_steps=2),
    ],
    "match_parameters": [
        MatchedParameters("depth", leave_out=0.25),
        MatchedParameters("rank", leave_out=0.25),
        MatchedParameters("paced", threshold=1e-6, growth=2.0, growth_every=1),
    ],
}
COMBINATIONS = st.sets(st.sampled_from(sorted(CHOICES)), min_size=2, max_size=9).flatmap(
    lambda names: st.fixed_dictionaries({name: st.sampled_from(CHOICES[name]) for name in sorted(names)})
)
DATA = in_double(blobs())


@pytest.fixture(scope="module")
def stores(tmp_path_factory: pytest.TempPathFactory) -> dict[str, TrajectoryStore]:
    recorded = experts(tmp_path_factory.mktemp("experts"))
    convexified = recorded.write_convexified(tmp_path_factory.mktemp("convexified"), waypoints=3)
    return {"recorded": recorded, "convexified": convexified}


def refusal(chosen: dict[str, Any]) -> SettingError | None:
    """The error that the settings raise, if any."""
    try:
        recipe(**chosen)
    except SettingError as error:
        return error
    return None


def teachers(store: TrajectoryStore) -> list[nn.Module]:
    """The experts' final networks."""
    networks = [build(MODEL, 1, 4, 8, seed=0) for _ in store]
    for network, trajectory in zip(networks, store, strict=True):
        unflatten(network, trajectory.point(trajectory.end))
    return [network.double() for network in networks]


@hypothesis_settings(derandomize=True, deadline=None, max_examples=120)
@given(COMBINATIONS)
def test_fused_and_torch_take_the_same_course(stores: dict[str, TrajectoryStore], chosen: dict[str, Any]) -> None:
    refused = refusal(chosen)
    if refused is not None:
        named = {name for name in CHOICES if re.search(rf"\b{name}\b", str(refused))}
        assert refused.setting in named
        assert len(named) >= 2, str(refused)
        return
    settings = recipe(**chosen).distill
    courses = []
    for backend in ("fused", "torch"):
        running = Distiller(
            recipe(**chosen, backend=backend).distill,
            DATA,
            stores[settings.resolved_method.trajectories],
            build(MODEL, 1, 4, 8, seed=0),
            teachers=teachers(stores["recorded"]),
        )
        reports = [running.iterate() for _ in range(2)]
        assert all(report.guard is None for report in reports)
        courses.append((running.images, running.lr, reports))
    (images, lr, reports), (other_images, other_lr, other_reports) = courses
    torch.testing.assert_close(images, other_images, rtol=1e-6, atol=1e-7)
    assert lr == pytest.approx(other_lr, rel=1e-8)
    for report, other in zip(reports, other_reports, strict=True):
        assert report.steps == other.steps
        assert report.loss == pytest.approx(other.loss, rel=1e-8)


def test_most_combinations_are_legal() -> None:
    """Otherwise the test above would compare little."""
    legal = []

    @hypothesis_settings(derandomize=True, deadline=None, max_examples=120, database=None)
    @given(COMBINATIONS)
    def count(chosen: dict[str, Any]) -> None:
        legal.append(refusal(chosen) is None)

    count()
    assert sum(legal) > len(legal) / 3
