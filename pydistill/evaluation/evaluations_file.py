"""The file evaluations.json of a run folder: one row per evaluation of a run's set, after the run."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from pydistill._util.files import read_json, write_json
from pydistill._util.layout import EVALUATIONS_NAME
from pydistill._util.locking import results_writer
from pydistill.errors import FormatError
from pydistill.evaluation.evaluate import Evaluation

_KINDS = {"model": str, "mean": float, "std": float, "runs": list}


def read_evaluations(run: Path) -> list[dict[str, Any]]:
    """Read the rows of a run folder, oldest first; empty if the file does not exist.

    A row holds `Evaluation.as_record` (accuracies in [0, 1], seconds), and which set was evaluated ("final" or
    "best"), its iteration, the number of epochs and the seed.

    Raises:
        FormatError: the file is damaged.
    """
    file = run / EVALUATIONS_NAME
    if not file.exists():
        return []
    try:
        rows = read_json(file)
    except FormatError:
        rows = None
    if not isinstance(rows, list) or not all(_is_row(row) for row in rows):
        raise FormatError(f"{file} is damaged: it is not a list of evaluations; remove it and evaluate again")
    return rows


def _is_row(row: Any) -> bool:
    return isinstance(row, dict) and all(isinstance(row.get(name), kind) for name, kind in _KINDS.items())


def add_evaluations(run: Path, rows: Sequence[Evaluation], **about: Any) -> None:
    """Append rows under a lock, as the run itself may be in progress.

    Args:
        about: further entries of every row: which set was evaluated, its iteration, the number of epochs, the seed.
    """
    with results_writer(run):
        write_json(run / EVALUATIONS_NAME, read_evaluations(run) + [row.as_record() | about for row in rows])
