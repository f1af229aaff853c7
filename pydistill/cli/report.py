"""`pydistill report`: write a run's report."""

from __future__ import annotations

from typing import Any

from pydistill.cli.arguments import Output, path

ABOUT = "Write a run's report: one HTML file with its images, charts and tables."
USAGE = "RUN [--out FILE]"
EXAMPLES = """
  pydistill report runs/first
  pydistill report runs/first --out first.html
"""


def add_arguments(parser: Any) -> None:
    """Add the run and the file of its report."""
    parser.add_argument("run", type=path, help="run folder; the run may be finished, running or stopped")
    parser.add_argument("--out", type=path, help="the file; default report.html in the run folder")


def run(values: Any) -> Output:
    """Write the report; returns its path."""
    from pydistill.runs.report import write_report

    report = write_report(values.run, values.out)
    return Output({"report": report}, str(report))
