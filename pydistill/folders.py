"""What a folder holds: experts and a run are never written into one another."""

from __future__ import annotations

from pathlib import Path

from pydistill.errors import InputError

RUN_FILES = ("metrics.jsonl", "checkpoint.safetensors", "distilled.safetensors")
EXPERTS_FILES = ("index.json",)


def refuse_experts(folder: Path) -> None:
    """InputError if the folder, in which a run is wanted, holds experts."""
    if any((folder / name).exists() for name in EXPERTS_FILES):
        raise InputError(f"{folder} holds experts; choose another folder for the run (experts are given by --experts)")


def refuse_run(folder: Path) -> None:
    """InputError if the folder, in which experts are wanted, holds a run."""
    if any((folder / name).exists() for name in RUN_FILES):
        raise InputError(f"{folder} holds a run; choose another folder for the experts")
