"""pydistill: dataset distillation by trajectory matching.

    data = pydistill.data.cifar10("DATA", zca=True)
    experts = pydistill.train_experts(data, "convnet3", count=100, out="experts")
    result = pydistill.distill(data, experts, method="att", ipc=1, out="run")

    m = pydistill.match(model, start, target, batches, lr)
    m.loss.backward()

`match` computes the gradient; the other calls are a complete distillation around it. Importing the package is quick:
each name is imported when it is first used, and torch with it (PEP 562). That needs torch, numpy and safetensors only.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

from pydistill.version import VERSION

if TYPE_CHECKING:
    from pydistill import data, errors, nn, ops, reference, trajectories
    from pydistill.artefact.distilled_set import DistilledSet, load
    from pydistill.artefact.file import Artefact
    from pydistill.matching.batches import Batches
    from pydistill.matching.match import match, match_many
    from pydistill.matching.problem import Match
    from pydistill.ops.build_info import build_config
    from pydistill.recipes.recipe import Recipe
    from pydistill.runs.api import distill, evaluate, train_experts
    from pydistill.runs.score import score

__version__ = VERSION

_MODULES = {
    "Artefact": "artefact.file",
    "Batches": "matching",
    "DistilledSet": "artefact.distilled_set",
    "Match": "matching",
    "Recipe": "recipes.recipe",
    "build_config": "ops.build_info",
    "distill": "runs.api",
    "evaluate": "runs.api",
    "load": "artefact.distilled_set",
    "match": "matching",
    "match_many": "matching",
    "score": "runs.score",
    "train_experts": "runs.api",
}
_ROOMS = ("data", "errors", "nn", "ops", "reference", "trajectories")

__all__ = [
    "Artefact",
    "Batches",
    "DistilledSet",
    "Match",
    "Recipe",
    "__version__",
    "build_config",
    "data",
    "distill",
    "errors",
    "evaluate",
    "load",
    "match",
    "match_many",
    "nn",
    "ops",
    "reference",
    "score",
    "train_experts",
    "trajectories",
]


def __getattr__(name: str) -> Any:
    """Import a public name, or a public sub-package, when it is first used."""
    if name in _MODULES:
        value = getattr(importlib.import_module(f"pydistill.{_MODULES[name]}"), name)
    elif name in _ROOMS:
        value = importlib.import_module(f"pydistill.{name}")
    else:
        raise AttributeError(f"module 'pydistill' has no attribute {name!r}")
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted(__all__)
