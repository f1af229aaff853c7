"""ATT's distill_ATT.py, run as `python -m pydistill.compat.att <its flags>`."""

from __future__ import annotations

import sys
from functools import partial

from pydistill.compat import distill

main = partial(distill.main, "att")

if __name__ == "__main__":
    sys.exit(main())
