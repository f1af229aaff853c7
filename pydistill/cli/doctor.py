"""`pydistill doctor`: tell what is installed and what would run, and test it."""

from __future__ import annotations

from typing import Any

from pydistill.cli.arguments import add_json, print_json
from pydistill.cli.errors import DONE, FAILED

ABOUT = "Tell what is installed and what would run, and test it."
USAGE = "[--json]"
EXAMPLES = """
  pydistill doctor
  pydistill doctor --json
"""


def add_arguments(parser: Any) -> None:
    """Add --json."""
    add_json(parser)


def run(values: Any) -> int:
    """Print the report; a failed self-test is a failed command."""
    from pydistill.cli._doctor import examine, report

    found = examine()
    if values.json:
        print_json(found)
    else:
        print(report(found))
    return DONE if found["healthy"] else FAILED
