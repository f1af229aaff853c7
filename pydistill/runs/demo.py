"""The demo: experts, distillation, evaluation and pictures on bundled real data."""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch

from pydistill import data
from pydistill._util.files import write_json
from pydistill._util.layout import SUMMARY_NAME, holds_experts, holds_run
from pydistill._util.locking import results_writer
from pydistill._util.progress import Bar
from pydistill.artefact.figures import REFERENCES
from pydistill.data import Dataset
from pydistill.errors import InputError, MismatchError, Name
from pydistill.evaluation.baselines import random_real
from pydistill.evaluation.evaluate import accuracy_record, evaluate
from pydistill.recipes.recipe import Recipe, load_recipe, preset_path
from pydistill.runs.report.contents import read_run
from pydistill.runs.workflow import distill_and_report, run_summary, show_run, train_and_store
from pydistill.training.train import TrainingSettings
from pydistill.trajectories import TrajectoryStore

EXPERTS = "experts"
FULL_DATA_TRAINING = TrainingSettings(
    epochs=30, batch_size=128, lr=0.05, momentum=0.9, weight_decay=5e-4, schedule="halfway"
)


def demo_recipe(method: str, seed: int) -> Recipe:
    """Return the demo's recipe for a method, with one seed for everything."""
    return load_recipe(preset_path(f"demo/digits-{method}")).with_seed(seed)


def demo(method: str, seed: int, out: Path, *, quiet: bool = False, resume: bool = False) -> str:
    """Distil one image per digit and write the run into `out`; returns the table of accuracies.

    With `resume`, a demo that was stopped in `out` is continued: finished experts, iterations and reference networks
    are not repeated.

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
    if not (out / EXPERTS).is_dir():
        raise InputError(f"{out} is not empty; choose another folder")
    if not resume:
        raise InputError(f"{out} holds a demo; add ", Name("resume"), " to continue it, or choose another folder")


def _demo(recipe: Recipe, out: Path, quiet: bool, resume: bool) -> str:
    dataset = data.load(recipe.data)
    seconds: dict[str, float] = {}
    began = time.perf_counter()

    def phase(name: str) -> None:
        nonlocal began
        now = time.perf_counter()
        seconds[name] = now - began
        began = now

    continued = holds_experts(out / EXPERTS)
    before = read_run(out).summary if holds_run(out) else {}
    store = train_and_store(dataset, recipe, out / EXPERTS, quiet=quiet)
    phase("experts")
    result = distill_and_report(dataset, recipe, store, out, resume=resume, quiet=quiet)
    phase("distillation")
    with result.folder.opened():
        if before.get("iterations") == result.iterations and REFERENCES.keys() <= before.keys():
            summary = before  # the demo was finished already
        else:
            summary = run_summary(recipe, result) | _references(recipe, dataset, store, result.final.lr, quiet)
            phase("references")
            if continued:  # of the time of earlier processes, only that of the distillation is known
                seconds = {"distillation": result.seconds, "references": seconds["references"]}
            else:
                seconds["total"] = sum(seconds.values())
            summary |= {
                "seconds": seconds,
                "accuracy_distilled": accuracy_record(result.accuracy_final.accuracies),
                "images": len(result.final.images),
                "training_images": len(dataset.train_pictures),
            }
        with results_writer(out):
            write_json(out / SUMMARY_NAME, summary)
        return _table(summary, out, show_run(result.folder))


def _references(
    recipe: Recipe, dataset: Dataset, store: TrajectoryStore, learned_rate: float, quiet: bool
) -> dict[str, Any]:
    """Evaluate random real images at the better of the initial and the learned rate, and all real images."""
    settings = recipe.evaluation
    rates = (recipe.distill.lr_init, learned_rate)
    with Bar("references", settings.repeats * len(rates) + 1, quiet=quiet) as bar:
        random, rate = random_real(
            dataset,
            recipe.model,
            settings,
            ipc=recipe.distill.ipc,
            rates=rates,
            on_network=lambda evaluation: bar.step(random=f"{100 * evaluation.mean:.1f}%"),
        )
        on_all = replace(settings, training=FULL_DATA_TRAINING)
        lr = FULL_DATA_TRAINING.lr
        full = evaluate(dataset.train_pictures, dataset.train_labels, lr, dataset, recipe.model, on_all)
        bar.step(all=f"{100 * full.mean:.1f}%")
    experts = [store.accuracies(position)["test"][-1] for position in range(len(store))]
    return {
        "accuracy_random_real": accuracy_record(random.accuracies) | {"lr": rate},
        "accuracy_full_data": accuracy_record(full.accuracies),
        "accuracy_experts": accuracy_record(experts),
    }


def _table(summary: dict[str, Any], out: Path, pictures: Sequence[Path]) -> str:
    count = summary["images"]
    rows = [
        (f"distilled, {count} images ({summary['method'].upper()})", summary["accuracy_distilled"]),
        (f"random real, {count} images", summary["accuracy_random_real"]),
        (f"all real data, {summary['training_images']} images", summary["accuracy_full_data"]),
        ("the experts themselves", summary["accuracy_experts"]),
    ]
    lines = [f"{'trained on':<34} {'test accuracy':>15}  networks"]
    lines += [
        f"{name:<34} {100 * accuracy['mean']:>6.1f} ± {100 * accuracy['std']:>4.1f} %  {len(accuracy['runs']):>8}"
        for name, accuracy in rows
    ]
    times = ", ".join(f"{name} {value:.0f} s" for name, value in summary["seconds"].items())
    to_look_at = [f"to look at: {', '.join(map(str, pictures))}"] if pictures else []
    return "\n".join([*lines, "", times, *to_look_at, f"everything else: {out}/"])
