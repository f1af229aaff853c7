"""Make data sets of tables: every row is an image of one pixel, and every column a channel."""

from __future__ import annotations

import csv
import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from pydistill.data.dataset import Dataset
from pydistill.data.pictures import Pictures
from pydistill.data.preprocessing import Normalise
from pydistill.data.raw import (
    check_class_names,
    check_every_class,
    check_labels,
    class_names_for,
    digest_of,
    labels_from,
    log_contents,
    split_by_class,
    tensor_from,
)
from pydistill.errors import InputError


def from_table(
    train_rows: Any,
    train_labels: Any,
    test_rows: Any,
    test_labels: Any,
    *,
    name: str = "table",
    class_names: Sequence[str] | None = None,
) -> Dataset:
    """Make a data set of tabular data: D columns of numbers in any units become images [n, D, 1, 1].

        x = (row − mean) / std, by column, of the training rows (in fp64; a constant column is only centred)

    `dataset.preprocessing.invert(images).flatten(1)` converts distilled images to rows in the original units. Tables
    have no augmentation: set dsa=None for experts, distillation and evaluation, and use a network for images of one
    pixel, such as MLP.

    Args:
        train_rows, test_rows: [n, D] numbers; tensors, NumPy arrays or lists of lists.
        train_labels, test_labels: [n] integers from 0.
        class_names: one per class; by default "0", "1", ….

    Raises:
        InputError: a shape or type is wrong, a number is not finite, a label is out of range, or a class has no
            training row.
    """
    rows = {"train_rows": _rows("train_rows", train_rows), "test_rows": _rows("test_rows", test_rows)}
    train, test = rows.values()
    if train.shape[1] != test.shape[1]:
        raise InputError(f"train_rows has {train.shape[1]} columns, but test_rows has {test.shape[1]}")
    labels = [labels_from("train_labels", train_labels), labels_from("test_labels", test_labels)]
    class_names = class_names_for(labels[0], class_names)
    check_class_names(class_names)
    check_labels("train_labels", labels[0], len(train), len(class_names))
    check_labels("test_labels", labels[1], len(test), len(class_names))
    check_every_class("train_rows", labels[0], class_names)
    log_contents(name, class_names, labels[0], labels[1], (train.shape[1], 1, 1))
    std = train.std(dim=0, correction=0)
    normalise = Normalise(train.mean(dim=0), torch.where(std > 0, std, 1.0), source=digest_of(train))
    pictures = [Pictures(normalise.apply(rows[:, :, None, None]).float()) for rows in (train, test)]
    return Dataset(
        name=name,
        class_names=class_names,
        train_pictures=pictures[0],
        train_labels=labels[0],
        test_pictures=pictures[1],
        test_labels=labels[1],
        preprocessing=normalise,
        digest=digest_of(train, labels[0], test, labels[1]),
    )


def from_csv(
    path: str | os.PathLike[str], *, label: str | None = None, test: float = 0.2, seed: int = 0, name: str | None = None
) -> Dataset:
    """Read a table from a CSV file and split it at random into training and test rows.

    Args:
        path: the file, in UTF-8, with a line of column names; columns are separated by commas.
        label: the column of classes, which may be any text; None: the last column. All other columns hold numbers.
        test: the share of test rows, between 0 and 1; every class has at least one training and one test row.
        seed: of the split.
        name: of the data set; None: the file's name.

    Raises:
        InputError: the file or column does not exist, a value is not a number, or a class has fewer than two rows.
    """
    file = Path(path)
    try:
        with open(file, encoding="utf-8-sig", newline="") as lines:
            columns, first, *others = [row for row in csv.reader(lines) if row]
    except (OSError, ValueError, csv.Error) as error:
        raise InputError(f"{file} is not a CSV file with column names in its first line: {error}") from error
    rows = [first, *others]
    label = columns[-1] if label is None else label
    if label not in columns:
        raise InputError(f"{file} has no column {label!r}; its columns are {', '.join(columns)}")
    if not 0 < test < 1:
        raise InputError(f"test must be a share between 0 and 1, not {test}")
    position = columns.index(label)
    for number, row in enumerate(rows, start=1):
        if len(row) != len(columns):
            raise InputError(f"row {number} of {file} has {len(row)} columns, but the first line has {len(columns)}")
    classes = sorted({row[position] for row in rows})
    labels = torch.tensor([classes.index(row.pop(position)) for row in rows])
    try:
        values = torch.tensor([[float(value) for value in row] for row in rows], dtype=torch.float64)
    except ValueError as error:
        raise InputError(f"every column of {file} but {label!r} must hold numbers: {error}") from error
    train, tested = split_by_class(labels, classes, test, seed)
    arrays = (values[train], labels[train], values[tested], labels[tested])
    return from_table(*arrays, name=name or file.stem, class_names=classes)


def _rows(name: str, values: Any) -> Tensor:
    rows = tensor_from(name, values)
    if rows.ndim != 2 or rows.numel() == 0 or rows.is_complex() or rows.dtype == torch.bool:
        raise InputError(f"{name} must be numbers [n, D] with at least one row, not {rows.dtype} {list(rows.shape)}")
    if not bool(torch.isfinite(rows).all()):
        first = int((~rows.isfinite()).any(1).nonzero()[0])
        raise InputError(f"{name} holds numbers that are not finite, first in row {first}; fill in missing values")
    return rows.double().contiguous()
