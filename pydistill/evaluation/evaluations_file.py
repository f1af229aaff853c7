"""evaluations.json of a run folder: what `pydistill evaluate RUN` found, one row per kind of network and call."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from pydistill._util.files import read_json, write_json
from pydistill._util.layout import EVALUATIONS_LOCK, EVALUATIONS_NAME
from pydistill._util.locking import only_writer
from pydistill.errors import FormatError
from pydistill.evaluation.evaluate import Evaluation

_KINDS = {"model": str, "mean": float, "std": float, "runs": list}


def read_evaluations(run: Path) -> list[dict[str, Any]]:
    """The rows in a run folder, oldest first; none if nothing was evaluated there.

    A row holds what `Evaluation.as_record` tells (accuracies in [0, 1], seconds), and which set was evaluated
    ("final" or "best"), after how many iterations, with how many epochs and which seed.

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
        raise FormatError(f"{file} is damaged: it is no list of evaluations; remove it and evaluate again")
    return rows


def _is_row(row: Any) -> bool:
    return isinstance(row, dict) and all(isinstance(row.get(name), kind) for name, kind in _KINDS.items())


def add_evaluations(run: Path, rows: Sequence[Evaluation], **about: Any) -> None:
    """Append evaluations to a run's rows, one process after the other; the run itself may go on meanwhile.

    Args:
        run: the run folder.
        rows: what was found.
        about: which set was evaluated, after which iteration, with how many epochs and which seed.

    Raises:
        FormatError: the file that is there is damaged.
        WriteError: it cannot be written.
    """
    with only_writer(run, name=EVALUATIONS_LOCK, wait=True):
        write_json(run / EVALUATIONS_NAME, read_evaluations(run) + [row.as_record() | about for row in rows])
