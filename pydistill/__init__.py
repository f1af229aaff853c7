"""pydistill: dataset distillation by trajectory matching.

    m = pydistill.match(model, start, target, batches, lr)
    m.loss.backward()

`match` is the gradient that everything hangs on; `pydistill.nn`, `data`, `trajectories`, `experts`, `distill` and
`evaluate` are the system around it. Importing the package is quick: each name is fetched when it is first used, and
torch with it (PEP 562); that needs torch, numpy and safetensors only.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

from pydistill.version import VERSION

if TYPE_CHECKING:
    from pydistill.artefact import Artefact
    from pydistill.build import build_config
    from pydistill.distilled_set import DistilledSet, load
    from pydistill.matching.batches import Batches
    from pydistill.matching.match import match
    from pydistill.matching.problem import Match

__version__ = VERSION

__all__ = ["Artefact", "Batches", "DistilledSet", "Match", "__version__", "build_config", "load", "match"]

_MODULES = {
    "Artefact": "artefact",
    "Batches": "matching",
    "DistilledSet": "distilled_set",
    "Match": "matching",
    "build_config": "build",
    "load": "distilled_set",
    "match": "matching",
}


def __getattr__(name: str) -> Any:
    """The public name, or the module of the package, that is asked for the first time."""
    if name in _MODULES:
        found = getattr(importlib.import_module(f"pydistill.{_MODULES[name]}"), name)
        globals()[name] = found
        return found
    if not name.startswith("_"):
        try:
            return importlib.import_module(f"pydistill.{name}")
        except ModuleNotFoundError as error:
            if error.name != f"pydistill.{name}":
                raise
    raise AttributeError(f"module 'pydistill' has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
