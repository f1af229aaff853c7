"""`pydistill doctor`: tell what is installed and what would run, and test it."""

from __future__ import annotations

from typing import Any

from pydistill.cli import status

ABOUT = "Tell what is installed and what would run, and test it."
USAGE = "[--json]"
EXAMPLES = """
  pydistill doctor
  pydistill doctor --json
"""


def add_arguments(parser: Any) -> None:
    """How the report is printed."""
    parser.add_argument("--json", action="store_true", help="print the report as JSON")


def run(values: Any) -> int:
    """Print the report; a failed self-test is a failed command."""
    import json

    from pydistill.doctor import examine, report

    found = examine()
    print(json.dumps(found, indent=2) if values.json else report(found))
    return status.DONE if found["healthy"] else status.FAILED
