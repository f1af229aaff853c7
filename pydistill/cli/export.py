"""`pydistill export`: write a distilled set in another tool's format."""

from __future__ import annotations

from typing import Any

from pydistill.cli.arguments import Output, path

ABOUT = "Write a distilled set in another tool's format."
USAGE = "RUN --format mtt|dcbench|ddranking|imagefolder --out DIR"
EXAMPLES = """
  pydistill export runs/first --format imagefolder --out pictures
  pydistill export runs/first --format mtt --out logged_files/CIFAR10/first
  pydistill export runs/first --format ddranking --which best --out submission
"""


def add_arguments(parser: Any) -> None:
    """Add the set, the format and the folder."""
    from pydistill.artefact.exchange import FORMATS

    parser.add_argument("run", type=path, help="run folder, or a distilled set's file")
    parser.add_argument("--format", choices=list(FORMATS), required=True, help="format to write")
    parser.add_argument("--out", type=path, required=True, help="new or empty folder (for dcbench: its root)")
    parser.add_argument("--which", choices=["final", "best"], default="final", help="which set of the run")
    parser.add_argument(
        "--as-is", action="store_true", help="keep the set's own normalisation instead of the one the readers expect"
    )


def run(values: Any) -> Output:
    """Export the set; returns what was written."""
    from pydistill._util.format import counted
    from pydistill.artefact.distilled_set import load
    from pydistill.artefact.exchange import export_set

    distilled = load(values.run, which=values.which)
    done = export_set(distilled, values.format, values.out, as_is=values.as_is)
    record = {"folder": done.folder, "files": done.files, "images": done.description(), "lr": distilled.lr}
    images, files = counted(len(distilled), "image"), counted(len(done.files), "file")
    return Output(record, f"{images} in {done.folder} ({files}), {done.description()}; lr {distilled.lr:g}")
