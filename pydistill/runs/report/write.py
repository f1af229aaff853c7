"""Write report.html."""

from __future__ import annotations

import os
from contextlib import nullcontext
from pathlib import Path

from pydistill._util.files import write_text
from pydistill._util.layout import REPORT_NAME
from pydistill._util.locking import results_writer
from pydistill.errors import InputError
from pydistill.runs.report.contents import read_run
from pydistill.runs.report.page import BEGINNING, MADE_BY, page


def write_report(run: str | os.PathLike[str], out: str | os.PathLike[str] | None = None) -> Path:
    """Write the report of a run, finished or not, as one self-contained HTML file; return its path.

    A missing or damaged file of the run becomes a sentence on the page. Without matplotlib the pictures are left out.

    Args:
        run: the run folder.
        out: the file; by default report.html in the run folder. An existing report is replaced.

    Raises:
        InputError: there is no run in the folder, or `out` is something else than a report.
        WriteError: the file cannot be written.
    """
    contents = read_run(Path(run))
    target = Path(run) / REPORT_NAME if out is None else Path(out)
    _refuse_other_files(target)
    text = page(contents)
    with results_writer(Path(run)) if out is None else nullcontext():
        write_text(target, text)
    return target


def _refuse_other_files(target: Path) -> None:
    if target.is_dir():
        raise InputError(f"{target} is a folder, and a report is a file; name a file in it, such as {REPORT_NAME}")
    if not target.exists():
        return
    content = target.read_bytes() if target.is_file() else b""
    if not (content.startswith(BEGINNING.encode()) and MADE_BY.encode() in content):
        raise InputError(f"{target} exists and is no report of pydistill's; choose another file")
