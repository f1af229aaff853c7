"""One distillation from recipe to run folder: checks, iterations, evaluations, checkpoints, artefact."""

from __future__ import annotations

import signal
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Protocol

import torch
from torch import Tensor, nn

from pydistill.artefact import FILE_NAME, Artefact
from pydistill.data import Dataset
from pydistill.distill import Distiller, IterationReport
from pydistill.errors import Interrupted, OutOfMemoryError
from pydistill.evaluate import Evaluation, evaluate
from pydistill.experts import experts_record
from pydistill.nn import Network, architecture_of, build, unflatten
from pydistill.recipe import Recipe
from pydistill.runfolder import RunFolder
from pydistill.trajectories import TrajectoryStore

BEST_NAME = "best.safetensors"
# What may change between the beginning of a run and its continuation without changing what was computed so far.
FREE_ON_RESUME = (
    "distill.iterations",
    "distill.checkpoint_every",
    "distill.backend",
    "data.path",
    "data.cache",
    "data.download",
)


class Observer(Protocol):
    """What a run tells while it goes on."""

    def on_iteration(self, report: IterationReport) -> None:
        """After each outer iteration."""

    def on_evaluation(self, iteration: int, evaluation: Evaluation) -> None:
        """After each evaluation on fresh networks."""


class Silent:
    """An observer that tells nobody."""

    def on_iteration(self, report: IterationReport) -> None:
        """Nothing."""

    def on_evaluation(self, iteration: int, evaluation: Evaluation) -> None:
        """Nothing."""


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
    """The store that the method works on: the given one, or its experts convexified into `folder`/convexified."""
    if recipe.distill.resolved_method().trajectories == store.kind or store.kind == "convexified":
        return store
    return store.write_convexified(folder / "convexified", waypoints=recipe.distill.waypoints)


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

    The folder holds config.json, metrics.jsonl, checkpoint.safetensors, distilled.safetensors (the last iteration's
    set) and best.safetensors (the set of the best evaluation). A run that was stopped at any moment and is continued
    with `resume` gives the same images, bit for bit on the CPU, as one that was not.

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
    store.record.check(experts_record(dataset, network, recipe.expert))
    folder = RunFolder(out)
    architecture = architecture_of(network, dataset.in_channels, dataset.num_classes, dataset.image_size)
    config = recipe.as_dict() | {"trajectories": _store_identity(store), "architecture": architecture}
    if recipe.distill.resolved_method().growing:  # its default follows from the iterations, which may change on resume
        config["distill"]["grow_iterations"] = recipe.distill.start_settings().grow_iterations
    continued = folder.begin(config, resume=resume, free=FREE_ON_RESUME)
    store = trajectories_for(recipe, store, folder.path)
    student = build(network, dataset.in_channels, dataset.num_classes, dataset.image_size, seed=0)
    student.to(dataset.train_images.device)
    teachers = [] if recipe.distill.resolved_method().labels == "hard" else _teachers(network, dataset, store)
    distiller = Distiller(recipe.distill, dataset, store, student, teachers=teachers)
    judge = _Judge(recipe, network, dataset, distiller, folder, observer)
    if continued:
        state, tensors = folder.load_checkpoint()
        distiller.load_state(state["distiller"], tensors)
        judge.load_state(state["judge"])
        began -= float(state["seconds"])
    folder.rewind_metrics(distiller.iteration)
    with _stopping_cleanly() as stop:
        while distiller.iteration < recipe.distill.iterations:
            report = _iterate(distiller, recipe)
            folder.append_metrics(report.as_record())
            observer.on_iteration(report)
            if judge.is_due(report.iteration):
                judge.evaluate()
            if stop.is_set() or report.iteration % recipe.distill.checkpoint_every == 0:
                _checkpoint(folder, distiller, judge, began)
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


class _Judge:
    """Evaluates the set on fresh networks while it is distilled, and keeps the best."""

    def __init__(
        self,
        recipe: Recipe,
        network: Network,
        dataset: Dataset,
        distiller: Distiller,
        folder: RunFolder,
        observer: Observer,
    ) -> None:
        self.recipe, self.network, self.dataset, self.distiller = recipe, network, dataset, distiller
        self.folder, self.observer = folder, observer
        self.best: tuple[int, Evaluation] | None = None
        self.last: tuple[int, Evaluation] | None = None

    def is_due(self, iteration: int) -> bool:
        every = self.recipe.distill.evaluate_every
        return iteration == self.recipe.distill.iterations or (every > 0 and iteration % every == 0)

    def evaluate(self) -> Evaluation:
        iteration = self.distiller.iteration
        synthetic = self.distiller.synthetic
        evaluation = evaluate(
            self.distiller.images,
            synthetic.training_labels,
            self.distiller.lr,
            self.dataset,
            self.network,
            self.recipe.evaluation,
        )
        self.last = (iteration, evaluation)
        self.folder.append_metrics({"event": "evaluation", "iteration": iteration, **evaluation_record(evaluation)})
        if self.best is None or evaluation.mean > self.best[1].mean:
            self.best = (iteration, evaluation)
            self.artefact(evaluation).save(self.folder.path / BEST_NAME)
        self.observer.on_evaluation(iteration, evaluation)
        return evaluation

    def evaluate_final(self) -> Evaluation:
        """The last iteration's evaluation, made now unless it has been."""
        if self.last is not None and self.last[0] == self.distiller.iteration:
            return self.last[1]
        return self.evaluate()

    def artefact(self, evaluation: Evaluation) -> Artefact:
        distiller, synthetic = self.distiller, self.distiller.synthetic
        provenance = {
            "recipe": self.recipe.as_dict(),
            "dataset": {"name": self.dataset.name, "digest": self.dataset.digest, "classes": self.dataset.class_names},
            "iteration": distiller.iteration,
            "accuracy": evaluation_record(evaluation),
            "versions": {"torch": torch.__version__},
        }
        return Artefact(
            images=distiller.images,
            labels=synthetic.training_labels.clone(),
            classes=synthetic.classes.clone(),
            lr=distiller.lr,
            preprocessing=self.dataset.preprocessing,
            provenance=provenance,
            initial_images=distiller.initial_images,
        )

    def state(self) -> dict[str, Any]:
        def plain(kept: tuple[int, Evaluation] | None) -> Any:
            return None if kept is None else [kept[0], evaluation_record(kept[1])]

        return {"best": plain(self.best), "last": plain(self.last)}

    def load_state(self, state: dict[str, Any]) -> None:
        def whole(kept: Any) -> tuple[int, Evaluation] | None:
            return None if kept is None else (int(kept[0]), evaluation_from_record(kept[1]))

        self.best, self.last = whole(state["best"]), whole(state["last"])


def evaluation_record(evaluation: Evaluation) -> dict[str, Any]:
    """An evaluation as JSON-able values; `evaluation_from_record` gives it back."""
    return {
        "model": evaluation.model,
        "mean": evaluation.mean,
        "std": evaluation.std,
        "accuracies": list(evaluation.accuracies),
        "seconds": evaluation.seconds,
        "diverged": evaluation.diverged,
    }


def evaluation_from_record(record: dict[str, Any]) -> Evaluation:
    """The evaluation that `evaluation_record` was given."""
    return Evaluation(record["model"], tuple(record["accuracies"]), record["seconds"], record["diverged"])


def _store_identity(store: TrajectoryStore) -> dict[str, Any]:
    return {
        "kind": store.kind,
        "experts": list(store.experts),
        "digest": store.digest,
        "convexification": store.convexification,
    }


def _teachers(network: Network, dataset: Dataset, store: TrajectoryStore) -> list[nn.Module]:
    """The experts' final networks."""
    teachers = []
    for trajectory in store:
        teacher = build(network, dataset.in_channels, dataset.num_classes, dataset.image_size, seed=0)
        unflatten(teacher, trajectory.point(trajectory.end))
        teachers.append(teacher.to(dataset.train_images.device).eval())
    return teachers


def _checkpoint(folder: RunFolder, distiller: Distiller, judge: _Judge, began: float) -> None:
    values, tensors = distiller.state()
    seconds = time.perf_counter() - began
    folder.save_checkpoint({"distiller": values, "judge": judge.state(), "seconds": seconds}, tensors)


def _iterate(distiller: Distiller, recipe: Recipe) -> IterationReport:
    try:
        return distiller.iterate()
    except (torch.OutOfMemoryError, RuntimeError) as error:
        told = str(error)
        if not isinstance(error, torch.OutOfMemoryError) and "can't allocate memory" not in told:
            raise
        settings = recipe.distill
        if settings.backend == "autograd":
            remedy = "distill.backend = torch needs the memory of one step instead of all, with the same result"
        else:
            remedy = (
                "one step is already all that is kept, so free memory elsewhere; "
                "a smaller distill.batch_size also fits, but changes the result"
            )
        raise OutOfMemoryError(
            f"out of memory in a student's training ({settings.steps} steps of "
            f"{settings.batch_size or 'all'} images): {told.splitlines()[0]}; {remedy}"
        ) from error


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


def with_seed(recipe: Recipe, seed: int) -> Recipe:
    """The recipe with one seed for experts, distillation and evaluation."""
    return replace(
        recipe,
        expert=replace(recipe.expert, seed=seed),
        distill=replace(recipe.distill, seed=seed),
        evaluation=replace(recipe.evaluation, seed=seed),
    )


def random_real(dataset: Dataset, ipc: int, seed: int) -> tuple[Tensor, Tensor]:
    """`ipc` random real training images per class and their labels: what a distilled set is compared with."""
    return dataset.sample_per_class(ipc, torch.Generator().manual_seed(seed))
