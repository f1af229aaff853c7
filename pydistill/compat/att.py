"""ATT's distill_ATT.py, run as `python -m pydistill.compat.att <its flags>`."""

from __future__ import annotations

import sys
from collections.abc import Sequence

from pydistill.compat import distill


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the distillation described by the flags; return the exit status."""
    return distill.main("att", arguments)


if __name__ == "__main__":
    sys.exit(main())
