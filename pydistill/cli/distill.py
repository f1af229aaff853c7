"""`pydistill distill`: distil a data set from stored experts."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

from pydistill.cli.arguments import (
    RECIPE_USAGE,
    Output,
    add_device,
    add_quiet,
    add_recipe,
    device_of,
    diagnosis,
    path,
    recipe_of,
)

if TYPE_CHECKING:
    from pydistill.evaluation.evaluate import Evaluation

ABOUT = "Distil a data set, from stored experts or with its own."
USAGE = f"[DATA] [--ipc N] {RECIPE_USAGE} [--experts EXPERTS] [--out RUN] [--resume]"
EXAMPLES = """
  pydistill distill photos --ipc 1      # train/<class>/*, test/<class>/*: experts, distillation, evaluation, report
  pydistill distill --preset demo/digits-att --experts experts --out runs/first
  pydistill distill --config runs/first/recipe.json --experts experts --out runs/first --resume
"""


def add_arguments(parser: Any) -> None:
    """Add the recipe, the folders, the device and the logs."""
    from pydistill.runs.loggers import LogSettings

    about = "your folder or archive of images, or .npz file"
    parser.add_argument("place", type=path, nargs="?", metavar="DATA", help=about)
    parser.add_argument("--ipc", type=int, help="images per class, as --distill.ipc")
    add_recipe(parser)
    about = "folder of experts (default: train them, into RUN/experts)"
    parser.add_argument("--experts", type=path, help=about)
    parser.add_argument("--out", type=path, help="run folder (default: named after data and method)")
    add_device(parser)
    parser.add_argument("--resume", action="store_true", help="continue the run in the folder if there is one")
    parser.add_settings("log", "loggers in addition to metrics.jsonl: TensorBoard, wandb", LogSettings())
    add_quiet(parser)


def run(values: Any) -> Output:
    """Distil and evaluate; returns the accuracies."""
    from pydistill import data
    from pydistill._util.files import read_json
    from pydistill._util.format import counted
    from pydistill._util.layout import EXPERTS_NAME, SUMMARY_NAME, holds_experts, refuse_experts
    from pydistill._util.settings import from_dict, in_group
    from pydistill.errors import InputError, Name
    from pydistill.evaluation.baselines import read_baselines
    from pydistill.evaluation.evaluate import records, table
    from pydistill.recipes.keywords import quick_preset
    from pydistill.runs.comparison import distilled_name
    from pydistill.runs.diagnosis import findings_in
    from pydistill.runs.folder import RunFolder
    from pydistill.runs.loggers import LogSettings
    from pydistill.runs.preflight import check_recipe_and_experts
    from pydistill.runs.workflow import distill_and_report, experts_for, run_folder_for
    from pydistill.trajectories import TrajectoryStore

    recipe = recipe_of(values)
    settings = {name.removeprefix("log."): value for name, value in values.settings if name.startswith("log.")}
    with in_group("log"):
        log = from_dict(LogSettings, settings)
    store = None if values.experts is None else TrajectoryStore.open(values.experts)
    own = Path(values.out or ".") / EXPERTS_NAME
    if store is None and values.place is None and not holds_experts(own):  # to train a preset's may take days
        remedy = " and their folder, or name your data, as in pydistill distill DATA, to train them first"
        raise InputError("distill needs experts: add ", Name("experts"), remedy)
    check_recipe_and_experts(recipe, experts=store)
    if values.out is not None:
        refuse_experts(Path(values.out))
        if not values.resume:
            RunFolder(values.out).check_free()
    dataset = data.load(recipe.data, device_of(values.device))
    recipe = recipe_of(values, quick=quick_preset(dataset))
    out = run_folder_for(dataset, recipe) if values.out is None else Path(values.out)
    if store is None:
        store = experts_for(dataset, recipe, out, resume=values.resume, quiet=values.quiet)
    result = distill_and_report(
        dataset,
        recipe,
        store,
        out,
        resume=values.resume,
        quiet=values.quiet,
        log=log,
    )
    folder, final, best = result.folder.path, result.accuracy_final, result.accuracy_best
    done, best_done = (counted(number, "iteration") for number in (recipe.distill.iterations, result.best_iteration))
    text = (
        f"final accuracy: {_percent(final)}, after {done}\n"
        f"best accuracy:  {_percent(best)}, after {best_done} (chosen by test accuracy)\n"
        f"stored: {counted(len(result.final.images), 'image')} in {result.final.storage}\n"
        f"the set and summary.json are in {folder}"
    )
    baselines = read_baselines(folder)
    if recipe.evaluation.baselines:
        text += f"\n\n{table([(distilled_name(result.final), final), *baselines])}"
    summary = {"folder": folder} | read_json(folder / SUMMARY_NAME)
    text += diagnosis(findings_in(summary))
    return Output(summary | {"baselines": records(baselines)}, text)


def _percent(evaluation: Evaluation) -> str:
    from pydistill._util.format import networks

    return f"{evaluation.text} ({networks(len(evaluation.accuracies))})"
