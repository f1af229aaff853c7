"""Run a published distillation command, from its flags to its files."""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from dataclasses import replace

import torch

from pydistill import data
from pydistill._util.layout import BEST_NAME
from pydistill.artefact.file import Artefact
from pydistill.cli.errors import note, print_result
from pydistill.compat.command import run_command
from pydistill.compat.config import with_config
from pydistill.compat.datasets import buffer_folder
from pydistill.compat.experts import fraction_rule, import_experts
from pydistill.compat.files import RUN, Naming, ScriptFiles, log_folder
from pydistill.compat.flags import Script, distill_parser
from pydistill.compat.recipe import recipe_of
from pydistill.evaluation.evaluate import evaluate_networks, table
from pydistill.nn import parse
from pydistill.recipes.recipe import Recipe
from pydistill.runs.comparison import distilled_name
from pydistill.runs.folder import RunFolder
from pydistill.runs.workflow import distill_and_report
from pydistill.trajectories import TrajectoryStore


def main(script: Script, arguments: Sequence[str] | None = None) -> int:
    """Run the distillation described by `arguments`, by default the process's; return the exit status."""
    return run_command(lambda words: distil(script, words), arguments)


def distil(script: Script, arguments: Sequence[str]) -> None:
    """Run the distillation described by the flags of a published script.

    Raises:
        InputError: a flag is wrong, not supported, or needs later epochs than the buffers have.
        MismatchError: the buffers hold experts of another network or image size.
        PydistillError: as `distill_and_report`.
    """
    parser = distill_parser(script)
    values = parser.parse(with_config(parser, arguments) if script == "datm" else arguments)
    recipe, notes = recipe_of(values, script)
    folder = log_folder(values, script)
    for line in notes:
        note(line)
    dataset = data.load(recipe.data, device=None)
    store = import_experts(values, script, buffer_folder(values, script), dataset, recipe.model)
    recipe = _with_experts(recipe, store, values)
    run = RunFolder(folder / RUN)
    classes = torch.arange(dataset.num_classes).repeat_interleave(recipe.distill.ipc)
    files = ScriptFiles(
        Naming.of(script, folder, recipe.distill.ipc),
        run,
        classes,
        dataset.preprocessing,
        soft=recipe.distill.resolved_method.labels != "hard",
        invert=recipe.distill.ipc < 50 or values.force_save,
        raw=Naming(folder, inverted=None) if script in ("att", "ftd") else None,
    )
    result = distill_and_report(
        dataset, recipe, store, run.path, resume=values.resume, quiet=values.quiet, callbacks=[files]
    )
    lines = [f"best accuracy: {result.accuracy_best.text}, after {result.best_iteration} iterations"]
    if recipe.evaluation.models:
        artefact = Artefact.load(run.path / BEST_NAME)
        networks = [parse(name) for name in recipe.evaluation.models]
        rows = evaluate_networks(artefact.images, artefact.labels, artefact.lr, dataset, networks, recipe.evaluation)
        lines.append(table([(distilled_name(artefact), row) for row in rows]))
    print_result("\n".join([*lines, f"the sets are in {folder}, the run in {run.path}"]))


def _with_experts(recipe: Recipe, store: TrajectoryStore, values: argparse.Namespace) -> Recipe:
    """Complete the recipe from the buffers: number of experts, their epochs and, for MCT, the convexification."""
    training = replace(recipe.expert.training, epochs=store.record.epochs)
    recipe = replace(recipe, expert=replace(recipe.expert, count=len(store), training=training))
    if recipe.distill.method != "mct" or store.kind != "recorded":
        return recipe
    return replace(
        recipe,
        distill=replace(recipe.distill, waypoints=values.num_interpolation, fractions=fraction_rule(values)),
    )
