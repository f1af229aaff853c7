"""`pydistill plan`: estimate the time, disk and memory of a recipe."""

from __future__ import annotations

from typing import Any

from pydistill.cli.arguments import (
    RECIPE_USAGE,
    Output,
    add_device,
    add_recipe,
    device_of,
    path,
    recipe_of,
)

ABOUT = "Estimate what a recipe costs on this machine: time, disk and memory."
USAGE = f"{RECIPE_USAGE} [--experts EXPERTS] [--json]"
EXAMPLES = """
  pydistill plan --preset demo/digits-att
  pydistill plan --preset att/cifar10-ipc10 --distill.iterations 5000
  pydistill plan --preset att/cifar10-ipc10 --data.path DATA --experts EXPERTS --json
"""


def add_arguments(parser: Any) -> None:
    """Add the recipe, the experts and the device."""
    add_recipe(parser)
    parser.add_argument("--experts", type=path, help="folder of the experts; without it, dummies are timed")
    add_device(parser)


def run(values: Any) -> Output:
    """Measure the plan."""
    from pydistill.runs.plan import plan, table
    from pydistill.trajectories import TrajectoryStore

    recipe = recipe_of(values)
    experts = None if values.experts is None else TrajectoryStore.open(values.experts)
    cost = plan(recipe, experts=experts, device=device_of(values.device))
    return Output(cost.as_dict(), table(cost))
