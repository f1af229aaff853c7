"""One distillation from recipe to run folder: checks, iterations, evaluations, checkpoints, artefact."""

from __future__ import annotations

import signal
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import nn

from pydistill.artefact import FILE_NAME, Artefact
from pydistill.data import Dataset
from pydistill.distill import Distiller
from pydistill.errors import FormatError, Interrupted, MismatchError, OutOfMemoryError
from pydistill.evaluate import Evaluation
from pydistill.experts import experts_record
from pydistill.files import write_json
from pydistill.judge import Judge, Observer, Silent
from pydistill.nn import Network, architecture_of, build, unflatten
from pydistill.recipe import Recipe
from pydistill.runfolder import RunFolder
from pydistill.trajectories import ExpertsRecord, TrajectoryStore, waypoint_epochs

RECIPE_NAME = "recipe.json"
EVALUATION_MEMORY = (
    "an evaluation",
    "evaluation.at_once = 1 trains one network at a time, with the same result; a smaller "
    "evaluation.training.batch_size also fits, but changes it",
)
# What may change between the beginning of a run and its continuation without changing what was computed so far.
FREE_ON_RESUME = (
    "distill.iterations",
    "distill.checkpoint_every",
    "distill.backend",
    "data.path",
    "data.cache",
    "data.download",
    "data.pixels",
    "evaluation.at_once",
)


@dataclass(frozen=True)
class RunResult:
    """How a run ended.

    Attributes:
        folder: the run folder.
        final: the artefact of the last iteration.
        accuracy_final: its evaluation.
        accuracy_best: the best of all evaluations of the run, chosen by test accuracy as the papers do.
        best_iteration: where that was.
        seconds: wall time of the run, of every process that worked on it up to its last checkpoint.
    """

    folder: RunFolder
    final: Artefact
    accuracy_final: Evaluation
    accuracy_best: Evaluation
    best_iteration: int
    seconds: float


def trajectories_for(recipe: Recipe, store: TrajectoryStore, folder: Path) -> TrajectoryStore:
    """The store that the method works on: the given one, or its experts convexified into `folder`/convexified.

    Raises:
        MismatchError: the experts are convexified already, and otherwise than the recipe asks for.
    """
    settings = recipe.distill
    if settings.resolved_method().trajectories == "recorded":
        return store  # the distillation itself refuses convexified ones
    asked: dict[str, Any] = {
        "waypoints": settings.waypoints,
        "smoothing": settings.smoothing,
        "fractions": settings.fractions,
    }
    asked = {name: value for name, value in asked.items() if value is not None}
    if store.kind == "recorded":
        return store.write_convexified(folder / "convexified", **asked)
    if settings.waypoints is not None:
        asked["waypoints"] = list(waypoint_epochs(store.record.epochs, settings.waypoints))
    for name, value in asked.items():
        found = store.convexification[name]
        if found != value:
            raise MismatchError(
                f"the experts are convexified with {name} = {found} and this run asks for {value}; "
                f"drop distill.{name}, or convexify the recorded experts again"
            )
    return store


def run_distillation(
    recipe: Recipe,
    dataset: Dataset,
    store: TrajectoryStore,
    out: str | Path,
    *,
    network: Network | None = None,
    resume: bool = False,
    observer: Observer | None = None,
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
        InputError: settings outside their limits; a run already in the folder and `resume` false.
        DivergedError: too many updates had to be rejected.
        OutOfMemoryError: a student step does not fit into memory.
        Interrupted: Ctrl-C; the state is saved.
    """
    began = time.perf_counter()
    observer = observer or Silent()
    network = network or recipe.model
    recipe.distill.check()
    _check_experts(store, experts_record(dataset, network, recipe.expert))
    folder = RunFolder(out)
    architecture = architecture_of(network, dataset.in_channels, dataset.num_classes, dataset.image_size)
    config = recipe.as_dict() | {"trajectories": _store_identity(store), "architecture": architecture}
    if recipe.distill.resolved_method().growing:  # its default follows from the iterations, which may change on resume
        config["distill"]["grow_iterations"] = recipe.distill.start_settings().grow_iterations
    for name, default in (("experts_per_step", 1), ("activations", "float32")):
        if config["distill"][name] == default:  # as every run that began before there was a choice
            del config["distill"][name]
    if config["data"]["statistics"] == "measured":
        del config["data"]["statistics"]
    continued = folder.begin(config, resume=resume, free=FREE_ON_RESUME)
    write_json(folder.path / RECIPE_NAME, recipe.as_dict())
    store = trajectories_for(recipe, store, folder.path)
    student = build(network, dataset.in_channels, dataset.num_classes, dataset.image_size, seed=0)
    student.to(dataset.device)
    teachers = () if recipe.distill.resolved_method().labels == "hard" else _teachers(network, dataset, store)
    distiller = Distiller(recipe.distill, dataset, store, student, teachers=teachers)
    judge = Judge(recipe, network, dataset, distiller, folder, observer)
    if continued:
        state, tensors = folder.load_checkpoint()
        try:
            distiller.load_state(state["distiller"], tensors)
            judge.load_state(state["judge"])
        except KeyError as error:
            raise FormatError(
                f"checkpoint {folder.checkpoint_path} is damaged (it lacks {error}); remove it to begin the run anew"
            ) from error
        began -= float(state["seconds"])
    folder.rewind_metrics(distiller.iteration)
    observer.on_images(distiller.iteration, distiller.images)
    with _stopping_cleanly() as stop:
        while distiller.iteration < recipe.distill.iterations:
            with _memory_told(*_student_memory(recipe)):
                report = distiller.iterate()
            folder.append_metrics(report.as_record())
            observer.on_iteration(report)
            judged = judge.is_due(report.iteration)
            if judged:
                with _memory_told(*EVALUATION_MEMORY):
                    judge.evaluate()
            if judged or stop.is_set() or report.iteration % recipe.distill.checkpoint_every == 0:
                _checkpoint(folder, distiller, judge, began)
                observer.on_images(report.iteration, distiller.images)
            if stop.is_set():
                raise Interrupted(
                    f"stopped after iteration {report.iteration} of {recipe.distill.iterations}; continue with --resume"
                )
    _checkpoint(folder, distiller, judge, began)
    final = judge.evaluate_final()
    artefact = judge.artefact(final)
    artefact.save(folder.path / FILE_NAME)
    best_iteration, best = judge.best if judge.best is not None else (distiller.iteration, final)
    return RunResult(folder, artefact, final, best, best_iteration, time.perf_counter() - began)


def _check_experts(store: TrajectoryStore, expected: ExpertsRecord) -> None:
    try:
        store.record.check(expected)
    except MismatchError as error:
        raise MismatchError(f"{error}; give the data and the model that the experts were trained with") from error


def _store_identity(store: TrajectoryStore) -> dict[str, Any]:
    return {
        "kind": store.kind,
        "experts": list(store.experts),
        "digest": store.digest,
        "convexification": store.convexification,
    }


def _teachers(network: Network, dataset: Dataset, store: TrajectoryStore) -> Iterator[nn.Module]:
    """The experts' final networks, one at a time."""
    for trajectory in store:
        teacher = build(network, dataset.in_channels, dataset.num_classes, dataset.image_size, seed=0)
        unflatten(teacher, trajectory.point(trajectory.end))
        yield teacher.to(dataset.device).eval()


def _checkpoint(folder: RunFolder, distiller: Distiller, judge: Judge, began: float) -> None:
    values, tensors = distiller.state()
    seconds = time.perf_counter() - began
    folder.save_checkpoint({"distiller": values, "judge": judge.state(), "seconds": seconds}, tensors)


def _student_memory(recipe: Recipe) -> tuple[str, str]:
    settings = recipe.distill
    what = f"a student's training ({settings.steps} steps of {settings.batch_size or 'all'} images)"
    if settings.backend == "autograd":
        return what, "distill.backend = torch needs the memory of one step instead of all, with the same result"
    return what, (
        "one step is already all that is kept, so free memory elsewhere; "
        "a smaller distill.batch_size also fits, but changes the result"
    )


@contextmanager
def _memory_told(what: str, remedy: str) -> Iterator[None]:
    """Turn PyTorch's out-of-memory errors, of the GPU and of the CPU, into one that names the remedy."""
    try:
        yield
    except RuntimeError as error:
        told = str(error)
        if not isinstance(error, torch.OutOfMemoryError) and "can't allocate memory" not in told:
            raise
        raise OutOfMemoryError(f"out of memory in {what}: {told.splitlines()[0]}; {remedy}") from error


@contextmanager
def _stopping_cleanly() -> Iterator[threading.Event]:
    """Turn the first Ctrl-C into an event that is looked at between iterations; a second one stops at once."""
    stop = threading.Event()
    if threading.current_thread() is not threading.main_thread():
        yield stop
        return

    def handle(number: int, frame: Any) -> None:
        if stop.is_set():
            raise KeyboardInterrupt
        stop.set()

    previous = signal.signal(signal.SIGINT, handle)
    try:
        yield stop
    finally:
        signal.signal(signal.SIGINT, previous)
