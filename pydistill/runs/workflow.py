"""Workflows with a progress bar and a report, shared by the command line and the demo."""

from __future__ import annotations

import logging
import re
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch

from pydistill._util.files import write_json
from pydistill._util.format import first_line
from pydistill._util.layout import CURVES_NAME, EXPERTS_NAME, IMAGES_NAME, REPORT_NAME, SUMMARY_NAME, refuse_experts
from pydistill._util.locking import results_writer
from pydistill._util.memory import peak_resident
from pydistill._util.progress import Bar
from pydistill.data import Dataset
from pydistill.errors import Interrupted, Name
from pydistill.evaluation.baselines import read_baselines
from pydistill.evaluation.evaluate import accuracy_record
from pydistill.nn import Network, name_of
from pydistill.recipes.recipe import Recipe
from pydistill.runs.callbacks import ProgressBar, RunCallback
from pydistill.runs.comparison import baselines_of, experts_row
from pydistill.runs.diagnosis import Finding, chance_of, diagnose_experts, diagnose_run
from pydistill.runs.folder import RunFolder
from pydistill.runs.loggers import LogSettings, make_loggers
from pydistill.runs.preflight import check_recipe_and_experts
from pydistill.runs.report import draw_run, write_report
from pydistill.runs.run import RunDivergedError, RunResult, run_distillation, with_data_of
from pydistill.training.experts import check_disk, train_experts
from pydistill.trajectories import TrajectoryStore

_log = logging.getLogger("pydistill")


def train_and_store(
    dataset: Dataset, recipe: Recipe, out: Path, *, quiet: bool, network: Network | None = None
) -> TrajectoryStore:
    """Train the recipe's experts into `out`, with a bar over all their epochs.

    Args:
        network: a factory instead of the recipe's model, as in `run_distillation`.

    Raises:
        WriteError: the disk cannot hold the experts.
        PydistillError: as `pydistill.training.experts.train_experts`.
    """
    network, settings = network or recipe.model, recipe.expert
    check_disk(dataset, network, settings, out, "make room there, lower count or epochs, or choose another folder")
    with Bar("experts' epochs", settings.count * settings.training.epochs, quiet=quiet) as bar:

        def on_progress(expert: int, epoch: int, loss: float, train: float, test: float) -> None:
            bar.step(expert=f"{expert + 1}/{settings.count}", loss=f"{loss:.3f}", test=f"{100 * test:.1f}%")

        return train_experts(dataset, network, settings, out, on_progress=on_progress)


def run_folder_for(dataset: Dataset, recipe: Recipe) -> Path:
    """Name a run folder in the working directory, after the data, the method and the images per class."""
    title = re.sub(r"[^\w.-]+", "-", dataset.name).strip("-.") or "run"
    return Path(f"{title}-{recipe.distill.method}-ipc{recipe.distill.ipc}")


def experts_for(
    dataset: Dataset, recipe: Recipe, out: Path, *, resume: bool, quiet: bool, network: Network | None = None
) -> TrajectoryStore:
    """Train the experts of one run into `out`/experts, unless they are there; the run is checked before.

    Raises:
        InputError: the settings do not fit together, or `out` holds a run and `resume` is false.
        PydistillError: as `train_and_store`.
    """
    check_recipe_and_experts(recipe, network=network)
    refuse_experts(out)
    if not resume:
        RunFolder(out).check_free()
    return train_and_store(dataset, recipe, out / EXPERTS_NAME, quiet=quiet, network=network)


def distill_and_report(
    dataset: Dataset,
    recipe: Recipe,
    store: TrajectoryStore,
    out: Path,
    *,
    resume: bool,
    quiet: bool,
    network: Network | None = None,
    log: LogSettings | None = None,
    callbacks: Sequence[RunCallback] = (),
) -> RunResult:
    """Distil with a progress bar and loggers, evaluate the baselines, and write the run's results into its folder.

    The results are summary.json, baselines.json, the pictures and the report. Baselines that are in the folder already,
    of equal settings, are not evaluated again.

    A failure of the pictures or the report is logged as a warning and does not fail the run.

    Args:
        network: a factory instead of the recipe's model, as in `run_distillation`.
        callbacks: further callbacks of the run.

    Raises:
        PydistillError: as `run_distillation`.
        WriteError: summary.json or baselines.json cannot be written.
        Interrupted: Ctrl-C, also while baselines are evaluated.
    """
    recipe = with_data_of(recipe, dataset)
    loggers = make_loggers(log or LogSettings(), out, recipe, dataset)
    folder = RunFolder(out)
    done = folder.checkpoint_header()["distiller"]["iteration"] if resume and folder.checkpoint_path.exists() else 0
    with Bar("distilling", recipe.distill.iterations, done=done, quiet=quiet) as bar:
        all_callbacks = (ProgressBar(bar), *loggers, *callbacks)
        try:
            result = run_distillation(
                recipe, dataset, store, out, network=network, resume=resume, callbacks=all_callbacks
            )
        except RunDivergedError as error:
            _write_summary(recipe, error.result, dataset, store)
            show_run(error.result.folder)
            raise
    _write_summary(recipe, result, dataset, store)
    try:
        _compare(recipe, dataset, store, result, network or recipe.model, quiet)
        _write_summary(recipe, result, dataset, store)
    finally:
        show_run(folder)
    return result


def findings_of(recipe: Recipe, result: RunResult, dataset: Dataset, store: TrajectoryStore) -> list[Finding]:
    """Diagnose a run and its experts, with the baselines that are in its folder."""
    folder, final = result.folder, result.final
    baselines = read_baselines(folder.path)
    found = diagnose_run(recipe, folder.metrics(), len(final.images), result.accuracy_final, baselines)
    return found + diagnose_experts(store, chance_of(dataset))


def _write_summary(recipe: Recipe, result: RunResult, dataset: Dataset, store: TrajectoryStore) -> None:
    findings = findings_of(recipe, result, dataset, store)
    summary = run_summary(recipe, result) | {"findings": [asdict(finding) for finding in findings]}
    with results_writer(result.folder.path):
        write_json(result.folder.path / SUMMARY_NAME, summary)


def _compare(
    recipe: Recipe, dataset: Dataset, store: TrajectoryStore, result: RunResult, network: Network, quiet: bool
) -> None:
    """Evaluate the run's baselines and add them and the experts to baselines.json."""
    try:
        baselines_of(result.final, dataset, [network], recipe.evaluation, run=result.folder.path, quiet=quiet)
    except KeyboardInterrupt as error:
        raise Interrupted(
            "stopped; the run is complete but for its baselines: add ", Name("resume"), " to evaluate them"
        ) from error
    experts_row(store, name_of(network), result.folder.path)


def show_run(folder: RunFolder) -> list[Path]:
    """Write report.html, images.png and curves.png of a run into its folder; returns those that were written.

    A failure is logged as a warning.
    """
    written: list[Path] = []
    with _failure_logged(REPORT_NAME):
        written.append(write_report(folder.path))
    with _failure_logged(f"{IMAGES_NAME} or {CURVES_NAME}"):
        written += draw_run(folder.path)
    return written


@contextmanager
def _failure_logged(name: str) -> Iterator[None]:
    """Log any failure of the body as a warning that the file is not written."""
    try:
        yield
    except Exception as error:  # drawing uses other packages, and no error of theirs may fail a finished run
        _log.warning("%s is not written (%s); the run's results are complete", name, first_line(error))


def run_summary(recipe: Recipe, result: RunResult) -> dict[str, Any]:
    """Return the outcome of a run as JSON-able values; accuracies in [0, 1], times in seconds, memory in bytes."""
    lines = result.folder.metrics()
    iterations = [line for line in lines if line["event"] == "iteration"]
    losses = [line["loss"] for line in iterations if line["loss"] is not None]
    on_gpu = result.device.type == "cuda"
    # Single matching losses scatter with the segment drawn, so first and last are means over a twentieth of the run.
    window = max(1, len(losses) // 20)
    return {
        "method": recipe.distill.method,
        "seed": recipe.distill.seed,
        "iterations": result.iterations,
        "rejected_updates": sum(line["event"] == "guard" and line["what"] != "skipped" for line in lines),
        "seconds": result.seconds,
        "accuracy_final": accuracy_record(result.accuracy_final.accuracies),
        "accuracy_best": accuracy_record(result.accuracy_best.accuracies) | {"iteration": result.best_iteration},
        "loss_first": sum(losses[:window]) / window if losses else None,
        "loss_last": sum(losses[-window:]) / window if losses else None,
        "chosen_steps": [line["step"] for line in iterations],
        "lr": result.final.lr,
        "images": len(result.final.images),
        "storage": asdict(result.final.storage),
        "ended_early": result.ended_early,
        "threads": None if on_gpu else torch.get_num_threads(),
        "peak_memory_bytes": peak_resident(),
        "peak_device_memory_bytes": torch.cuda.max_memory_allocated(result.device) if on_gpu else None,
    }
