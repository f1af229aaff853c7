"""`pydistill doctor`: tell what is installed and what would run, and test it."""

from __future__ import annotations

from typing import Any

from pydistill.cli import status

ABOUT = "Tell what is installed and what would run, and test it."
USAGE = ""
EXAMPLES = """
  pydistill doctor
"""


def add_arguments(parser: Any) -> None:
    """None so far."""


def run(values: Any) -> int:
    """Print the report; a failed self-test is a failed command."""
    from pydistill.doctor import report

    text, healthy = report()
    print(text)
    return status.DONE if healthy else status.FAILED
