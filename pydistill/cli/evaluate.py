"""`pydistill evaluate`: train fresh networks on a distilled set and test them."""

from __future__ import annotations

import logging
from dataclasses import asdict, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pydistill._util.layout import BASELINES_NAME, EVALUATIONS_NAME
from pydistill.cli.arguments import Output, add_device, add_protocol, add_quiet, device_of, path

if TYPE_CHECKING:
    from pydistill.evaluation.evaluate import Evaluation

ABOUT = "Train fresh networks on a distilled set and test them."
USAGE = "RUN [--models NAME …] [--protocol NAME] [--repeats N] [--baselines NAME …]"
EXAMPLES = """
  pydistill evaluate runs/first
  pydistill evaluate runs/first --models convnet3 alexnet vgg11 resnet18 --repeats 5
  pydistill evaluate runs/first --protocol datm --baselines random kmeans full
  pydistill evaluate runs/first/best.safetensors --data /data/cifar-10-python.tar.gz
"""


def add_arguments(parser: Any) -> None:
    """Add the set, the networks, the protocol and the baselines."""
    parser.add_argument("run", type=path, help="run folder, or a distilled set's file")
    parser.add_argument("--models", type=str, nargs="+", help="networks, e.g. convnet3 alexnet vgg11 resnet18")
    add_protocol(parser)
    parser.add_argument(
        "--baselines",
        type=str,
        nargs="+",
        help="random, kmeans (few real images), full (all of them) or none (default: the recipe's)",
    )
    add_device(parser)
    parser.add_argument("--which", choices=["final", "best"], default="final", help="which set of the run")
    add_quiet(parser)


def run(values: Any) -> Output:
    """Return a table of accuracies; add every row to the run's files as soon as it is measured."""
    from pydistill._util.format import counted
    from pydistill.artefact.distilled_set import load
    from pydistill.evaluation.evaluate import records, table
    from pydistill.evaluation.evaluations_file import read_evaluations
    from pydistill.runs.comparison import baselines_of, distilled_name

    run = Path(values.run)
    distilled = load(run, which=values.which)
    networks = distilled.networks(values.models or None)
    settings = distilled.protocol(values.protocol, seed=values.seed, epochs=values.epochs, repeats=values.repeats)
    if values.baselines is not None:
        settings = replace(settings, baselines=tuple(name for name in values.baselines if name != "none"))
    if run.is_dir():
        for name in (EVALUATIONS_NAME, BASELINES_NAME):
            read_evaluations(run, name)  # refuse a damaged file before the work
    dataset = distilled.test_data(values.data, device_of(values.device))
    about = {"which": values.which, "iteration": distilled.provenance.get("iteration", 0), "seed": settings.seed}
    about["storage"] = asdict(distilled.storage)
    evaluations = distilled.evaluate(
        networks,
        settings.repeats,
        dataset,
        protocol=values.protocol,
        seed=values.seed,
        epochs=values.epochs,
        progress=not values.quiet,
        on_evaluation=lambda row: _record(run, row, about) if run.is_dir() else None,
    )
    rows = [(distilled_name(distilled.artefact), row) for row in evaluations]
    rows += baselines_of(
        distilled.artefact, dataset, networks, settings, run=run if run.is_dir() else None, quiet=values.quiet
    )
    stored = f"stored: {counted(len(distilled), 'image')} in {distilled.storage}"
    return Output(records(rows), f"{table(rows)}\n{stored}")


def _record(run: Path, row: Evaluation, about: dict[str, Any]) -> None:
    """Add a row to the run's evaluations.json, for its report; warn if it cannot be written."""
    from pydistill._util.files import WriteError
    from pydistill.evaluation.evaluations_file import add_evaluations

    try:
        add_evaluations(run, [row], **about)
    except WriteError as error:
        logging.getLogger("pydistill").warning("%s; the report will not show this evaluation", error)
