"""The demo: experts, distillation, evaluation and pictures on bundled real data."""

from __future__ import annotations

import time
from pathlib import Path

import torch

from pydistill import data
from pydistill._util.layout import EXPERTS_NAME, REPORT_NAME, holds_experts
from pydistill.errors import InputError, MismatchError, Name
from pydistill.evaluation.baselines import read_baselines
from pydistill.evaluation.evaluate import table
from pydistill.recipes.recipe import Recipe, load_recipe, preset_path
from pydistill.runs.comparison import distilled_name
from pydistill.runs.workflow import distill_and_report, train_and_store


def demo_recipe(method: str, seed: int) -> Recipe:
    """Return the demo's recipe for a method, with one seed for everything."""
    return load_recipe(preset_path(f"demo/digits-{method}")).with_seed(seed)


def demo(method: str, seed: int, out: Path, *, quiet: bool = False, resume: bool = False) -> str:
    """Distil one image per digit and write the run into `out`; returns the table of accuracies.

    With `resume`, a demo that was stopped in `out` is continued: finished experts, iterations and baselines are
    not repeated.

    It runs on one thread: images of 8×8 gain nothing from a second one, and on a busy machine threads that wait for
    each other take ten times as long.

    Raises:
        InputError: the folder is already in use, or is a file.
        MismatchError: the demo in it is of another method or seed.
        WriteError: the disk is full; checked before the first epoch.
        Interrupted: Ctrl-C; what is done is saved.
    """
    _check_folder(out, resume)
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        return _demo(demo_recipe(method, seed), out, quiet, resume)
    except MismatchError as error:
        raise MismatchError(
            f"the demo in {out} is not that of method {method} and seed {seed}; give its own method and seed, or "
            "choose another folder"
        ) from error
    finally:
        torch.set_num_threads(threads)


def _check_folder(out: Path, resume: bool) -> None:
    """Refuse a path that is a file, and a folder that holds anything but a demo to resume."""
    if out.exists() and not out.is_dir():
        raise InputError(f"{out} is a file, and a demo needs a folder; choose another path")
    if not out.exists() or not any(out.iterdir()):
        return
    if not (out / EXPERTS_NAME).is_dir():
        raise InputError(f"{out} is not empty; choose another folder")
    if not resume:
        raise InputError(f"{out} holds a demo; add ", Name("resume"), " to continue it, or choose another folder")


def _demo(recipe: Recipe, out: Path, quiet: bool, resume: bool) -> str:
    dataset = data.load(recipe.data)
    began = time.perf_counter()
    continued = holds_experts(out / EXPERTS_NAME)
    store = train_and_store(dataset, recipe, out / EXPERTS_NAME, quiet=quiet)
    trained = time.perf_counter()
    result = distill_and_report(dataset, recipe, store, out, resume=resume, quiet=quiet)
    baselines = read_baselines(out)
    seconds = {"experts": trained - began, "distillation": result.seconds}
    seconds |= {"baselines": sum(row.seconds for _, row in baselines), "total": time.perf_counter() - began}
    if continued:  # by an earlier process, whose time is not known
        del seconds["experts"], seconds["total"]
    rows = [(distilled_name(result.final), result.accuracy_final), *baselines]
    times = ", ".join(f"{name} {value:.0f} s" for name, value in seconds.items())
    return f"{table(rows)}\n\n{times}\nto look at: {out / REPORT_NAME}\neverything else: {out}/"
