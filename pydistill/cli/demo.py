"""`pydistill demo`: the whole way on digits."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from pydistill.cli import status
from pydistill.cli.arguments import add_json, add_quiet, print_json
from pydistill.errors import InputError

ABOUT = "Distil scikit-learn's digits into ten images, from experts to pictures."
USAGE = "[--method att|mct|mtt|tesla] [--seed N] [--out RUN [--resume]]"
EXAMPLES = """
  pydistill demo
  pydistill demo --method tesla --seed 1 --out runs/mine
  pydistill demo --method tesla --seed 1 --out runs/mine --resume      # after Ctrl-C
"""


def add_arguments(parser: Any) -> None:
    """The method, the seed, the folder."""
    parser.add_argument("--method", choices=["att", "mct", "mtt", "tesla"], default="att", help="how to distil")
    parser.add_argument("--seed", type=int, default=0, help="of everything random")
    parser.add_argument(
        "--out",
        type=str | None,
        default=None,
        help="run folder; default runs/demo-METHOD-SEED, or the next free number of it",
    )
    parser.add_argument("--resume", action="store_true", help="continue the demo that was stopped in --out")
    add_quiet(parser)
    add_json(parser)


def run(values: Any) -> int:
    """Run it and print the table that it ends in."""
    from pydistill._util.files import read_json
    from pydistill._util.layout import SUMMARY_NAME
    from pydistill.runs.demo import demo
    from pydistill.training.train import check_seed

    check_seed("--seed", values.seed)
    if values.resume and not values.out:
        raise InputError("--resume needs --out: the folder of the demo that was stopped")
    out = Path(values.out) if values.out else _free_folder(Path("runs"), f"demo-{values.method}-{values.seed}")
    table = demo(values.method, values.seed, out, quiet=values.quiet, resume=values.resume)
    if values.json:
        print_json({"folder": out} | read_json(out / SUMMARY_NAME))
    else:
        print(table)
    return status.DONE


def _free_folder(parent: Path, name: str) -> Path:
    """parent/name, or parent/name-2, -3, … if there are some already."""
    number = 1
    while (parent / (name if number == 1 else f"{name}-{number}")).exists():
        number += 1
    return parent / (name if number == 1 else f"{name}-{number}")
