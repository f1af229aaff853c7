"""`pydistill experts`: train experts and store their trajectories."""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path
from typing import Any

from pydistill.cli.arguments import (
    RECIPE_USAGE,
    Output,
    add_device,
    add_quiet,
    add_recipe,
    device_of,
    diagnosis,
    path,
    recipe_of,
)

ABOUT = "Train experts and store their trajectories."
USAGE = f"{RECIPE_USAGE} --out EXPERTS"
EXAMPLES = """
  pydistill experts --preset demo/digits-att --out experts
  pydistill experts --preset mtt/cifar10-ipc1 --data.path cifar-10-python.tar.gz --out buffers
  pydistill experts --config recipe.json --expert.count 50 --out experts      # adds to existing experts
"""


def add_arguments(parser: Any) -> None:
    """Add the recipe, the folder and the device."""
    add_recipe(parser, listed=("data", "model", "expert"))
    parser.add_argument(
        "--out", type=path, required=True, help="folder of the experts; intact ones are not trained again"
    )
    add_device(parser)
    add_quiet(parser)


def run(values: Any) -> Output:
    """Train the experts that are missing or damaged in the folder."""
    from pydistill import data
    from pydistill._util.format import counted
    from pydistill.runs.diagnosis import chance_of, diagnose_experts
    from pydistill.runs.preflight import check_networks
    from pydistill.runs.workflow import train_and_store

    recipe = recipe_of(values)
    check_networks(recipe)
    dataset = data.load(recipe.data, device_of(values.device))
    store = train_and_store(dataset, recipe, Path(values.out), quiet=values.quiet)
    finals = [store.accuracies(position)["test"][-1] for position in range(len(store))]
    count = recipe.expert.count
    extra = f" (expert.count is {count}; the others were trained before)" if len(store) > count else ""
    average = 100 * sum(finals) / len(finals)
    mean = " on average" if len(finals) > 1 else ""
    text = f"{counted(len(store), 'expert')} in {values.out}{extra}; final test accuracy {average:.1f} %{mean}"
    findings = diagnose_experts(store, chance_of(dataset))
    record = {"folder": values.out, "experts": len(store), "test_accuracies": finals}
    return Output(record | {"findings": [asdict(finding) for finding in findings]}, text + diagnosis(findings))
