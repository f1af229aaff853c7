"""MCT's distill_compressed.py: `python -m pydistill.compat.mct <its flags>`."""

from __future__ import annotations

import sys
from collections.abc import Sequence

from pydistill.compat import distill


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the distillation that the flags ask for; returns the exit status."""
    return distill.main("mct", arguments)


if __name__ == "__main__":
    sys.exit(main())
