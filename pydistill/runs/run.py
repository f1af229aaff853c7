"""One distillation from recipe to run folder: checks, iterations, evaluations, checkpoints, artefact."""

from __future__ import annotations

import json
import logging
import shutil
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

from torch import Tensor, nn

from pydistill._util.files import write_json
from pydistill._util.interrupt import stopping_cleanly
from pydistill._util.layout import CONVEXIFIED_NAME
from pydistill.data import Dataset
from pydistill.distillation.distiller import Distiller
from pydistill.distillation.settings import DistillSettings
from pydistill.errors import FormatError, InputError, MismatchError
from pydistill.nn import Network, architecture_of, build, unflatten
from pydistill.recipes.recipe import Recipe
from pydistill.runs.evaluation import NoCallback, PeriodicEvaluator, RunCallback
from pydistill.runs.folder import RunFolder
from pydistill.runs.loop import RunDivergedError, RunLoop, RunResult
from pydistill.training.experts import experts_record
from pydistill.trajectories import ExpertsRecord, StartSampler, TrajectoryStore, waypoint_epochs

__all__ = ["NoCallback", "RunCallback", "RunDivergedError", "RunResult", "run_distillation", "trajectories_for"]

_log = logging.getLogger("pydistill")

# What may change between the beginning of a run and its continuation without changing what was computed so far.
FREE_ON_RESUME = (
    "distill.iterations",
    "distill.checkpoint_every",
    "distill.backend",
    "distill.max_rejections",
    "distill.rejection_window",
    "data.path",
    "data.cache",
    "data.download",
    "data.pixels",
    "evaluation.at_once",
    "trajectories.by_recipe",
)
# Settings that came later than the first runs, which did as these settings' defaults do and do not name them.
LATER_SETTINGS = (
    "experts_per_step",
    "lr_form",
    "lr_min",
    "clip_gradient",
    "skip_loss_above",
    "snapshot_every",
    "rejection_window",
)
# Limits that came later too, but are not those of the first runs, which had none.
LATER_LIMITS = ("max_pixel", "max_lr")


def trajectories_for(recipe: Recipe, store: TrajectoryStore, folder: Path) -> TrajectoryStore:
    """The store that the method works on: the given one, or its experts convexified into `folder`/convexified.

    Raises:
        InputError: the recipe's starts reach beyond the trajectories; nothing is written then.
        MismatchError: the experts are convexified already, and otherwise than the recipe asks for; or the folder holds
            others than those of the store.
    """
    if recipe.distill.resolved_method().trajectories == "recorded":
        return store  # the distillation itself refuses convexified ones
    check_convexification(recipe, store)
    if store.kind == "recorded":
        # The distillation itself checks this too, but only when there are convexified experts.
        StartSampler(recipe.distill.start_settings()).check_reach(store.end, recipe.distill.expert_epochs)
        return store.write_convexified(folder / CONVEXIFIED_NAME, **_asked(recipe))
    return store


def check_convexification(recipe: Recipe, store: TrajectoryStore) -> None:
    """Refuse convexified experts for a method that works on such, if they are not those that the recipe asks for.

    Raises:
        MismatchError: they are convexified otherwise.
    """
    asked = _asked(recipe)
    if store.kind == "recorded":
        return
    if recipe.distill.waypoints is not None:
        asked["waypoints"] = list(waypoint_epochs(store.record.epochs, recipe.distill.waypoints))
    for name, value in asked.items():
        found = store.convexification[name]
        if found != value:
            raise MismatchError(
                f"the experts are convexified with {name} = {found} and this run asks for {value}; "
                f"drop distill.{name}, or convexify the recorded experts again"
            )


def _say_what_has_no_effect(recipe: Recipe) -> None:
    """Warn of settings of convexification in a run on recorded experts."""
    if recipe.distill.resolved_method().trajectories == "recorded" and (asked := _asked(recipe)):
        names = ", ".join(f"distill.{name}" for name in asked)
        _log.warning(
            "%s: of no effect, since %s works on recorded experts, and convexified ones alone have it",
            names,
            recipe.distill.method,
        )


def _asked(recipe: Recipe) -> dict[str, Any]:
    """How the recipe wants experts convexified; what it leaves open is not in it."""
    names = ("waypoints", "smoothing", "fractions")
    return {name: value for name in names if (value := getattr(recipe.distill, name)) is not None}


def run_distillation(
    recipe: Recipe,
    dataset: Dataset,
    store: TrajectoryStore,
    out: str | Path,
    *,
    network: Network | None = None,
    resume: bool = False,
    observer: RunCallback | None = None,
) -> RunResult:
    """Distil `dataset` by the recipe from the experts of `store` into the run folder `out`.

    The folder holds recipe.json (which `--config` reads again), config.json, metrics.jsonl, checkpoint.safetensors,
    distilled.safetensors (the last iteration's set) and best.safetensors (the set of the best evaluation). A run that
    was stopped at any moment and is continued with `resume` gives the same images, bit for bit on the CPU with the same
    number of threads, as one that was not.

    Args:
        network: a factory (in_channels, num_classes, image_size) → module, instead of the recipe's model; the run
            folder knows it by its name, not its code.

    Raises:
        MismatchError: experts of another architecture, data set, preprocessing or image size; a run of other settings.
        InputError: settings outside their limits; a run already in the folder and `resume` false; fewer iterations than
            the run has done; a folder of experts, or one that another process is writing. Nothing is written then.
        FormatError: the checkpoint, the metrics or the best set of the run to continue is damaged.
        RunDivergedError: too many updates had to be rejected. distilled.safetensors then is the set of the best
            evaluation, or, if there has been none, the last good set, evaluated.
        OutOfMemoryError: a student step does not fit into memory.
        WriteError: the folder cannot be written or the disk is full; the last checkpoint is whole.
        Interrupted: Ctrl-C; the state is saved.
    """
    began = time.perf_counter()
    observer = observer or NoCallback()
    network = network or recipe.model
    recipe.distill.check()
    _say_what_has_no_effect(recipe)
    _check_experts(store, experts_record(dataset, network, recipe.expert))
    architecture = architecture_of(network, *dataset.sizes, device=dataset.device)
    folder = RunFolder(out)
    with folder.opened():
        if resume and folder.begun:
            recipe = _with_its_limits(recipe, folder)
        config = _config(recipe, store, architecture)
        checkpoint = None
        if folder.continues(config, resume=resume, free=FREE_ON_RESUME):
            checkpoint = folder.load_checkpoint()
            _check_iterations(checkpoint[0], recipe.distill.iterations, folder)
        with _removed_if_refused(folder.path / CONVEXIFIED_NAME):
            store = trajectories_for(recipe, store, folder.path)
            student = build(network, *dataset.sizes, seed=0)
            student.to(dataset.device)
            teachers = () if recipe.distill.resolved_method().labels == "hard" else _teachers(network, dataset, store)
            distiller = Distiller(recipe.distill, dataset, store, student, teachers=teachers)
        judge = PeriodicEvaluator(recipe, network, dataset, distiller, folder, observer)
        if checkpoint is not None:
            began -= _load(checkpoint, distiller, judge, folder)
            judge.take_saved_best()
            size = checkpoint[0].get("metrics_bytes")
            folder.rewind_metrics(distiller.iteration, size if isinstance(size, int) and size >= 0 else None)
        else:
            folder.begin_anew(resume=resume)
        folder.write_config(config)
        write_json(folder.recipe_path, recipe.as_dict())
        loop = RunLoop(recipe, distiller, judge, folder, observer, began)
        with stopping_cleanly() as stop:
            return loop.finish(stop)


@contextmanager
def _removed_if_refused(made: Path) -> Iterator[None]:
    """Where the body refuses what it was given, the folder `made` that it has made goes: a refused run leaves nothing.

    What was there before stays, and so does what a run that was stopped or fails otherwise can go on from.
    """
    there = made.exists()
    try:
        yield
    except (InputError, MismatchError):
        if not there and made.exists():
            shutil.rmtree(made)
        raise


def _with_its_limits(recipe: Recipe, folder: RunFolder) -> Recipe:
    """The recipe that continues a run: limits that it began without are none, unless they are asked for."""
    begun = folder.config()
    none: dict[str, Any] = {
        name: None
        for name in LATER_LIMITS
        if begun.get(f"distill.{name}") is None and getattr(recipe.distill, name) == getattr(DistillSettings, name)
    }
    return replace(recipe, distill=replace(recipe.distill, **none))


def _config(recipe: Recipe, store: TrajectoryStore, architecture: str) -> dict[str, Any]:
    """What a run must agree with to be continued."""
    training = json.loads(json.dumps({**asdict(recipe.expert.training), "seed": recipe.expert.seed}))
    trajectories = {
        "kind": store.kind,
        "experts": list(store.experts),
        "digest": store.digest,
        "convexification": store.convexification,
        # What no result depends on, but how to make them again does.
        "by_recipe": store.record.training == training,
    }
    config = recipe.as_dict() | {"trajectories": trajectories, "architecture": architecture}
    if recipe.distill.resolved_method().growing:  # its default follows from the iterations, which may change on resume
        config["distill"]["grow_iterations"] = recipe.distill.start_settings().grow_iterations
    for name in LATER_SETTINGS:
        if config["distill"][name] == getattr(DistillSettings, name):
            del config["distill"][name]
    if config["data"]["statistics"] == "measured":
        del config["data"]["statistics"]
    return config


def _check_iterations(state: dict[str, Any], iterations: int, folder: RunFolder) -> None:
    done = state["distiller"]["iteration"]
    if done > iterations:
        raise InputError(
            f"the run in {folder.path} has done {done} iterations and {iterations} are asked for; "
            f"ask for at least {done} to continue it, or choose another folder"
        )


def _damaged(folder: RunFolder, error: Exception) -> FormatError:
    told = f"it lacks {error}" if isinstance(error, KeyError) else " ".join(str(error).split())
    return FormatError(f"checkpoint {folder.checkpoint_path} is damaged ({told}); remove it to begin the run anew")


def _load(
    checkpoint: tuple[dict[str, Any], dict[str, Tensor]],
    distiller: Distiller,
    judge: PeriodicEvaluator,
    folder: RunFolder,
) -> float:
    """Continue from a checkpoint; returns the seconds that the run had taken."""
    state, tensors = checkpoint
    try:
        distiller.load_state(state["distiller"], tensors)
        judge.load_state(state["judge"])
        return float(state["seconds"])
    except (KeyError, TypeError, IndexError, AttributeError, OverflowError, FormatError) as error:
        raise _damaged(folder, error) from error
    except ValueError as error:
        if isinstance(error, MismatchError):
            raise
        raise _damaged(folder, error) from error


def _check_experts(store: TrajectoryStore, expected: ExpertsRecord) -> None:
    try:
        store.record.check(expected)
    except MismatchError as error:
        raise MismatchError(f"{error}; give the data and the model that the experts were trained with") from error


def _teachers(network: Network, dataset: Dataset, store: TrajectoryStore) -> Iterator[nn.Module]:
    """The experts' final networks, one at a time."""
    for trajectory in store:
        teacher = build(network, *dataset.sizes, seed=0)
        unflatten(teacher, trajectory.point(trajectory.end))
        yield teacher.to(dataset.device).eval()
