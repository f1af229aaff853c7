"""The main job on bundled real data: experts, trajectories, distillation, evaluation, pictures."""

from __future__ import annotations

import shlex
import time
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch

from pydistill import data
from pydistill._util.files import write_json
from pydistill._util.layout import SUMMARY_NAME, holds_experts
from pydistill._util.progress import Bar
from pydistill.data import Dataset
from pydistill.errors import InputError, Interrupted, MismatchError
from pydistill.evaluation.baselines import random_real
from pydistill.evaluation.evaluate import Evaluation, accuracy_record, evaluate
from pydistill.recipes.recipe import Recipe, load_recipe, preset_path
from pydistill.runs.folder import RunFolder
from pydistill.runs.workflow import distill_and_report, run_summary, show_run, train_and_store
from pydistill.training.experts import check_disk
from pydistill.training.train import TrainingSettings
from pydistill.trajectories import TrajectoryStore

EXPERTS = "experts"
FULL_DATA_TRAINING = TrainingSettings(
    epochs=30, batch_size=128, lr=0.05, momentum=0.9, weight_decay=5e-4, schedule="halfway"
)


def demo_recipe(method: str, seed: int) -> Recipe:
    """The demo's recipe for a method, with one seed for everything."""
    return load_recipe(preset_path(f"demo/digits-{method}")).with_seed(seed)


def demo(method: str, seed: int, out: Path, *, quiet: bool = False, resume: bool = False) -> str:
    """Distil one image per digit and write the run into `out`; returns the table of accuracies.

    With `resume`, a demo that was stopped in `out` goes on: whole experts and finished iterations are kept.

    It runs on one thread: on images of 8×8 a second one gains nothing, and on a busy machine threads that wait for each
    other take ten times as long.

    Raises:
        InputError: the folder is already in use, or is a file.
        MismatchError: the demo in it is of another method or seed.
        WriteError: the disk is full; told before the first epoch if the experts will not fit.
        Interrupted: Ctrl-C; what is done is kept.
    """
    _check_folder(out, method, seed, resume)
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        return _demo(demo_recipe(method, seed), out, quiet, resume)
    except (Interrupted, KeyboardInterrupt) as error:
        what = str(error).partition(";")[0] or "stopped"
        again = f"pydistill demo --method {method} --seed {seed} --out {shlex.quote(str(out))} --resume"
        raise Interrupted(f"{what}; continue with: {again}") from error
    finally:
        torch.set_num_threads(threads)


def _check_folder(out: Path, method: str, seed: int, resume: bool) -> None:
    """Refuse a folder that is none, or holds something else than a demo of this method and seed to continue."""
    if out.exists() and not out.is_dir():
        raise InputError(f"{out} is a file, and a demo needs a folder; choose one with --out")
    if not out.exists() or not any(out.iterdir()):
        return
    if not (out / EXPERTS).is_dir():
        raise InputError(f"{out} is not empty; choose another folder with --out, or remove it")
    if not resume:
        raise InputError(f"{out} holds a demo; continue it with --resume, or choose another folder with --out")
    asked = {"--method": method, "--seed": seed}
    for flag, began in _begun_with(out).items():
        if began != asked[flag]:
            raise MismatchError(
                f"the demo in {out} began with {flag} {began}, not {asked[flag]}; continue it with {flag} {began}, or "
                "choose another folder with --out"
            )


def _begun_with(out: Path) -> dict[str, Any]:
    """The flags that the demo in the folder began with, as far as there are files that tell."""
    folder = RunFolder(out)
    if folder.begun:
        config = folder.config()
        return {"--method": config.get("distill.method"), "--seed": config.get("distill.seed")}
    if holds_experts(out / EXPERTS):
        return {"--seed": TrajectoryStore.open(out / EXPERTS).record.training.get("seed")}
    return {}


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
    remedy = "make room there, or choose another folder with --out"
    check_disk(dataset, recipe.model, recipe.expert, out / EXPERTS, remedy)
    store = train_and_store(dataset, recipe, out / EXPERTS, quiet=quiet)
    phase("experts")
    result = distill_and_report(dataset, recipe, store, out, resume=resume, quiet=quiet)
    phase("distillation")
    random, rate, full = _references(recipe, dataset, result.final.lr, quiet)
    phase("references")
    if continued:  # what earlier processes did is known of the distillation alone
        seconds = {"distillation": result.seconds, "references": seconds["references"]}
    else:
        seconds["total"] = sum(seconds.values())
    experts = [store.accuracies(position)["test"][-1] for position in range(len(store))]

    summary = run_summary(recipe, result) | {
        "seconds": seconds,
        "accuracy_distilled": accuracy_record(result.accuracy_final.accuracies),
        "accuracy_random_real": accuracy_record(random.accuracies) | {"lr": rate},
        "accuracy_full_data": accuracy_record(full.accuracies),
        "accuracy_experts": accuracy_record(experts),
        "images": len(result.final.images),
        "training_images": len(dataset.train_pictures),
    }
    write_json(out / SUMMARY_NAME, summary)
    return _table(summary, out, show_run(result.folder))


def _references(
    recipe: Recipe, dataset: Dataset, learned_rate: float, quiet: bool
) -> tuple[Evaluation, float, Evaluation]:
    """Random real images at the better of the first and the learned rate, that rate, and all real images."""
    settings = recipe.evaluation
    rates = (recipe.distill.lr_init, learned_rate)
    with Bar("references", settings.repeats * len(rates) + 1, quiet=quiet) as bar:
        random, rate = random_real(
            dataset,
            recipe.model,
            settings,
            ipc=recipe.distill.ipc,
            rates=rates,
            on_network=lambda found: bar.step(random=f"{100 * found.mean:.1f}%"),
        )
        whole = replace(settings, training=FULL_DATA_TRAINING)
        rate_of_all = FULL_DATA_TRAINING.lr
        full = evaluate(dataset.train_pictures, dataset.train_labels, rate_of_all, dataset, recipe.model, whole)
        bar.step(all=f"{100 * full.mean:.1f}%")
    return random, rate, full


def _table(summary: dict[str, Any], out: Path, shown: Sequence[Path]) -> str:
    count = summary["images"]
    rows = [
        (f"distilled, {count} images ({summary['method'].upper()})", summary["accuracy_distilled"]),
        (f"random real, {count} images", summary["accuracy_random_real"]),
        (f"all real data, {summary['training_images']} images", summary["accuracy_full_data"]),
        ("the experts themselves", summary["accuracy_experts"]),
    ]
    lines = [f"{'trained on':<34} {'test accuracy':>15}  networks"]
    lines += [
        f"{name:<34} {100 * found['mean']:>6.1f} ± {100 * found['std']:>4.1f} %  {len(found['runs']):>8}"
        for name, found in rows
    ]
    told = ", ".join(f"{name} {value:.0f} s" for name, value in summary["seconds"].items())
    look = [f"to look at: {', '.join(map(str, shown))}"] if shown else []
    return "\n".join([*lines, "", told, *look, f"everything else: {out}/"])
