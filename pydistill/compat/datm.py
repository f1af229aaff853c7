"""DATM's DATM.py, run as `python -m pydistill.compat.datm --cfg FILE <its flags>`."""

from __future__ import annotations

import sys
from functools import partial

from pydistill.compat import distill

main = partial(distill.main, "datm")

if __name__ == "__main__":
    sys.exit(main())
