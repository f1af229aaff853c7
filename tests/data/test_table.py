"""Tables of numbers are standardised, inverted and checked, and an MLP distils them."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from pydistill.artefact.file import Artefact
from pydistill.data import from_csv, from_table
from pydistill.errors import InputError
from pydistill.nn import ModelSettings
from pydistill.runs.run import run_distillation
from pydistill.training.experts import train_experts
from tests.helpers.small_runs import recipe

ROWS = torch.tensor([[1e9, 2.0, 5.0], [1e9 + 4, 6.0, 5.0], [1e9 + 8, 4.0, 5.0]], dtype=torch.float64)
LABELS = [0, 1, 1]


def test_columns_are_standardised_and_inverted() -> None:
    dataset = from_table(ROWS, LABELS, ROWS[:2] + 1, LABELS[:2], class_names=["no", "yes"])
    images = dataset.train_images
    assert images.shape == (3, 3, 1, 1)
    assert images.dtype == torch.float32
    expected = np.array([-1.0, 0.0, 1.0]) * np.sqrt(1.5)
    np.testing.assert_allclose(images[:, 0, 0, 0], expected, rtol=1e-6)
    assert images[:, 2].count_nonzero() == 0  # a constant column
    rows = dataset.preprocessing.invert(images.double()).flatten(1)
    torch.testing.assert_close(rows, ROWS, rtol=1e-12, atol=1e-5)
    assert (dataset.in_channels, dataset.image_size, dataset.class_names) == (3, (1, 1), ("no", "yes"))
    assert dataset.digest != from_table(ROWS + 1, LABELS, ROWS, LABELS).digest


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"train_rows": ROWS[0]}, r"train_rows .* \[3\]"),
        ({"train_rows": "x"}, "train_rows"),
        ({"test_rows": ROWS[:, :2]}, "train_rows .* test_rows"),
        ({"train_rows": ROWS / 0}, "train_rows .* row 0"),
        ({"train_labels": [0, 1]}, "train_labels"),
        ({"train_labels": [0.0, 1.0, 1.0]}, "train_labels"),
        ({"train_labels": [0, 0, 2]}, r"class 1 \('1'\) has no sample in train_rows"),
        ({"train_labels": [0, 1, 10**12]}, "train_labels"),
        ({"test_labels": [0, 1, 2]}, "test_labels"),
        ({"train_labels": []}, "train_labels"),
    ],
)
def test_invalid_arguments(changes: dict[str, Any], message: str) -> None:
    arguments = {"train_rows": ROWS, "train_labels": LABELS, "test_rows": ROWS, "test_labels": LABELS} | changes
    with pytest.raises(InputError, match=message):
        from_table(**arguments)


def test_rows_are_distilled(tmp_path: Path) -> None:
    generator = torch.Generator().manual_seed(0)
    labels = torch.arange(2).repeat(20)
    rows = torch.randn(40, 5, generator=generator) * 10 + 100
    rows[:, 2] += 40 * labels
    dataset = from_table(rows, labels, rows, labels)
    work = replace(recipe(iterations=3), model=ModelSettings("mlp", width=8, depth=2))
    store = train_experts(dataset, work.model, work.expert, tmp_path / "experts")
    run = run_distillation(work, dataset, store, tmp_path / "run")
    distilled = Artefact.load(run.folder.path)
    rows = distilled.preprocessing.invert(distilled.images).flatten(1)
    assert rows.shape == (2, 5)
    assert 50 < float(rows.min()) < float(rows.max()) < 200
    assert float(rows[1, 2] - rows[0, 2]) > 10


TABLE = "height,kind,weight\n" + "".join(f"{170 + n},{'ab'[n % 2]},{60.5 + n}\n\n" for n in range(10))


def test_csv_file_is_split_into_training_and_test_rows(tmp_path: Path) -> None:
    file = tmp_path / "people.csv"
    file.write_text("\ufeff" + TABLE, encoding="utf-8")
    data = from_csv(file, label="kind", test=0.3, seed=1)
    assert (data.name, data.class_names, data.in_channels) == ("people", ("a", "b"), 2)
    assert (data.train_labels.bincount().tolist(), data.test_labels.bincount().tolist()) == ([3, 3], [2, 2])
    parts = [data.preprocessing.invert(images.double()).flatten(1) for images in (data.train_images, data.test_images)]
    for rows, labels in zip(parts, (data.train_labels, data.test_labels), strict=True):
        torch.testing.assert_close(rows[:, 1] - rows[:, 0], torch.full((len(rows),), -109.5, dtype=torch.float64))
        assert ((rows[:, 0].round().long() % 2) == labels).all()
    heights = torch.cat(parts)[:, 0].round().sort().values
    assert heights.tolist() == list(range(170, 180))
    assert from_csv(file, label="kind", test=0.3, seed=1).digest == data.digest
    assert from_csv(file, label="kind", test=0.3, seed=2).digest != data.digest


@pytest.mark.parametrize(
    ("text", "arguments"),
    [
        ("", {}),
        ("a,b\n", {}),
        ("a,b\n1,x\n2,x\n", {"label": "c"}),
        ("a,b\n1,x\n2\n", {}),
        ("a,b\n1,x\nmany,x\n", {}),
        ("a,b\n1,x\n2,y\n3,y\n", {}),
        ("a,b\n1,x\n2,x\n", {"test": 1.0}),
        (b"a,b\n\xff,x\n", {}),
        (None, {}),
    ],
)
def test_invalid_csv_files_are_refused(text: str | bytes | None, arguments: dict[str, Any], tmp_path: Path) -> None:
    file = tmp_path / "table.csv"
    if text is not None:
        file.write_bytes(text if isinstance(text, bytes) else text.encode())
    with pytest.raises(InputError):
        from_csv(file, **arguments)
