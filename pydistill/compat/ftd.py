"""FTD's distill_FTD.py, run as `python -m pydistill.compat.ftd <its flags>`."""

from __future__ import annotations

import sys
from functools import partial

from pydistill.compat import distill

main = partial(distill.main, "ftd")

if __name__ == "__main__":
    sys.exit(main())
