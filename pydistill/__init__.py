"""pydistill: dataset distillation by trajectory matching.

    m = pydistill.match(model, start, target, batches, lr)
    m.loss.backward()

`match` is the gradient that everything hangs on; `pydistill.nn`, `data`, `trajectories`, `experts`, `distill` and
`evaluate` are the system around it. Importing the package needs torch, numpy and safetensors only.
"""

from pydistill.artefact import Artefact
from pydistill.build import build_config
from pydistill.distilled_set import DistilledSet, load
from pydistill.matching import Batches, Match, match
from pydistill.version import VERSION

__version__ = VERSION

__all__ = ["Artefact", "Batches", "DistilledSet", "Match", "__version__", "build_config", "load", "match"]
