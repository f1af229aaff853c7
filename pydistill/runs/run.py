"""One distillation from recipe to run folder: checks, iterations, evaluations, checkpoints, artefact."""

from __future__ import annotations

import json
import logging
import time
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from torch import nn

from pydistill._util.files import write_json
from pydistill._util.interrupt import stopping_cleanly
from pydistill._util.layout import BEST_NAME, CONVEXIFIED_NAME
from pydistill._util.settings import in_group
from pydistill.data import Dataset, DataSettings, Zca
from pydistill.distillation.distiller import Distiller
from pydistill.errors import FormatError, InputError, MismatchError
from pydistill.nn import Network, architecture_of, build, unflatten
from pydistill.recipes.recipe import Recipe
from pydistill.runs.callbacks import RunCallback
from pydistill.runs.evaluation import PeriodicEvaluator
from pydistill.runs.folder import RESTORE, Checkpoint, RunFolder
from pydistill.runs.loop import RunDivergedError, RunLoop, RunResult
from pydistill.runs.preflight import check_run, convexification
from pydistill.runs.starting_set import starting_set
from pydistill.training.experts import experts_record
from pydistill.trajectories import ExpertsRecord, TrajectoryStore
from pydistill.trajectories.record import same_training

__all__ = ["RunCallback", "RunDivergedError", "RunResult", "run_distillation", "trajectories_for"]

_log = logging.getLogger("pydistill")

# Settings that may differ when a run is resumed: they do not change what has been computed so far.
FREE_ON_RESUME = (
    "distill.iterations",
    "distill.checkpoint_every",
    "distill.backend",
    "distill.max_rejections",
    "distill.rejection_window",
    "distill.start_from",
    "data.path",
    "data.cache",
    "data.download",
    "data.pixels",
    "evaluation.at_once",
    "evaluation.baselines",
    "evaluation.full_epochs",
    "evaluation.full_batch_size",
    "evaluation.full_lr",
    "trajectories.by_recipe",
)


def with_data_of(recipe: Recipe, dataset: Dataset) -> Recipe:
    """Return the recipe with the settings that load the data set; of one in memory, `tensors` without a path."""
    in_memory = DataSettings("tensors", zca=isinstance(dataset.preprocessing, Zca))
    return replace(recipe, data=dataset.settings or in_memory)


def _with_absolute_start(recipe: Recipe) -> Recipe:
    """Return the recipe with a path of the starting set that holds in any working directory."""
    path = recipe.distill.start_from
    if path is None:
        return recipe
    return replace(recipe, distill=replace(recipe.distill, start_from=str(Path(path).expanduser().absolute())))


def trajectories_for(recipe: Recipe, store: TrajectoryStore, folder: Path) -> TrajectoryStore:
    """Return the trajectories that the method uses: `store`, or its experts convexified into `folder`/convexified.

    Raises:
        MismatchError: the folder holds experts that the store does not.
    """
    if recipe.distill.resolved_method.trajectories == "recorded" or store.kind == "convexified":
        return store
    return store.write_convexified(folder / CONVEXIFIED_NAME, **convexification(recipe))


def run_distillation(
    recipe: Recipe,
    dataset: Dataset,
    store: TrajectoryStore,
    out: str | Path,
    *,
    network: Network | None = None,
    resume: bool = False,
    callbacks: Sequence[RunCallback] = (),
) -> RunResult:
    """Distil `dataset` by the recipe from the experts of `store` into the run folder `out`.

    The folder holds recipe.json, config.json, metrics.jsonl, checkpoint.safetensors, distilled.safetensors (the last
    iteration's set) and best.safetensors (the set of the best evaluation). A run that was stopped at any moment and is
    continued with `resume` gives the same images, bit for bit on the CPU with the same number of threads, as one that
    was not.

    Args:
        network: a factory (in_channels, num_classes, image_size) → module, instead of the recipe's model; the run
            folder records its name, not its code.
        callbacks: called in order as the run proceeds.

    Raises:
        MismatchError: experts of another architecture, data set, preprocessing or image size; a run of other settings.
        InputError: settings outside their limits; a run already in the folder and `resume` false; results of a run
            without its checkpoint; fewer iterations than the run has done; a folder of experts, or one that another
            process is writing. Nothing is written then.
        FormatError: the checkpoint or the metrics of the run to continue are damaged.
        RunDivergedError: too many updates had to be rejected. distilled.safetensors then is the set of the best
            evaluation, or, if there has been none, the last good set, evaluated.
        OutOfMemoryError: a student step does not fit into memory.
        WriteError: the folder cannot be written or the disk is full; the last checkpoint is intact.
        Interrupted: Ctrl-C; the state is saved.
    """
    try:
        return _run(recipe, dataset, store, Path(out), network or recipe.model, resume, callbacks)
    finally:
        for callback in callbacks:
            callback.on_end()


def _run(
    recipe: Recipe,
    dataset: Dataset,
    store: TrajectoryStore,
    out: Path,
    network: Network,
    resume: bool,
    callbacks: Sequence[RunCallback],
) -> RunResult:
    began = time.perf_counter()
    recipe = _with_absolute_start(with_data_of(recipe, dataset))
    check_run(recipe, dataset, store, network)
    if recipe.distill.resolved_method.trajectories == "recorded" and (unused := convexification(recipe)):
        _log.warning("%s: no effect, since %s works on recorded experts", ", ".join(unused), recipe.distill.method)
    if recipe.distill.method in ("ftd", "datm") and store.record.training.get("sharpness", {}) is None:
        _log.warning(
            "the experts in %s were trained by plain SGD, and %s uses flat ones: train them with sharpness",
            *(store.path, recipe.distill.method),
        )
    _check_experts(store, experts_record(dataset, network, recipe.expert))
    architecture = architecture_of(network, *dataset.sizes, device=dataset.device)
    folder = RunFolder(out)
    # Before the folder of a new run is made.
    start = None if folder.checkpoint_path.exists() else starting_set(recipe.distill, dataset)
    with folder.opened():
        config = _config(recipe, store, architecture)
        checkpoint = folder.checkpoint_to_resume(config, resume=resume, free=FREE_ON_RESUME)
        if checkpoint is not None:
            _check_iterations(checkpoint[0], recipe.distill.iterations, folder)
        store = trajectories_for(recipe, store, folder.path)
        student = build(network, *dataset.sizes, seed=0).to(dataset.device)
        teachers = ExpertNetworks(network, dataset, store)
        # A checkpoint has the images, labels and codes that the settings would make or read again.
        settings = recipe.distill if checkpoint is None else recipe.distill.without_start()
        start = start or starting_set(settings, dataset)
        with in_group("distill"):
            distiller = Distiller(settings, dataset, store, student, teachers=teachers, start=start)
        evaluator = PeriodicEvaluator(recipe, network, architecture, dataset, distiller, folder, callbacks)
        if checkpoint is None:
            folder.start_metrics()
        else:
            began -= _restore(checkpoint, distiller, evaluator, folder)
            folder.rewind_metrics(checkpoint[0]["metrics_bytes"])
            evaluator.save_best()
            if evaluator.best is not None and not (folder.path / BEST_NAME).exists():
                _log.warning("%s is missing; only a better evaluation writes it again", folder.path / BEST_NAME)
        write_json(folder.config_path, config)
        write_json(folder.recipe_path, recipe.as_dict())
        loop = RunLoop(recipe, config, distiller, evaluator, folder, callbacks, began)
        with stopping_cleanly() as stop:
            return loop.finish(stop)


def _config(recipe: Recipe, store: TrajectoryStore, architecture: str) -> dict[str, Any]:
    """Return the settings and experts that a resumed run must agree with, as JSON-able values."""
    training = recipe.expert.record()
    trajectories = {
        "kind": store.kind,
        "experts": list(store.experts),
        "digest": store.digest,
        "convexification": store.convexification,
        # Whether the recipe's training makes these experts; for the report alone.
        "by_recipe": same_training(store.record.training, json.loads(json.dumps(training))),
    }
    config = recipe.as_dict() | {"trajectories": trajectories, "architecture": architecture}
    settings = recipe.distill
    # Its default follows from the iterations, which may change on resume.
    if settings.resolved_method.growing or settings.first_expert_epochs < settings.expert_epochs:
        config["distill"]["grow_iterations"] = settings.grown_after
    as_json: dict[str, Any] = json.loads(json.dumps(config))
    return as_json


def _check_iterations(state: dict[str, Any], iterations: int, folder: RunFolder) -> None:
    done = state["distiller"]["iteration"]
    if done > iterations:
        raise InputError(
            f"the run in {folder.path} has done {done} iterations and {iterations} are asked for; "
            f"ask for at least {done} to continue it, or choose another folder"
        )


def _restore(checkpoint: Checkpoint, distiller: Distiller, evaluator: PeriodicEvaluator, folder: RunFolder) -> float:
    """Restore the state in a checkpoint; returns the seconds that the run has taken so far."""
    state, tensors = checkpoint
    try:
        distiller.load_state(state["distiller"], tensors)
        evaluator.load_state(state["evaluations"])
    except MismatchError:
        raise
    except (KeyError, TypeError, IndexError, AttributeError, OverflowError, ValueError) as error:
        reason = f"it lacks {error}" if isinstance(error, KeyError) else " ".join(str(error).split())
        raise FormatError(f"checkpoint {folder.checkpoint_path} is damaged ({reason}); {RESTORE}") from error
    return float(state["seconds"])


def _check_experts(store: TrajectoryStore, expected: ExpertsRecord) -> None:
    try:
        store.record.check(expected)
    except MismatchError as error:
        raise MismatchError(f"{error}; give the data and the model that the experts were trained with") from error


class ExpertNetworks(Sequence[nn.Module]):
    """The experts' final networks in evaluation mode, each built when it is asked for."""

    def __init__(self, network: Network, dataset: Dataset, store: TrajectoryStore) -> None:
        self._network, self._dataset, self._store = network, dataset, store

    def __len__(self) -> int:
        return len(self._store)

    def __getitem__(self, number: Any) -> Any:
        if number >= len(self._store):
            raise IndexError(number)  # ends an iteration
        trajectory = self._store[number]
        teacher = build(self._network, *self._dataset.sizes, seed=0)
        unflatten(teacher, trajectory.point(trajectory.end))
        return teacher.to(self._dataset.device).eval()
