"""What a folder holds: experts and a run are never written into one another."""

from __future__ import annotations

from pathlib import Path

from pydistill.errors import InputError

RUN_FILES = ("metrics.jsonl", "checkpoint.safetensors", "distilled.safetensors")
EXPERTS_FILES = ("index.json",)


def other_runs(folder: Path) -> str:
    """What to give instead of a folder that is no run's: the runs in it, two of them by name; or nothing."""
    if not folder.is_dir():
        return ""
    runs = [
        each for each in sorted(folder.iterdir()) if each.is_dir() and any((each / name).exists() for name in RUN_FILES)
    ]
    if not runs:
        return ""
    return f"give {'the run' if len(runs) == 1 else 'one of the runs'} in it, {' or '.join(map(str, runs[:2]))}"


def no_run(folder: Path) -> InputError:
    """What is told of a folder that holds no run where one is wanted."""
    if not folder.exists():
        return InputError(f"{folder} holds no run: there is no such folder; give a run's folder")
    remedy = other_runs(folder) or "give a run's folder"
    return InputError(f"{folder} holds no run: there is no {RUN_FILES[0]} in it; {remedy}")


def refuse_experts(folder: Path) -> None:
    """InputError if the folder, in which a run is wanted, holds experts."""
    if any((folder / name).exists() for name in EXPERTS_FILES):
        raise InputError(f"{folder} holds experts; choose another folder for the run (experts are given by --experts)")


def refuse_run(folder: Path) -> None:
    """InputError if the folder, in which experts are wanted, holds a run."""
    if any((folder / name).exists() for name in RUN_FILES):
        raise InputError(f"{folder} holds a run; choose another folder for the experts")
