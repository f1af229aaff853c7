"""Export and import distilled sets as other tools' files: MTT, DC-BENCH, DD-Ranking, and image folders.

    exchange.export_set(pydistill.load("RUN"), "ddranking", "OUT")
    exchange.import_set("mtt", "FOLDER", lr=0.01, dataset="cifar10")

docs/artefact.md describes the formats and what they leave out.
"""

from __future__ import annotations

from pydistill.artefact.exchange.exporting import FORMATS, Exported, export_set
from pydistill.artefact.exchange.importing import IMPORTED, import_set
from pydistill.artefact.exchange.published import readers_normalisation

__all__ = ["FORMATS", "IMPORTED", "Exported", "export_set", "import_set", "readers_normalisation"]
