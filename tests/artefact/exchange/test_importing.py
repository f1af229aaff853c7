"""Imports ask for missing information, and refuse files that are damaged or contain code."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

import pytest
import torch

from pydistill.artefact.exchange import IMPORTED, export_set, import_set, readers_normalisation
from pydistill.data import Normalise
from pydistill.errors import FormatError, InputError
from tests.artefact.exchange.sets import made, save
from tests.helpers.blobs import blobs


@pytest.mark.parametrize("form", IMPORTED)
def test_an_unknown_normalisation_must_be_given(form: str, tmp_path: Path) -> None:
    before = made()
    for as_is in (False, True):
        done = export_set(before, form, tmp_path / str(as_is), as_is=as_is)
        (done.folder / "preprocessing.json").unlink()
        with pytest.raises(InputError):
            import_set(form, done.folder, lr=0.1, like=before)
        how: Any = {"as_is": True} if as_is else {"preprocessing": readers_normalisation("cifar10", form)}
        after = import_set(form, done.folder, lr=0.1, like=before, **how)
        torch.testing.assert_close(after.viewable().images, before.viewable().images, rtol=0, atol=2e-6)
    with pytest.raises(InputError):
        import_set(form, done.folder, lr=0.1, as_is=True)


def test_a_manifest_does_not_apply_to_other_images(tmp_path: Path) -> None:
    folder = export_set(made(), "mtt", tmp_path).folder
    assert import_set("mtt", folder).preprocessing.state()[1]["mean"].tolist() == [0.4914, 0.4822, 0.4465]
    torch.save(torch.rand(6, 3, 4, 4), folder / "images_best.pt")
    with pytest.raises(InputError):
        import_set("mtt", folder)


@pytest.mark.parametrize(
    "change",
    [
        {"kind": "none"},
        {"files": []},
        {"mean": ["a", "b", "c"]},
        {"std": [0.1, 0.0, 0.1]},
        {"std": [0.1]},
        {"std": None},
    ],
)
def test_a_damaged_manifest_is_refused(change: dict[str, Any], tmp_path: Path) -> None:
    path = export_set(made(), "ddranking", tmp_path).folder / "preprocessing.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | change))
    with pytest.raises(FormatError):
        import_set("ddranking", tmp_path)


def test_missing_information_is_asked_for(tmp_path: Path) -> None:
    folder = save(tmp_path)
    arguments: list[tuple[dict[str, Any], str]] = [
        ({}, "learning rate.*preprocessing"),
        ({"dataset": "cifar10"}, "learning rate"),
        ({"like": made("none")}, "learning rate.*0.0123"),
        ({"lr": 0.1}, "preprocessing"),
        ({"lr": 0.1, "dataset": "digits"}, "preprocessing.*digits"),
    ]
    for given, missing in arguments:
        with pytest.raises(InputError, match=missing):
            import_set("mtt", folder, **given)
    found = import_set("mtt", folder, lr=0.1, dataset="cifar10", model="convnet1-w4")
    assert found.class_names == ("0", "1", "2")
    assert found.classes.tolist() == [0, 0, 1, 1, 2, 2]  # sorted, as they were not
    stored = torch.load(folder / "images_best.pt", weights_only=True)
    assert torch.equal(found.images, stored[torch.tensor([0, 3, 1, 4, 2, 5])])
    assert found.train(epochs=1)


@pytest.mark.parametrize("lr", [0.5, torch.tensor(0.5), torch.tensor([0.5])])
def test_the_learning_rate_s_file_is_read(lr: Any, tmp_path: Path) -> None:
    assert import_set("mtt", save(tmp_path, lr=lr), dataset="cifar10").lr == 0.5
    assert import_set("mtt", tmp_path / "images_best.pt", dataset="cifar10", lr=0.25).lr == 0.25


def test_an_imported_set_is_judged_on_the_data_set(tmp_path: Path) -> None:
    """Blobs, exported by somebody who normalised them with numbers of their own."""
    data, own = blobs(), Normalise(torch.tensor([0.3]), torch.tensor([0.4]))
    images, classes = data.sample_per_class(6, torch.Generator().manual_seed(0))
    folder = save(tmp_path, own.apply(data.preprocessing.invert(images)), classes)
    found = import_set("mtt", folder, lr=0.1, preprocessing=own, dataset=data)
    assert found.class_names == data.class_names
    (row,) = found.evaluate("mlp-w16", 1, data, epochs=30)
    assert row.mean > 0.8


@pytest.mark.parametrize(
    ("soft", "rows"), [(None, torch.full((6, 3), 1 / 3)), ("probabilities", torch.full((6, 3), 1.0))]
)
def test_rows_that_could_be_either_are_asked_about(soft: Any, rows: torch.Tensor, tmp_path: Path) -> None:
    with pytest.raises(InputError, match="soft"):
        import_set("mtt", save(tmp_path, labels=rows), lr=0.1, dataset="cifar10", soft=soft)


def test_soft_says_how_rows_are_read(tmp_path: Path) -> None:
    rows = (torch.rand(6, 3) + 2 * torch.eye(3).repeat_interleave(2, 0)).softmax(1)
    folder = save(tmp_path, labels=rows)
    for soft, expected in (("probabilities", rows), ("logits", rows.softmax(1))):
        found = import_set("mtt", folder, lr=0.1, dataset="cifar10", soft=soft)  # type: ignore[arg-type]
        assert torch.equal(found.labels, expected)


def test_images_of_soft_labels_are_sorted_by_them(tmp_path: Path) -> None:
    order = torch.tensor([3, 0, 5, 1, 4, 2])
    rows = 5 * torch.eye(3).repeat_interleave(2, 0) + torch.rand(6, 3)
    images = torch.rand(6, 3, 4, 4)
    found = import_set("mtt", save(tmp_path, images[order], rows[order]), lr=0.1, dataset="cifar10")
    assert found.classes.tolist() == [0, 0, 1, 1, 2, 2]
    assert found.labels.argmax(1).tolist() == [0, 0, 1, 1, 2, 2]
    sources = [int((images == image).flatten(1).all(1).nonzero()) for image in found.images]
    assert [source // 2 for source in sources] == [0, 0, 1, 1, 2, 2]


def test_soft_labels_of_an_erring_teacher_stay_in_order(tmp_path: Path) -> None:
    rows = 5 * torch.eye(3)[[0, 0, 1, 0, 2, 2]] + torch.rand(6, 3)
    found = import_set("mtt", save(tmp_path, labels=rows), lr=0.1, dataset="cifar10")
    assert torch.equal(found.labels, rows.softmax(1))
    assert found.classes.tolist() == [0, 0, 1, 1, 2, 2]


def test_soft_labels_that_contradict_the_order_are_refused(tmp_path: Path) -> None:
    rows = 5 * torch.eye(3)[[2, 2, 2, 0, 1, 1]] + torch.rand(6, 3)
    with pytest.raises(FormatError):
        import_set("mtt", save(tmp_path, labels=rows), lr=0.1, dataset="cifar10")


class Malicious:
    """A pickle that would make a folder if it were run."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> Any:
        return os.mkdir, (str(self.path),)


NAN = torch.full((6, 3, 4, 4), torch.nan)


@pytest.mark.parametrize(
    "change",
    [
        {"images": [1, 2]},
        {"images": torch.ones(6, 3, 4)},
        {"images": torch.ones(6, 3, 4, 4).int()},
        {"images": torch.ones(6, 3, 4, 4).to_sparse()},
        {"images": NAN},
        {"labels": torch.arange(5)},
        {"labels": torch.arange(6) - 1},
        {"labels": torch.arange(6) + 0.5},
        {"labels": torch.full((6, 3), torch.inf)},
        {"labels": torch.ones(6, 3).bool()},
        {"labels": torch.tensor([0, 0, 1, 2, 2, 2])},
        {"labels": torch.rand(6, 4)},
        {"lr": -0.5},
        {"lr": torch.ones(2)},
    ],
)
def test_damaged_files(change: dict[str, Any], tmp_path: Path) -> None:
    folder = save(tmp_path, **change)
    with pytest.raises(FormatError):
        import_set("mtt", folder, dataset="cifar10", **({} if "lr" in change else {"lr": 0.1}))


def test_files_that_are_missing_truncated_or_carry_code(tmp_path: Path) -> None:
    for form in IMPORTED:
        with pytest.raises(InputError):
            import_set(form, tmp_path / "nowhere", lr=0.1, dataset="cifar10")
    folder = save(tmp_path)
    whole = (folder / "images_best.pt").read_bytes()
    (folder / "images_best.pt").write_bytes(whole[: len(whole) // 2])
    with pytest.raises(FormatError):
        import_set("mtt", folder, lr=0.1, dataset="cifar10")
    torch.save(Malicious(tmp_path / "ran"), folder / "images_best.pt")
    with pytest.raises(FormatError):
        import_set("mtt", folder, lr=0.1, dataset="cifar10")
    assert not (tmp_path / "ran").exists()


@pytest.mark.parametrize(
    "change",
    [
        {"form": "npz"},
        {"lr": 0.0},
        {"class_names": ["a"]},
        {"dataset": "fashion-mnist"},
        {"model": "convnot"},
    ],
)
def test_arguments_that_do_not_fit(change: dict[str, Any], tmp_path: Path) -> None:
    arguments = {"form": "mtt", "path": save(tmp_path), "lr": 0.1, "dataset": "cifar10"} | change
    with pytest.raises(InputError):
        import_set(**arguments)
