"""`pydistill evaluate`: train fresh networks on a distilled set and test them."""

from __future__ import annotations

import logging
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pydistill.cli.arguments import Output, add_device, add_quiet, device_of, path

if TYPE_CHECKING:
    from pydistill.artefact.distilled_set import DistilledSet
    from pydistill.evaluation.evaluate import Evaluation

ABOUT = "Train fresh networks on a distilled set and test them."
USAGE = "RUN [--models NAME …] [--repeats N]"
EXAMPLES = """
  pydistill evaluate runs/first
  pydistill evaluate runs/first --models convnet3 alexnet vgg11 resnet18 --repeats 5
  pydistill evaluate runs/first/best.safetensors --data /data/cifar-10-python.tar.gz
"""


def add_arguments(parser: Any) -> None:
    """Add the set, the networks and the number of repeats."""
    parser.add_argument("run", type=path, help="run folder, or a distilled set's file")
    parser.add_argument("--models", type=str, nargs="+", help="networks, e.g. convnet3 alexnet vgg11 resnet18")
    parser.add_argument("--repeats", type=int, help="networks to train per architecture")
    parser.add_argument("--epochs", type=int, help="epochs of a training")
    parser.add_argument("--seed", type=int, help="seed of the trainings")
    parser.add_argument(
        "--data.path", "--data", dest="data", type=path, metavar="PATH", help="path of the data set, if it has moved"
    )
    add_device(parser)
    parser.add_argument("--which", choices=["final", "best"], default="final", help="which set of the run")
    add_quiet(parser)


def run(values: Any) -> Output:
    """Return a table of accuracies; add every row to the run's evaluations.json as soon as it is measured."""
    from pydistill._util.format import counted
    from pydistill.artefact.distilled_set import load
    from pydistill.evaluation.evaluate import table
    from pydistill.evaluation.evaluations_file import read_evaluations

    run = Path(values.run)
    distilled = load(run, which=values.which)
    if run.is_dir():
        read_evaluations(run)  # refuse a damaged file before the work
    rows = distilled.evaluate(
        values.models or None,
        values.repeats,
        values.data,
        seed=values.seed,
        epochs=values.epochs,
        device=device_of(values.device),
        progress=not values.quiet,
        on_evaluation=lambda row: _record(run, distilled, row, values) if run.is_dir() else None,
    )
    stored = f"stored: {counted(len(distilled), 'image')} in {distilled.storage}"
    return Output([row.as_record() for row in rows], f"{table(rows)}\n{stored}")


def _record(run: Path, distilled: DistilledSet, row: Evaluation, values: Any) -> None:
    """Add a row to the run's evaluations.json, for its report; warn if it cannot be written."""
    from pydistill._util.files import WriteError
    from pydistill.evaluation.evaluations_file import add_evaluations

    protocol = distilled.recipe.evaluation
    about = {
        "which": values.which,
        "iteration": distilled.provenance.get("iteration", 0),
        "epochs": protocol.training.epochs if values.epochs is None else values.epochs,
        "seed": protocol.seed if values.seed is None else values.seed,
        "storage": asdict(distilled.storage),
    }
    try:
        add_evaluations(run, [row], **about)
    except WriteError as error:
        logging.getLogger("pydistill").warning("%s; the report will not show this evaluation", error)
