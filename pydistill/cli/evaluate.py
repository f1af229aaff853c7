"""`pydistill evaluate`: train fresh networks on a distilled set and test them."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

from pydistill.cli import status
from pydistill.cli.arguments import add_device, load_dataset
from pydistill.errors import MismatchError

ABOUT = "Train fresh networks on a distilled set and test them."
USAGE = "RUN [--models NAME …] [--repeats N]"
EXAMPLES = """
  pydistill evaluate runs/first
  pydistill evaluate runs/first --models convnet3 alexnet vgg11 resnet18 --repeats 5
  pydistill evaluate runs/first/best.safetensors --data /data/cifar-10-python.tar.gz
"""


def add_arguments(parser: Any) -> None:
    """The set, the networks, and how many of them."""
    parser.add_argument("run", type=str, help="run folder, or a distilled set's file")
    parser.add_argument("--models", type=str, nargs="+", help="networks, e.g. convnet3 alexnet vgg11 resnet18")
    parser.add_argument("--repeats", type=int | None, default=None, help="networks of each kind")
    parser.add_argument("--epochs", type=int | None, default=None, help="epochs of each training")
    parser.add_argument("--seed", type=int | None, default=None, help="of the networks")
    parser.add_argument("--data", type=str | None, default=None, help="where the data lie, if not where they were")
    add_device(parser)
    parser.add_argument("--which", choices=["final", "best"], default="final", help="which set of the run")
    parser.add_argument("--json", type=str | None, default=None, help="also write the numbers to this file")


def run(values: Any) -> int:
    """Print a table of accuracies, a row per network."""
    from pydistill.artefact import BEST_NAME, Artefact
    from pydistill.commands import recipe_of
    from pydistill.evaluate import evaluate_models, table
    from pydistill.files import write_json

    path = Path(values.run)
    if path.is_dir() and values.which == "best":
        path = path / BEST_NAME
    artefact = Artefact.load(path)
    recipe = recipe_of(artefact)
    if values.data is not None:
        recipe = replace(recipe, data=replace(recipe.data, path=values.data))
    settings = recipe.evaluation
    if values.epochs is not None:
        settings = replace(settings, training=replace(settings.training, epochs=values.epochs))
    changes: dict[str, Any] = {"models": tuple(values.models) if values.models else None}
    changes |= {name: values[name] for name in ("repeats", "seed")}
    settings = replace(settings, **{name: value for name, value in changes.items() if value is not None})
    dataset = load_dataset(recipe, values.device)
    if dataset.digest != artefact.provenance["dataset"]["digest"]:
        raise MismatchError(
            f"the set was distilled from {artefact.provenance['dataset']['name']} with digest "
            f"{artefact.provenance['dataset']['digest'][:12]}, and {recipe.data.name} here has {dataset.digest[:12]}; "
            "name the folder of the same data with --data"
        )
    rows = evaluate_models(artefact.images, artefact.labels, artefact.lr, dataset, recipe.model, settings)
    print(table(rows))
    if values.json is not None:
        write_json(values.json, [row.as_record() for row in rows])
    return status.DONE
