"""MCT's distill_compressed.py, run as `python -m pydistill.compat.mct <its flags>`."""

from __future__ import annotations

import sys
from functools import partial

from pydistill.compat import distill

main = partial(distill.main, "mct")

if __name__ == "__main__":
    sys.exit(main())
