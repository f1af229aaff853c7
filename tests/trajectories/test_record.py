"""Records of experts name every difference and both sides, and round-trip through JSON."""

from __future__ import annotations

import json
from dataclasses import asdict

import pytest

from pydistill.errors import FormatError, MismatchError
from pydistill.trajectories import ExpertsRecord
from pydistill.trajectories._json import from_json

from .samples import NAMES, SHAPES, record


def test_matching_records_pass():
    record().check(record())
    record(training={"lr": 1}, epochs=5).check(record())


@pytest.mark.parametrize(("change", "words"), [
    ({"architecture": "convnet(width=8)"},
     r"architecture is convnet\(width=2, depth=1\) for the experts and convnet\(width=8\) for this run"),
    ({"dataset": "cifar10", "dataset_digest": "e" * 64}, "dataset is digits for the experts and cifar10 for this run"),
    ({"dataset_digest": "e" * 64}, f"dataset digest is {'d' * 64} for the experts and {'e' * 64} for this run"),
    ({"preprocessing": "zca-9"}, "preprocessing is normalise-1234 for the experts and zca-9 for this run"),
    ({"image_size": (28, 32)}, "image size is 8×8 for the experts and 28×32 for this run"),
    ({"in_channels": 3}, "channels is 1 for the experts and 3 for this run"),
    ({"num_classes": 10}, "classes is 3 for the experts and 10 for this run"),
    ({"parameters": ((NAMES[0], (9, 9)), *list(zip(NAMES, SHAPES, strict=True))[1:])},
     r"parameters is features.0.weight \[2, 1, 3\] for the experts and features.0.weight \[9, 9\] for this run"),
])  # fmt: skip
def test_mismatch_names_both_sides(change, words):
    with pytest.raises(MismatchError, match=words) as caught:
        record().check(record(**change))
    assert "\n" not in str(caught.value)


def test_mismatch_names_every_difference():
    with pytest.raises(MismatchError) as caught:
        record().check(record(preprocessing="zca-9", image_size=(9, 9)))
    assert "preprocessing" in str(caught.value)
    assert "image size" in str(caught.value)


def test_names_of_the_sides():
    with pytest.raises(MismatchError, match="for A and cifar10 for B"):
        record().check(record(dataset="cifar10"), sides=("A", "B"))


def test_empty_fields_are_not_compared():
    record(dataset_digest="", preprocessing="").check(record())
    record().check(record(dataset_digest="", preprocessing=""))
    with pytest.raises(MismatchError, match="architecture is"):
        record(architecture="").check(record())


def test_training_is_compared_on_request():
    with pytest.raises(
        MismatchError, match=r"training is \{'lr': 0.01\} for the experts and \{'lr': 0.1\} for this run"
    ):
        record().check(record(training={"lr": 0.1, "batch_size": 256, "seed": 0}), training=True)
    with pytest.raises(MismatchError, match="epochs is 10 for the experts and 11 for this run"):
        record().check(record(epochs=11), training=True)


def test_json_round_trip():
    value = json.loads(json.dumps(asdict(record())))
    assert from_json(ExpertsRecord, value, "here") == record()
    assert record().layout.sizes == record().sizes == (6, 2, 12, 3)


@pytest.mark.parametrize(("name", "value"), [
    ("architecture", 3), ("dataset", None), ("epochs", 0), ("epochs", True), ("epochs", 10**400), ("in_channels", "1"),
    ("image_size", [8]), ("image_size", [8, 8.5]), ("training", []), ("parameters", []), ("parameters", [["a"]]),
    ("parameters", [["a", [0]]]), ("parameters", [["a", [2**39, 2**39]]]), ("parameters", [[1, [2]]]),
    ("parameters", {}),
])  # fmt: skip
def test_damaged_records(name, value):
    damaged = {**json.loads(json.dumps(asdict(record()))), name: value}
    with pytest.raises(FormatError, match=r"^here: .*(" + name + "|parameter)"):
        from_json(ExpertsRecord, damaged, "here")


def test_record_that_is_not_an_object():
    with pytest.raises(FormatError, match="here"):
        from_json(ExpertsRecord, [], "here")
