"""`python -m pydistill`, the same as the command `pydistill`."""

import sys

from pydistill.cli import main

sys.exit(main())
