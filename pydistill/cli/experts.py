"""`pydistill experts`: train experts and store their trajectories."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pydistill.cli import status
from pydistill.cli.arguments import (
    RECIPE_USAGE,
    add_device,
    add_json,
    add_quiet,
    add_recipe,
    load_dataset,
    print_json,
    recipe_of,
)
from pydistill.errors import InputError

if TYPE_CHECKING:
    from pydistill.data import Dataset
    from pydistill.recipe import Recipe

ABOUT = "Train experts and store their trajectories."
USAGE = f"{RECIPE_USAGE} --out EXPERTS"
EXAMPLES = """
  pydistill experts --preset demo/digits-att --out experts
  pydistill experts --preset mtt/cifar10-ipc1 --data.path cifar-10-python.tar.gz --out buffers
  pydistill experts --config recipe.json --expert.count 50 --out experts      # adds to those there are
"""


def add_arguments(parser: Any) -> None:
    """The recipe, the folder, the device."""
    add_recipe(parser, used=("data", "model", "expert"))
    parser.add_argument("--out", type=str, required=True, help="folder of the experts; whole ones in it are kept")
    add_device(parser)
    add_quiet(parser)
    add_json(parser)


def run(values: Any) -> int:
    """Train what is missing in the folder."""
    from pydistill.commands import train_experts_shown

    recipe = recipe_of(values)
    dataset = load_dataset(recipe, values.device)
    _check_disk(dataset, recipe, Path(values.out))
    store = train_experts_shown(dataset, recipe, Path(values.out), quiet=values.quiet)
    finals = [100 * store.accuracies(position)["test"][-1] for position in range(len(store))]
    if values.json:
        print_json({"folder": values.out, "experts": len(store), "test_accuracies": [each / 100 for each in finals]})
        return status.DONE
    asked = recipe.expert.count
    kept = f" ({asked} asked for, all {len(store)} that are there already are kept)" if len(store) > asked else ""
    average = sum(finals) / len(finals)
    print(f"{len(store)} experts in {values.out}{kept}; final test accuracy {average:.1f} % on average")
    return status.DONE


def _check_disk(dataset: Dataset, recipe: Recipe, out: Path) -> None:
    """Refuse, before the first epoch, more experts than the disk can hold.

    Raises:
        InputError: it cannot.
    """
    from pydistill.experts import experts_record

    record = experts_record(dataset, recipe.model, recipe.expert)
    bytes_each = 4 * sum(record.sizes) * (record.epochs + 1)
    missing = recipe.expert.count - sum(1 for _ in out.glob("expert_*.safetensors"))
    place = next(each for each in (out.absolute(), *out.absolute().parents) if each.is_dir())
    free = shutil.disk_usage(place).free
    if bytes_each * missing > free:
        raise InputError(
            f"{missing} experts of {record.epochs} epochs need {bytes_each * missing / 2**30:.1f} GiB in {out}, and "
            f"{free / 2**30:.1f} GiB are free; lower expert.count or expert.training.epochs, or take another --out"
        )
