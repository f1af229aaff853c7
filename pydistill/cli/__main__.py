"""Entry point of `python -m pydistill.cli`, equivalent to the command `pydistill`."""

import sys

from pydistill.cli import main

sys.exit(main())
