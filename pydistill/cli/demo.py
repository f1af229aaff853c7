"""`pydistill demo`: distil digits from start to finish."""

from __future__ import annotations

import itertools
import shlex
from pathlib import Path
from typing import Any

from pydistill.cli.arguments import Output, add_quiet, path
from pydistill.errors import InputError, Interrupted

ABOUT = "Distil scikit-learn's digits into ten images, from experts to pictures."
USAGE = "[--method att|mct|mtt|tesla] [--seed N] [--out RUN [--resume]]"
EXAMPLES = """
  pydistill demo
  pydistill demo --method tesla --seed 1 --out runs/mine
  pydistill demo --method tesla --seed 1 --out runs/mine --resume      # after Ctrl-C
"""


def add_arguments(parser: Any) -> None:
    """Add the method, the seed and the folder."""
    parser.add_argument(
        "--method", choices=["att", "mct", "mtt", "tesla"], default="att", help="how to distil (default: att)"
    )
    parser.add_argument("--seed", type=int, default=0, help="seed of everything random (default: 0)")
    parser.add_argument(
        "--out",
        type=path,
        help="run folder; default runs/demo-METHOD-SEED, with -2, -3, … if it exists",
    )
    parser.add_argument("--resume", action="store_true", help="continue the demo that was stopped in --out")
    add_quiet(parser)


def run(values: Any) -> Output:
    """Run the demo; returns its table of accuracies."""
    from pydistill._util.checks import check_seed
    from pydistill._util.files import read_json
    from pydistill._util.layout import EXPERTS_NAME, SUMMARY_NAME
    from pydistill.evaluation.baselines import read_baselines
    from pydistill.evaluation.evaluate import records
    from pydistill.runs.demo import demo

    check_seed(values.seed)
    if values.resume and not values.out:
        raise InputError("--resume needs --out: the folder of the demo that was stopped")
    out = Path(values.out) if values.out else _free_folder(Path("runs"), f"demo-{values.method}-{values.seed}")
    try:
        table = demo(values.method, values.seed, out, quiet=values.quiet, resume=values.resume)
    except (Interrupted, KeyboardInterrupt) as error:
        if not (out / EXPERTS_NAME).is_dir():
            raise
        reason = str(error).partition("; ")[0] or "stopped"
        again = ["pydistill", "demo", "--method", values.method, "--seed", str(values.seed), "--out", str(out)]
        raise Interrupted(f"{reason}; to continue: {shlex.join([*again, '--resume'])}") from error
    summary = {"folder": out} | read_json(out / SUMMARY_NAME)
    return Output(summary | {"baselines": records(read_baselines(out))}, table)


def _free_folder(parent: Path, name: str) -> Path:
    """Return parent/name, or the first of parent/name-2, -3, … that does not exist."""
    names = itertools.chain([name], (f"{name}-{number}" for number in itertools.count(2)))
    return next(parent / free for free in names if not (parent / free).exists())
