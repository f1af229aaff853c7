"""TESLA's distill.py, run as `python -m pydistill.compat.tesla <its flags>`."""

from __future__ import annotations

import sys
from functools import partial

from pydistill.compat import distill

main = partial(distill.main, "tesla")

if __name__ == "__main__":
    sys.exit(main())
