"""`pydistill convexify`: turn recorded experts into waypoints."""

from __future__ import annotations

import argparse
import json
from typing import Any, get_args

from pydistill.cli.arguments import Output, add_quiet, path

ABOUT = "Convexify recorded experts into waypoints (MCT)."
USAGE = "EXPERTS --out CONVEXIFIED [--waypoints W]"
EXAMPLES = """
  pydistill convexify experts --out convexified
  pydistill convexify experts --out convexified --waypoints [0,5,10,20]
"""


def add_arguments(parser: Any) -> None:
    """Add the two folders and the settings of the waypoints."""
    from pydistill.trajectories import FractionRule, Smoothing

    parser.add_argument("experts", type=path, help="folder of recorded experts")
    parser.add_argument("--out", type=path, required=True, help="folder of the convexified experts")
    parser.add_argument(
        "--waypoints", type=_waypoints, default=4, metavar="W", help="number of waypoints, or a list of their epochs"
    )
    parser.add_argument(
        "--smoothing", choices=get_args(Smoothing), default="neighbours", help="how waypoints are smoothed"
    )
    parser.add_argument(
        "--fractions", choices=get_args(FractionRule), default="path", help="position of an epoch on its segment"
    )
    add_quiet(parser)


def _waypoints(text: str) -> int | list[int]:
    """Parse a number of waypoints, or a list of epochs."""
    try:
        value = json.loads(text)
    except ValueError:
        value = None
    if not all(type(epoch) is int for epoch in (value if isinstance(value, list) else [value])):
        raise argparse.ArgumentTypeError(f"must be an integer or a list such as [0,5,10], not {text!r}")
    return value  # type: ignore[no-any-return]


def run(values: Any) -> Output:
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
    record = {"folder": values.out, "experts": len(written), **written.convexification}
    return Output(record, f"{counted(len(written), 'convexified expert')} in {values.out}")
