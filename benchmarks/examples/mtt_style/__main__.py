"""Runs the script before and after, and prints what the change is worth.

    python -m benchmarks.examples.mtt_style [the script's flags]

Three scripts run in turns: before; after, with the script's own network (backend `torch`); after, with
`pydistill.nn.ConvNet` in its place (backend `fused`). All three begin with the same experts and images. Of each the
fastest of three runs counts; experts and data are not in the times.
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from typing import Any

from benchmarks.examples.mtt_style import after, before
from benchmarks.examples.mtt_style.common import parse

RUNS = 3


def main(arguments: Sequence[str] | None = None, runs: int = RUNS) -> dict[str, float]:
    """Print the table; returns the seconds of an iteration by script."""
    args = parse(arguments)
    scripts = {
        "before": (before.main, args),
        "after": (after.main, args),
        "after, with pydistill.nn.ConvNet": (after.main, argparse.Namespace(**{**vars(args), "network": "pydistill"})),
    }
    result: dict[str, list[dict[str, Any]]] = {name: [] for name in scripts}
    for _ in range(runs):
        for name, (script, options) in scripts.items():
            result[name].append(script(options))
    seconds = {name: min(item["seconds"] for item in results) / args.Iteration for name, results in result.items()}
    print(f"{'script':<34} {'s/iteration':>11}  {'speed-up':>8}  {'first loss':>10}")
    for name, value in seconds.items():
        loss = result[name][0]["losses"][0]
        print(f"{name:<34} {value:>11.4f}  {seconds['before'] / value:>7.1f}x  {loss:>10.5f}")
    return seconds


if __name__ == "__main__":
    main()
