"""`pydistill doctor`: check the installation."""

from __future__ import annotations

from typing import Any

from pydistill.cli.arguments import Output
from pydistill.cli.errors import DONE, FAILED

ABOUT = "Report what is installed and which backends run, and test them."
USAGE = "[--json]"
EXAMPLES = """
  pydistill doctor
  pydistill doctor --json
"""


def add_arguments(parser: Any) -> None:
    """Add no arguments."""


def run(values: Any) -> Output:
    """Return the report; the status says whether all self-tests passed."""
    from pydistill.cli._doctor import examine, report

    findings = examine()
    return Output(findings, report(findings), DONE if findings["healthy"] else FAILED)
