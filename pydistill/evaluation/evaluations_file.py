"""The files evaluations.json and baselines.json of a run folder: one row per evaluation, after the run."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from pydistill._util.files import read_json, write_json
from pydistill._util.layout import BASELINES_NAME, EVALUATIONS_NAME
from pydistill._util.locking import results_writer
from pydistill.errors import FormatError
from pydistill.evaluation.evaluate import Evaluation

_KINDS = {"model": str, "mean": float, "std": float, "runs": list}
_KINDS_OF_BASELINES = _KINDS | {
    "trained_on": str,
    "about": dict,
    "seconds": float,
    "diverged": int,
    "lr": float,
    "epochs": int,
    "protocol": str,
}


def read_evaluations(run: Path, name: str = EVALUATIONS_NAME) -> list[dict[str, Any]]:
    """Read the rows of a run folder's file, oldest first; empty if the file does not exist.

    A row holds `Evaluation.as_record` (accuracies in [0, 1], seconds), and what it belongs to: in evaluations.json the
    set ("final" or "best"), its iteration and the seed; in baselines.json the images and everything that they and the
    training depend on.

    Raises:
        FormatError: the file is damaged.
    """
    file = run / name
    if not file.exists():
        return []
    try:
        rows = read_json(file)
    except FormatError:
        rows = None
    kinds = _KINDS_OF_BASELINES if name == BASELINES_NAME else _KINDS
    if not isinstance(rows, list) or not all(_is_row(row, kinds) for row in rows):
        raise FormatError(f"{file} is damaged: it is not a list of evaluations; remove it and evaluate again")
    return rows


def _is_row(row: Any, kinds: Mapping[str, type]) -> bool:
    if not isinstance(row, dict) or not all(isinstance(row.get(name), kind) for name, kind in kinds.items()):
        return False
    return bool(row["runs"]) and all(isinstance(accuracy, float) for accuracy in row["runs"])


def add_evaluations(run: Path, rows: Sequence[Evaluation], *, name: str = EVALUATIONS_NAME, **about: Any) -> None:
    """Append rows under a lock, as the run itself may be in progress.

    Args:
        name: of the file.
        about: further entries of every row, JSON-able.
    """
    with results_writer(run):
        write_json(run / name, read_evaluations(run, name) + [about | row.as_record() for row in rows])
