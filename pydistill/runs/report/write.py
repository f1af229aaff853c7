"""Writing report.html."""

from __future__ import annotations

import os
import time
from pathlib import Path

from pydistill._util.files import write_text
from pydistill._util.layout import REPORT_NAME
from pydistill.errors import InputError
from pydistill.runs.folder import RunFolder
from pydistill.runs.report.contents import Contents, dig, is_number, read_run
from pydistill.runs.report.page import BEGINNING, MADE_BY, State, page
from pydistill.runs.report.pictures import newest_images
from pydistill.runs.report.tables import iterations

QUIET_SECONDS = 120.0


def write_report(run: str | os.PathLike[str], out: str | os.PathLike[str] | None = None) -> Path:
    """Write the report of a run, finished, going on or stopped, as one HTML file; returns its path.

    The file holds its pictures, its charts and its style: it can be sent, and read without a network.

    Args:
        run: the run folder.
        out: the file; by default report.html in the run folder. A report that is there is replaced.

    Raises:
        InputError: there is no run in the folder, or something else than a report of pydistill's where it is to go.
        FormatError: the run's metrics are damaged; any other damaged file is left out, with a warning.
        WriteError: the file cannot be written.
    """
    path = Path(run)
    contents = read_run(path)
    target = path / REPORT_NAME if out is None else Path(out)
    _refuse_others(target)
    state = state_of(contents)
    shown = newest_images(contents, saved=state.kind != "open")
    write_text(target, page(contents, shown, _wall_seconds(contents), state))
    return target


def _refuse_others(target: Path) -> None:
    """InputError if there is something at `target` that is no report: a set, a recipe, a page of somebody else's."""
    if target.is_dir():
        raise InputError(f"{target} is a folder, and a report is a file; name a file in it, such as {REPORT_NAME}")
    if not target.exists():
        return
    content = target.read_bytes() if target.is_file() else b""
    if not (content.startswith(BEGINNING.encode()) and MADE_BY.encode() in content):
        raise InputError(
            f"{target} is there already and is no report of pydistill's; choose another file, or remove it"
        )


def _wall_seconds(run: Contents) -> float | None:
    """Wall time of the run up to its last checkpoint."""
    seconds = None if run.checkpoint is None else run.checkpoint[0]["seconds"]
    return float(seconds) if is_number(seconds) else None


def state_of(run: Contents) -> State:
    """Whether the run is finished, goes on, or was stopped."""
    ended = dig(run.summary, "ended_early")
    if isinstance(ended, str) and run.summarised:  # not resumed since
        return State("ended", "ended early", ended)
    if run.finished:
        return State("done", "finished")
    folder = RunFolder(run.path)
    files = [file for file in (folder.metrics_path, folder.checkpoint_path) if file.exists()]
    quiet = time.time() - max((file.stat().st_mtime for file in files), default=0.0)
    told = f"in progress: iteration {iterations(run)}"
    if quiet < QUIET_SECONDS:
        return State("open", told)
    return State("open", told, "Nothing has been written for minutes: if it was stopped, --resume continues it.")
