"""File names of experts' folders and run folders, which never share a folder."""

from __future__ import annotations

from pathlib import Path

from pydistill.errors import InputError

CONFIG_NAME = "config.json"
RECIPE_NAME = "recipe.json"
METRICS_NAME = "metrics.jsonl"
CHECKPOINT_NAME = "checkpoint.safetensors"
SET_NAME = "distilled.safetensors"
BEST_NAME = "best.safetensors"
SUMMARY_NAME = "summary.json"
EVALUATIONS_NAME = "evaluations.json"
BASELINES_NAME = "baselines.json"
REPORT_NAME = "report.html"
IMAGES_NAME = "images.png"
CURVES_NAME = "curves.png"
TENSORBOARD_NAME = "tensorboard"
WANDB_NAME = "wandb"
WANDB_ID_NAME = "wandb.json"
EXPERTS_NAME = "experts"  # of those that were trained for one run
CONVEXIFIED_NAME = "convexified"
LOCK = ".lock"
RESULTS_LOCK = ".results.lock"

SETTINGS = (RECIPE_NAME, CONFIG_NAME)  # compared or rewritten when a run is resumed
# Also written beside the run.
RESULTS = (SUMMARY_NAME, EVALUATIONS_NAME, BASELINES_NAME, REPORT_NAME, IMAGES_NAME, CURVES_NAME)
OUTCOMES = (SET_NAME, BEST_NAME, *RESULTS)
_RUN_FILES = (METRICS_NAME, CHECKPOINT_NAME, SET_NAME)  # any of these identifies a run folder
INDEX_NAME = "index.json"  # of a trajectory store


def holds_experts(folder: Path) -> bool:
    """Return whether the folder holds experts."""
    return (folder / INDEX_NAME).exists()


def holds_run(folder: Path) -> bool:
    """Return whether the folder holds a run."""
    return any((folder / name).exists() for name in _RUN_FILES)


def other_runs(folder: Path) -> str:
    """Suggest up to two runs inside a folder that is not a run; an empty string if there are none."""
    if not folder.is_dir():
        return ""
    runs = [path for path in sorted(folder.iterdir()) if path.is_dir() and holds_run(path)]
    if not runs:
        return ""
    return f"give {'the run' if len(runs) == 1 else 'one of the runs'} in it, {' or '.join(map(str, runs[:2]))}"


def no_run(folder: Path) -> InputError:
    """Make the error for a folder that does not hold a run."""
    if not folder.exists():
        return InputError(f"{folder} holds no run: there is no such folder; give a run's folder")
    remedy = other_runs(folder) or "give a run's folder"
    missing = ", ".join(name for name in _RUN_FILES if not (folder / name).exists())
    return InputError(f"{folder} holds no run: there is no {' or '.join(missing.rsplit(', ', 1))} in it; {remedy}")


def refuse_experts(folder: Path) -> None:
    """Raise InputError if a folder chosen for a run holds experts."""
    if holds_experts(folder):
        raise InputError(f"{folder} holds experts; choose another folder for the run")


def refuse_run(folder: Path) -> None:
    """Raise InputError if a folder chosen for experts holds a run."""
    if holds_run(folder):
        raise InputError(f"{folder} holds a run; choose another folder for the experts")
