"""`pydistill doctor`: check the installation."""

from __future__ import annotations

from typing import Any

from pydistill.cli.arguments import add_json, print_json
from pydistill.cli.errors import DONE, FAILED

ABOUT = "Report what is installed and which backends run, and test them."
USAGE = "[--json]"
EXAMPLES = """
  pydistill doctor
  pydistill doctor --json
"""


def add_arguments(parser: Any) -> None:
    """Add --json."""
    add_json(parser)


def run(values: Any) -> int:
    """Print the report; fail if a self-test fails."""
    from pydistill.cli._doctor import examine, report

    findings = examine()
    if values.json:
        print_json(findings)
    else:
        print(report(findings))
    return DONE if findings["healthy"] else FAILED
