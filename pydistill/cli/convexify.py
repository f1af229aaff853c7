"""`pydistill convexify`: turn recorded experts into waypoints."""

from __future__ import annotations

from typing import Any

from pydistill.cli import status
from pydistill.cli.arguments import add_json, add_quiet, print_json

ABOUT = "Convexify recorded experts into waypoints (MCT)."
USAGE = "EXPERTS --out CONVEXIFIED [--waypoints W]"
EXAMPLES = """
  pydistill convexify experts --out convexified
  pydistill convexify experts --out convexified --waypoints [0,5,10,20]
"""


def add_arguments(parser: Any) -> None:
    """The two folders and how waypoints are made."""
    from pydistill.trajectories import FractionRule, Smoothing

    parser.add_argument("experts", type=str, help="folder of recorded experts")
    parser.add_argument("--out", type=str, required=True, help="folder of the convexified experts")
    parser.add_argument("--waypoints", type=int | list[int], default=4, help="how many waypoints, or their epochs")
    parser.add_argument("--smoothing", type=Smoothing, default="neighbours", help="how waypoints are smoothed")
    parser.add_argument("--fractions", type=FractionRule, default="path", help="how far along a segment each epoch is")
    add_quiet(parser)
    add_json(parser)


def run(values: Any) -> int:
    """Write the convexified experts."""
    from pydistill._util.format import counted
    from pydistill._util.progress import Bar
    from pydistill.trajectories import TrajectoryStore

    store = TrajectoryStore.open(values.experts)
    with Bar("convexifying", len(store), quiet=values.quiet) as bar:
        written = store.write_convexified(
            values.out,
            waypoints=values.waypoints,
            smoothing=values.smoothing,
            fractions=values.fractions,
            on_progress=lambda done, total: bar.step(expert=f"{done}/{total}"),
        )
    if values.json:
        print_json({"folder": values.out, "experts": len(written), **written.convexification})
        return status.DONE
    print(f"{counted(len(written), 'convexified expert')} in {values.out}")
    return status.DONE
