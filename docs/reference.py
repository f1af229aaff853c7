"""Write the API reference from the docstrings: one page per module; `make docs` puts it into build/docs.

python docs/reference.py OUT_DIR
"""

from __future__ import annotations

import pkgutil
import sys
from pathlib import Path

import pdoc
import pdoc.render

import pydistill

# Documented elsewhere: the commands in docs/cli.md and docs/compat.md.
LEFT_OUT = ("cli", "compat", "__main__", "version")


def public_modules() -> list[str]:
    """Name the package, which brings what its `__all__` names, and its other public rooms."""
    rooms = [module.name for module in pkgutil.iter_modules(pydistill.__path__)]
    others = [room for room in rooms if room[0] != "_" and room not in (*LEFT_OUT, *pydistill.__all__)]
    return ["pydistill", *(f"pydistill.{room}" for room in others)]


def write_reference(out: Path) -> None:
    """Write the pages into `out`; pdoc warns of what it cannot resolve."""
    pdoc.render.configure(docformat="google", show_source=False, footer_text=f"pydistill {pydistill.__version__}")
    pdoc.pdoc(*public_modules(), output_directory=out)


if __name__ == "__main__":
    write_reference(Path(sys.argv[1]))
