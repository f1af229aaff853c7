"""Distilled sets as other tools keep them: MTT's files, DC-BENCH's, DD-Ranking's, and image folders.

    exchange.export_set(pydistill.load("RUN"), "ddranking", "OUT")
    exchange.import_set("mtt", "FOLDER", lr=0.01, dataset="cifar10")

One module per format; docs/artefact.md says what each holds and what it leaves out.
"""

from __future__ import annotations

from pydistill.artefact.exchange.exporting import FORMATS, Exported, export_set
from pydistill.artefact.exchange.importing import IMPORTED, import_set
from pydistill.artefact.exchange.published import readers_normalisation

__all__ = ["FORMATS", "IMPORTED", "Exported", "export_set", "import_set", "readers_normalisation"]
