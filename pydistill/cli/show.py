"""`pydistill show`: draw a run's images and curves."""

from __future__ import annotations

from typing import Any

from pydistill.cli import status
from pydistill.cli.arguments import add_json, print_json

ABOUT = "Draw a run's images and curves."
USAGE = "RUN"
EXAMPLES = """
  pydistill show runs/first
"""


def add_arguments(parser: Any) -> None:
    """The run."""
    parser.add_argument("run", type=str, help="run folder")
    add_json(parser)


def run(values: Any) -> int:
    """Draw both pictures into the run folder and name them."""
    from pydistill.commands import draw_run
    from pydistill.runfolder import RunFolder

    drawn = draw_run(RunFolder(values.run))
    if values.json:
        print_json({"pictures": drawn})
    else:
        print("\n".join(map(str, drawn)))
    return status.DONE
