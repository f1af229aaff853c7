"""Write one expert into a store: its file first, then its entry in the index, under the folder's lock."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from torch import Tensor

from pydistill._util.files import sha256_of
from pydistill._util.locking import only_writer
from pydistill._util.tensor_file import tensor_sha256, write_tensors
from pydistill.errors import InputError
from pydistill.trajectories.expert_file import KEY
from pydistill.trajectories.index import VERSION, ExpertEntry, StoreIndex, file_name
from pydistill.trajectories.index_file import read_index, write_index


def write_expert(
    folder: Path,
    kind: str,
    number: int,
    tensors: Mapping[str, Tensor],
    extra: Mapping[str, Any],
    accuracies: Mapping[str, Sequence[float]] | None,
    details: Mapping[str, Any] | None,
) -> StoreIndex:
    """Write expert `number` into the store at `folder`, replacing the expert of that number.

    A process killed at any moment leaves the index without this expert or with all of it.

    Args:
        folder: the store.
        kind: recorded or convexified.
        number: 0, 1, …
        tensors: of the expert's file, by name; the first is the matrix of rows.
        extra: fields of the `ExpertEntry` that only convexified experts have.
        accuracies, details: as for `TrajectoryStore.add`.

    Returns:
        The new index.

    Raises:
        InputError: the number is out of range, an accuracy is not finite, or the details are not JSON-able.
        WriteError: the disk is full; the other experts are untouched.
    """
    if not 0 <= number < 10**9:
        raise InputError(f"number = {number} must be at least 0 and below 10^9")
    series = {name: [float(value) for value in values] for name, values in (accuracies or {}).items()}
    if not all(math.isfinite(value) for values in series.values() for value in values):
        raise InputError("accuracies must be finite numbers")
    try:
        plain_details = json.loads(json.dumps(dict(details or {}), allow_nan=False))
    except (TypeError, ValueError) as error:
        raise InputError(f"details must be JSON-able: {error}") from error
    path = folder / file_name(number)
    rows = next(iter(tensors.values()))
    with only_writer(folder, wait=True):
        # Another process may have added experts since the caller read the index.
        index = read_index(folder)
        if index.experts.pop(number, None):  # a kill during the replacement leaves the expert absent, not damaged
            write_index(folder, index)
        write_tensors(path, KEY, {"format": VERSION, "kind": kind, "expert": number}, tensors)
        index.experts[number] = ExpertEntry(
            file=path.name,
            bytes=path.stat().st_size,
            sha256=sha256_of(path),
            rows_sha256=tuple(tensor_sha256(row) for row in rows),
            accuracies=series,
            details=plain_details,
            **extra,
        )
        write_index(folder, index)
    return index
