"""`pydistill show`: draw a run's images and curves."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from pydistill.cli.arguments import Output, path

ABOUT = "Draw a run's images and curves."
USAGE = "RUN [--out FOLDER]"
EXAMPLES = """
  pydistill show runs/first
  pydistill show runs/first --out pictures
"""


def add_arguments(parser: Any) -> None:
    """Add the run and the folder of its pictures."""
    parser.add_argument("run", type=path, help="run folder; the run may be finished, running or stopped")
    parser.add_argument("--out", type=path, help="folder of the pictures; default the run folder")


def run(values: Any) -> Output:
    """Draw both pictures; returns their paths."""
    from pydistill.runs.report import draw_run

    drawn = draw_run(Path(values.run), None if values.out is None else Path(values.out))
    return Output({"pictures": drawn}, "\n".join(map(str, drawn)))
