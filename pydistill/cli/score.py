"""`pydistill score`: how good a distilled set is without soft labels and without augmentation."""

from __future__ import annotations

from typing import Any

from pydistill.cli.arguments import Output, add_device, add_protocol, add_quiet, device_of, path

ABOUT = "Score a distilled set: DD-Ranking's label-robust and augmentation-robust scores."
USAGE = "RUN [--experts EXPERTS] [--protocol NAME] [--full_accuracy A]"
EXAMPLES = """
  pydistill score runs/first
  pydistill score runs/soft --experts experts --full_accuracy 0.848
  pydistill score runs/first --protocol ddranking
"""


def add_arguments(parser: Any) -> None:
    """Add the set, the experts, the network and the protocol."""
    parser.add_argument("run", type=path, help="run folder, or a distilled set's file")
    parser.add_argument("--experts", type=path, help="the run's experts, which label random images; for soft labels")
    parser.add_argument("--model", type=str, help="the network (default: the student's)")
    parser.add_argument(
        "--full_accuracy", type=float, metavar="A", help="of networks on all real data, in [0, 1]; saves their training"
    )
    add_protocol(parser)
    add_device(parser)
    parser.add_argument("--which", choices=["final", "best"], default="final", help="which set of the run")
    add_quiet(parser)


def run(values: Any) -> Output:
    """Return the scores with the accuracies that they are computed from."""
    from pydistill.runs.score import score

    scores = score(
        values.run,
        experts=values.experts,
        data=values.data,
        model=values.model,
        protocol=values.protocol,
        repeats=values.repeats,
        epochs=values.epochs,
        seed=values.seed,
        full_accuracy=values.full_accuracy,
        which=values.which,
        device=device_of(values.device),
        progress=not values.quiet,
    )
    return Output(scores.as_record(), str(scores))
