"""`pydistill show`: draw a run's images and curves."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from pydistill.cli import status
from pydistill.cli.arguments import add_json, print_json

ABOUT = "Draw a run's images and curves."
USAGE = "RUN [--out FOLDER]"
EXAMPLES = """
  pydistill show runs/first
  pydistill show runs/first --out pictures
"""


def add_arguments(parser: Any) -> None:
    """The run, and where its pictures go."""
    parser.add_argument("run", type=str, help="run folder; the run may be finished, going on or stopped")
    parser.add_argument("--out", type=str | None, default=None, help="folder of the pictures; default the run folder")
    add_json(parser)


def run(values: Any) -> int:
    """Draw both pictures and print their paths."""
    from pydistill._util.files import WriteError
    from pydistill.runs.report import draw_run

    try:
        drawn = draw_run(Path(values.run), None if values.out is None else Path(values.out))
    except WriteError as error:
        error.args = (str(error).replace("choose a", "choose by --out a"),)
        raise
    if values.json:
        print_json({"pictures": drawn})
    else:
        print("\n".join(map(str, drawn)))
    return status.DONE
