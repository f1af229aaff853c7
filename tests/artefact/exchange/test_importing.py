"""Imports name missing arguments, and refuse files that are damaged or contain code."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from pydistill.artefact.exchange import IMPORTED, export_set, import_set, readers_normalisation
from pydistill.data import Normalise
from pydistill.errors import FormatError, InputError
from tests.artefact.exchange.sets import BOTH_WAYS, made, save
from tests.helpers.blobs import blobs


@pytest.mark.parametrize("form", BOTH_WAYS)
def test_unknown_normalisation_is_an_argument(form: str, tmp_path: Path) -> None:
    before = made()
    for as_is in (False, True):
        done = export_set(before, form, tmp_path / str(as_is), as_is=as_is)
        (done.folder / "preprocessing.json").unlink()
        with pytest.raises(InputError):
            import_set(form, done.folder, lr=0.1, like=before)
        arguments: Any = {"as_is": True} if as_is else {"preprocessing": readers_normalisation("cifar10", form)}
        after = import_set(form, done.folder, lr=0.1, like=before, **arguments)
        torch.testing.assert_close(after.viewable().images, before.viewable().images, rtol=0, atol=2e-6)
    with pytest.raises(InputError):
        import_set(form, done.folder, lr=0.1, as_is=True)


def test_manifest_does_not_apply_to_other_images(tmp_path: Path) -> None:
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
def test_damaged_manifest_is_refused(change: dict[str, Any], tmp_path: Path) -> None:
    path = export_set(made(), "ddranking", tmp_path).folder / "preprocessing.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | change))
    with pytest.raises(FormatError):
        import_set("ddranking", tmp_path)


def test_missing_arguments_are_named(tmp_path: Path) -> None:
    folder = save(tmp_path)
    cases: list[tuple[dict[str, Any], str]] = [
        ({}, "learning rate.*preprocessing"),
        ({"dataset": "cifar10"}, "learning rate"),
        ({"like": made("none")}, "learning rate.*0.0123"),
        ({"lr": 0.1}, "preprocessing"),
        ({"lr": 0.1, "dataset": "digits"}, "preprocessing.*digits"),
    ]
    for arguments, missing in cases:
        with pytest.raises(InputError, match=missing):
            import_set("mtt", folder, **arguments)
    imported = import_set("mtt", folder, lr=0.1, dataset="cifar10", model="convnet1-w4")
    assert imported.class_names == ("0", "1", "2")
    assert imported.classes.tolist() == [0, 0, 1, 1, 2, 2]  # sorted by the import
    stored = torch.load(folder / "images_best.pt", weights_only=True)
    assert torch.equal(imported.images, stored[torch.tensor([0, 3, 1, 4, 2, 5])])
    assert imported.train(epochs=1)


@pytest.mark.parametrize("lr", [0.5, torch.tensor(0.5), torch.tensor([0.5])])
def test_learning_rate_from_a_file(lr: Any, tmp_path: Path) -> None:
    assert import_set("mtt", save(tmp_path, lr=lr), dataset="cifar10").lr == 0.5
    assert import_set("mtt", tmp_path / "images_best.pt", dataset="cifar10", lr=0.25).lr == 0.25


def test_imported_set_is_evaluated_on_the_data_set(tmp_path: Path) -> None:
    """The imported images have another normalisation than the data set."""
    data, normalise = blobs(), Normalise(torch.tensor([0.3]), torch.tensor([0.4]))
    images, classes = data.sample_per_class(6, torch.Generator().manual_seed(0))
    folder = save(tmp_path, normalise.apply(data.preprocessing.invert(images)), classes)
    imported = import_set("mtt", folder, lr=0.1, preprocessing=normalise, dataset=data)
    assert imported.class_names == data.class_names
    (row,) = imported.evaluate("mlp-w16", 1, data, epochs=30)
    assert row.mean > 0.8


@pytest.mark.parametrize(
    ("soft", "rows"), [(None, torch.full((6, 3), 1 / 3)), ("probabilities", torch.full((6, 3), 1.0))]
)
def test_ambiguous_rows_need_soft(soft: Any, rows: torch.Tensor, tmp_path: Path) -> None:
    with pytest.raises(InputError, match="soft"):
        import_set("mtt", save(tmp_path, labels=rows), lr=0.1, dataset="cifar10", soft=soft)


def test_soft_selects_the_form_of_rows(tmp_path: Path) -> None:
    rows = (torch.rand(6, 3) + 2 * torch.eye(3).repeat_interleave(2, 0)).softmax(1)
    folder = save(tmp_path, labels=rows)
    for soft, expected in (("probabilities", rows), ("logits", rows.softmax(1))):
        imported = import_set("mtt", folder, lr=0.1, dataset="cifar10", soft=soft)  # type: ignore[arg-type]
        assert torch.equal(imported.labels, expected)


def test_images_are_sorted_by_soft_labels(tmp_path: Path) -> None:
    order = torch.tensor([3, 0, 5, 1, 4, 2])
    rows = 5 * torch.eye(3).repeat_interleave(2, 0) + torch.rand(6, 3)
    images = torch.rand(6, 3, 4, 4)
    imported = import_set("mtt", save(tmp_path, images[order], rows[order]), lr=0.1, dataset="cifar10")
    assert imported.classes.tolist() == [0, 0, 1, 1, 2, 2]
    assert imported.labels.argmax(1).tolist() == [0, 0, 1, 1, 2, 2]
    sources = [int((images == image).flatten(1).all(1).nonzero()) for image in imported.images]
    assert [source // 2 for source in sources] == [0, 0, 1, 1, 2, 2]


def test_soft_labels_with_errors_of_a_teacher_stay_in_order(tmp_path: Path) -> None:
    rows = 5 * torch.eye(3)[[0, 0, 1, 0, 2, 2]] + torch.rand(6, 3)
    imported = import_set("mtt", save(tmp_path, labels=rows), lr=0.1, dataset="cifar10")
    assert torch.equal(imported.labels, rows.softmax(1))
    assert imported.classes.tolist() == [0, 0, 1, 1, 2, 2]


def test_soft_labels_that_contradict_the_order_are_refused(tmp_path: Path) -> None:
    rows = 5 * torch.eye(3)[[2, 2, 2, 0, 1, 1]] + torch.rand(6, 3)
    with pytest.raises(FormatError):
        import_set("mtt", save(tmp_path, labels=rows), lr=0.1, dataset="cifar10")


class Malicious:
    """An object whose pickle creates a folder when loaded."""

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


def test_missing_truncated_and_hostile_files(tmp_path: Path) -> None:
    for form in IMPORTED:
        with pytest.raises(InputError):
            import_set(form, tmp_path / "nowhere", lr=0.1, dataset="cifar10")
    folder = save(tmp_path)
    content = (folder / "images_best.pt").read_bytes()
    (folder / "images_best.pt").write_bytes(content[: len(content) // 2])
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
def test_invalid_arguments(change: dict[str, Any], tmp_path: Path) -> None:
    arguments = {"form": "mtt", "path": save(tmp_path), "lr": 0.1, "dataset": "cifar10"} | change
    with pytest.raises(InputError):
        import_set(**arguments)


@pytest.mark.parametrize("largest", [6, 2**31 - 1])
def test_labels_of_more_classes_than_images(largest: int, tmp_path: Path) -> None:
    save(tmp_path, labels=torch.tensor([0, 0, 1, 1, 2, largest]), lr=torch.tensor(0.1))
    with pytest.raises(FormatError):
        import_set("mtt", tmp_path, dataset="cifar10", preprocessing=Normalise(torch.zeros(3), torch.ones(3)))


def test_a_numpy_learning_rate_is_read_and_another_one_passed_over(tmp_path: Path) -> None:
    folder = save(tmp_path, lr=np.float64(0.25))
    assert import_set("mtt", folder, dataset="cifar10").lr == 0.25
    (folder / "lr_best.pt").write_bytes(b"no number")
    assert import_set("mtt", folder, dataset="cifar10", lr=0.5).lr == 0.5
    with pytest.raises(FormatError):
        import_set("mtt", folder, dataset="cifar10")


@pytest.mark.filterwarnings("ignore:The PyTorch API of nested tensors")
@pytest.mark.parametrize("name", ["images_best.pt", "labels_best.pt", "lr_best.pt"])
def test_nested_tensors_are_refused(name: str, tmp_path: Path) -> None:
    folder = save(tmp_path, lr=0.1)
    torch.save(torch.nested.nested_tensor([torch.zeros(2), torch.zeros(3)]), folder / name)
    with pytest.raises(FormatError):
        import_set("mtt", folder, dataset="cifar10")


def test_results_of_dc(tmp_path: Path) -> None:
    images, labels = torch.rand(6, 3, 4, 4), torch.arange(3).repeat_interleave(2)
    pairs = [[images, labels], [images + 1, labels]]
    torch.save(
        {"data": pairs, "accs_all_exps": {"ConvNet": [np.float64(0.5)]}}, tmp_path / "res_CIFAR10_ConvNet_2ipc.pt"
    )
    for path in (tmp_path, tmp_path / "res_CIFAR10_ConvNet_2ipc.pt"):
        imported = import_set("dc", path, lr=0.01, dataset="cifar10")
        assert torch.equal(imported.images, images)
        assert torch.equal(imported.labels, labels)
    torch.save({"data": [[images]]}, tmp_path / "res_CIFAR10_ConvNet_2ipc.pt")
    with pytest.raises(FormatError):
        import_set("dc", tmp_path, lr=0.01, dataset="cifar10")


def test_results_of_idc(tmp_path: Path) -> None:
    images, labels = torch.rand(3, 3, 5, 5), torch.arange(3)
    torch.save([images, labels], tmp_path / "data.pt")
    with pytest.raises(InputError):
        import_set("idc", tmp_path, lr=0.01, dataset="cifar10")
    (tmp_path / "args.txt").write_text('{"factor": 1}')
    whole = import_set("idc", tmp_path, lr=0.01, dataset="cifar10")
    torch.testing.assert_close(whole.viewable().images, images, rtol=0, atol=1e-6)
    assert "assumed" not in whole.provenance["imported"]
    (tmp_path / "args.txt").write_text('{"factor": 2, "decode_type": "single"}')
    parts = import_set("idc", tmp_path / "data.pt", lr=0.01, dataset="cifar10")
    assert parts.labels.tolist() == [0] * 4 + [1] * 4 + [2] * 4
    padded = torch.full((3, 3, 6, 6), 0.5)
    padded[:, :, :5, :5] = images
    corner = torch.nn.Upsample(size=(5, 5), mode="bilinear")(padded[:, :, 3:, :3])  # below, left
    torch.testing.assert_close(parts.viewable().images[2::4], corner, rtol=0, atol=1e-6)
    (tmp_path / "args.txt").write_text('{"factor": 2, "decode_type": "multi"}')
    with pytest.raises(InputError):
        import_set("idc", tmp_path, lr=0.01, dataset="cifar10")
