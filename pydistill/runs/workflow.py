"""What the commands do, with progress shown: shared by the command line and the demo."""

from __future__ import annotations

import logging
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch

from pydistill._util.files import read_json, write_json
from pydistill._util.format import first_line
from pydistill._util.layout import CURVES_NAME, IMAGES_NAME, REPORT_NAME, SUMMARY_NAME
from pydistill._util.memory import peak_resident
from pydistill._util.progress import Bar
from pydistill.artefact.figures import check_matplotlib
from pydistill.data import Dataset
from pydistill.errors import FormatError, MissingDependencyError
from pydistill.evaluation.evaluate import accuracy_record
from pydistill.nn import Network
from pydistill.recipes.recipe import Recipe
from pydistill.runs.callbacks import CallbackList, ProgressBar
from pydistill.runs.evaluation import RunCallback
from pydistill.runs.folder import RunFolder
from pydistill.runs.loggers import LogCallback, LogSettings
from pydistill.runs.report import draw_run, write_report
from pydistill.runs.run import RunDivergedError, RunResult, run_distillation
from pydistill.training.experts import train_experts
from pydistill.trajectories import TrajectoryStore

_log = logging.getLogger("pydistill")


def train_and_store(
    dataset: Dataset, recipe: Recipe, out: Path, *, quiet: bool, network: Network | None = None
) -> TrajectoryStore:
    """Train the recipe's experts into `out`, with a bar over all their epochs.

    Args:
        network: a factory instead of the recipe's model, as in `run_distillation`.
    """
    settings = recipe.expert
    with Bar("experts' epochs", settings.count * settings.training.epochs, quiet=quiet) as bar:

        def on_progress(expert: int, epoch: int, loss: float, train: float, test: float) -> None:
            bar.step(expert=f"{expert + 1}/{settings.count}", loss=f"{loss:.3f}", test=f"{100 * test:.1f}%")

        return train_experts(dataset, network or recipe.model, settings, out, on_progress=on_progress)


def distill_and_report(
    dataset: Dataset,
    recipe: Recipe,
    store: TrajectoryStore,
    out: Path,
    *,
    resume: bool,
    quiet: bool,
    log: LogSettings | None = None,
    observers: Sequence[RunCallback] = (),
    network: Network | None = None,
) -> RunResult:
    """Distil with a bar and logs, then write summary.json, the pictures and the report into the run folder.

    Pictures and report are no result: what cannot be made of them is told, and the run is what it is without.

    Args:
        observers: who else looks on.
        network: a factory instead of the recipe's model, as in `run_distillation`.

    Raises:
        PydistillError: as `run_distillation`.
    """
    logs = LogCallback(log or LogSettings(), out, recipe, dataset.preprocessing, dataset.num_classes)
    try:
        check_matplotlib()
    except MissingDependencyError as error:
        _log.warning("%s; the run goes on without %s and %s", error, IMAGES_NAME, CURVES_NAME)
    folder = RunFolder(out)
    done = int(folder.checkpoint_state()["distiller"]["iteration"]) if resume and folder.checkpoint_path.exists() else 0
    with Bar("distilling", recipe.distill.iterations, done=done, quiet=quiet) as bar:
        try:
            observer = CallbackList(ProgressBar(bar), logs, *observers)
            result = run_distillation(recipe, dataset, store, out, network=network, resume=resume, observer=observer)
        except RunDivergedError as error:
            with _only_told(SUMMARY_NAME):
                _write_summary(out / SUMMARY_NAME, run_summary(recipe, error.result), resume=resume)
            show_run(folder)
            raise
        finally:
            logs.close()
    _write_summary(out / SUMMARY_NAME, run_summary(recipe, result), resume=resume)
    show_run(folder)
    return result


def show_run(folder: RunFolder) -> list[Path]:
    """Write report.html, images.png and curves.png of a run into its folder; returns those that there are now.

    What cannot be made is told as a warning.
    """
    made: list[Path] = []
    with _only_told(REPORT_NAME):
        made.append(write_report(folder.path))
    with _only_told("a picture"):
        made += draw_run(folder.path)
    return made


@contextmanager
def _only_told(name: str) -> Iterator[None]:
    """Let a failure of the body be a warning that this file is not written."""
    try:
        yield
    except Exception as error:  # drawing calls other packages: whatever it is, what was computed is whole
        _log.warning("%s is not written (%s); the run is whole without", name, first_line(error))


def run_summary(recipe: Recipe, result: RunResult) -> dict[str, Any]:
    """The outcome of a run as JSON-able values; accuracies in [0, 1], times in seconds, memory in bytes."""
    lines = result.folder.metrics()
    iterations = [line for line in lines if line["event"] == "iteration"]
    losses = [line["loss"] for line in iterations if line["loss"] is not None]
    # Single matching losses scatter with the segment drawn, so first and last are means over a twentieth of the run.
    window = max(1, len(losses) // 20)
    return {
        "method": recipe.distill.method,
        "seed": recipe.distill.seed,
        "iterations": result.iterations,
        "iterations_without_metrics": result.iterations - len({line["iteration"] for line in iterations}),
        "rejected_updates": sum(line["event"] == "guard" and line["what"] != "skipped" for line in lines),
        "seconds": result.seconds,
        "accuracy_final": accuracy_record(result.accuracy_final.accuracies),
        "accuracy_best": accuracy_record(result.accuracy_best.accuracies) | {"iteration": result.best_iteration},
        "loss_first": sum(losses[:window]) / window if losses else None,
        "loss_last": sum(losses[-window:]) / window if losses else None,
        "chosen_steps": [line["step"] for line in iterations],
        "lr": result.final.lr,
        "ended_early": result.ended_early,
        "threads": result.threads,
        "peak_memory_bytes": peak_resident(),
        "peak_device_memory_bytes": torch.cuda.max_memory_allocated() if torch.cuda.is_available() else None,
    }


def _write_summary(file: Path, summary: dict[str, Any], *, resume: bool) -> None:
    """Write a run's summary; of a run that was continued, with what only the demo that began it wrote into its own."""
    before = _earlier_summary(file) if resume else {}
    write_json(file, _with_what_a_demo_wrote(before, summary))


def _earlier_summary(file: Path) -> dict[str, Any]:
    """The summary that is there; none of a damaged one, which is told: the result does not hang on it."""
    if not file.exists():
        return {}
    try:
        found = read_json(file)
    except FormatError as error:
        told = str(error)
    else:
        if isinstance(found, dict):
            return found
        told = f"{file} is damaged: it holds no JSON object"
    _log.warning("%s; it is written anew, without what a demo may have written into it", told)
    return {}


def _with_what_a_demo_wrote(before: dict[str, Any], summary: dict[str, Any]) -> dict[str, Any]:
    """The summary, with what only a demo wrote into the one `before`."""
    merged = before | summary
    if "accuracy_distilled" in before:
        merged["accuracy_distilled"] = summary["accuracy_final"]
    if isinstance(before.get("seconds"), dict):  # by phase
        phases = {name: value for name, value in before["seconds"].items() if name != "total"}
        phases["distillation"] = summary["seconds"]
        if "total" in before["seconds"]:
            phases["total"] = sum(phases.values())
        merged["seconds"] = phases
    return merged
