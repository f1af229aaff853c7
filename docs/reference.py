"""The API reference, made from the docstrings: `make docs` writes it to build/docs, one page per module.

python docs/reference.py OUT_DIR
"""

from __future__ import annotations

import pkgutil
import sys
from pathlib import Path

import pdoc
import pdoc.render

import pydistill

# What is no part of the Python interface: the command line is in docs/cli.md, its helpers in its --help.
LEFT_OUT = ("cli", "__main__", "version")


def public_modules() -> list[str]:
    """The package and the modules directly in it; a package's page has what its `__all__` names."""
    names = [module.name for module in pkgutil.iter_modules(pydistill.__path__)]
    return ["pydistill", *(f"pydistill.{name}" for name in names if name[0] != "_" and name not in LEFT_OUT)]


def write_reference(out: Path) -> None:
    """Write the pages into `out`; what pdoc cannot resolve is a warning."""
    pdoc.render.configure(docformat="google", show_source=False, footer_text=f"pydistill {pydistill.__version__}")
    pdoc.pdoc(*public_modules(), output_directory=out)


if __name__ == "__main__":
    write_reference(Path(sys.argv[1]))
