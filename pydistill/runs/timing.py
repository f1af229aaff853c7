"""A few short steps of each part of a recipe, timed and scaled to one whole expert, iteration, evaluation."""

from __future__ import annotations

import math
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from itertools import pairwise
from pathlib import Path

import torch
from torch import Tensor, nn

from pydistill._util.files import write_json
from pydistill._util.format import first_line
from pydistill._util.layout import REPORT_NAME, SET_NAME
from pydistill.data import Dataset, Pictures
from pydistill.distillation.distiller import Distiller, DistillSettings
from pydistill.distillation.records import IterationReport, Segment
from pydistill.evaluation.evaluate import Evaluation, evaluate
from pydistill.nn import Network, build, flatten
from pydistill.recipes.recipe import Recipe
from pydistill.runs.dummy_experts import convexified_by
from pydistill.runs.evaluation import NoCallback, PeriodicEvaluator
from pydistill.runs.folder import RunFolder
from pydistill.runs.report import write_report
from pydistill.runs.workflow import draw_run
from pydistill.training.experts import experts_record
from pydistill.training.train import TrainingSettings, accuracy, train
from pydistill.trajectories import ExpertsRecord, RecordedTrajectory, TrajectoryStore

Clock = Callable[[], float]

BUDGET = 1.5  # seconds that one measurement may take, unless its shortest form takes longer
REPEATS = 3
MOST_ITERATIONS = 25
HARMLESS_LR = 1e-5  # no network of a measurement may leave the finite numbers, which would be another cost
STORED_AT_MOST = 64 * 2**20
MOST_LINES = 20_000


@dataclass(frozen=True)
class Measured:
    """What one unit (expert, iteration, evaluation) costs, and how that is known.

    Attributes:
        seconds: of one.
        how: what was measured, and by what it was scaled.
    """

    seconds: float
    how: str


def starting(reading: float) -> Measured:
    """Beginning a command: Python and its modules, by a process that loads them and ends, and `reading` the data.

    By the clock on the wall: the process's own time is not this one's.
    """
    loads = f"import sys; sys.path.insert(0, {str(Path(__file__).parents[2])!r}); import pydistill.runs.workflow"
    began = time.perf_counter()
    try:
        subprocess.run([sys.executable, "-c", loads], check=True, stdin=subprocess.DEVNULL, capture_output=True)
    except (OSError, TypeError, ValueError, subprocess.CalledProcessError) as error:
        return Measured(reading, f"measured reading the data alone, since no other Python could be started ({error})")
    told = "measured a process that loads the modules, and reading the data"
    return Measured(time.perf_counter() - began + reading, told)


def _lacking(what: str, make: Callable[[], object]) -> str:
    """Make what a run goes on without where it cannot be made; what is told of that, or nothing."""
    try:
        make()
    except Exception as error:  # as for a run: drawing calls other packages, or misses them
        return f", without {what}, which cannot be made here ({first_line(error)})"
    return ""


class CostProbe:
    """Times the parts of one recipe on one data set, which may be smaller than the recipe's own.

    Args:
        clock: what tells the seconds, e.g. time.perf_counter, or time.process_time for the processor's.
        images: training and test images of the recipe's own data set.
    """

    def __init__(
        self, recipe: Recipe, network: Network, dataset: Dataset, images: tuple[int, int], clock: Clock
    ) -> None:
        self.recipe, self.network, self.dataset = recipe, network, dataset
        self.train_images, self.test_images = images
        self._clock = clock

    def now(self) -> float:
        """The time, when the device has done what it was given."""
        if self.dataset.device.type == "cuda":
            torch.cuda.synchronize(self.dataset.device)
        return self._clock()

    def fresh(self) -> nn.Module:
        """A network on the data set's device."""
        return build(self.network, *self.dataset.sizes, seed=0).to(self.dataset.device)

    def expert(self) -> Measured:
        """One expert: its epochs, the tests after each, and writing it."""
        training = self.recipe.expert.training
        epoch, told = self._epoch(training)
        tested = self._accuracy(self.dataset.test_pictures, self.dataset.test_labels) * self.test_images
        untrained = self._accuracy(self.dataset.train_pictures, self.dataset.train_labels) * self.train_images
        seconds = training.epochs * epoch + (training.epochs + 1) * tested + untrained + self._written()
        return Measured(seconds, f"{told}; scaled to {training.epochs} epochs of {self.train_images:,}")

    def _epoch(self, training: TrainingSettings) -> tuple[float, str]:
        """Seconds of an epoch over the recipe's own images, and what was measured."""
        dataset = self.dataset
        network = self.fresh()
        few = min(training.batch_size, len(dataset.train_pictures))
        found = self._train(network, few, training)
        batches = max(1, int(BUDGET / REPEATS / max(statistics.median(found), 1e-6)))
        count = min(batches * few, len(dataset.train_pictures))
        if count > few:
            found = self._train(network, count, training)
        told = f"measured {REPEATS} passes over {count:,} images in batches of {training.batch_size}"
        return statistics.median(found) * self.train_images / count, told

    def _train(self, network: nn.Module, count: int, training: TrainingSettings) -> list[float]:
        """Seconds of each of `REPEATS` epochs over `count` images, after one that is not counted."""
        times: list[float] = []
        settings = replace(training, epochs=REPEATS + 1, lr=HARMLESS_LR)

        def on_epoch(epoch: int, loss: float, share: float) -> None:
            times.append(self.now())

        images, labels = self.dataset.train_pictures.rows(0, count), self.dataset.train_labels[:count]
        train(network, images, labels, settings, generator=torch.Generator().manual_seed(0), on_epoch=on_epoch)
        return [after - before for before, after in pairwise(times)]

    def _accuracy(self, pictures: Pictures, labels: Tensor) -> float:
        """Seconds per image of a test."""
        network = self.fresh()

        def tested(count: int) -> float:
            began = self.now()
            accuracy(network, pictures.rows(0, count), labels[:count])
            return self.now() - began

        count = min(256, len(pictures))
        tested(count)  # warms up
        first = tested(count)
        count = min(count * max(1, int(BUDGET / REPEATS / max(first, 1e-6))), len(pictures))
        return statistics.median(tested(count) for _ in range(REPEATS)) / count

    def _written(self) -> float:
        """Seconds of writing one expert, from as many of its rows as fit into 64 MiB."""
        whole = experts_record(self.dataset, self.network, self.recipe.expert)
        epochs = max(1, min(whole.epochs, STORED_AT_MOST // (4 * whole.layout.total) - 1))
        snapshots = flatten(self.fresh()).cpu().repeat(epochs + 1, 1)
        with tempfile.TemporaryDirectory() as folder:
            store = TrajectoryStore.create(Path(folder) / "experts", replace(whole, epochs=epochs))
            began = self.now()
            store.add(0, snapshots)
            return (self.now() - began) * (whole.epochs + 1) / (epochs + 1)

    def convexification(self, trajectory: RecordedTrajectory, record: ExpertsRecord) -> Measured:
        """One expert's."""
        began = self.now()
        convexified_by(self.recipe.distill, trajectory, record)
        return Measured(self.now() - began, "measured for one expert")

    def iteration(self, store: TrajectoryStore, *, made_up: bool) -> tuple[Measured, Distiller]:
        """One outer iteration; the pixels stand still, so that every one measured is a first one.

        With made-up experts, a method that chooses the student step nearest to the target is measured at the last, and
        a long student at its first steps alone, to which its cost is proportional.
        """
        settings = replace(
            self.recipe.distill,
            lr_image=0.0,
            lr_lr=0.0,
            lr_label=0.0,
            skip_loss_above=None,  # made-up experts have other losses
            max_rejections=10 * MOST_ITERATIONS,
        )
        if made_up:
            settings = replace(settings, selection="last")
        steps = settings.steps
        distiller = self._distiller(replace(settings, steps=min(2, steps)), store)
        distiller.iterate()  # warms up
        began = self.now()
        distiller.iterate()
        per_step = (self.now() - began) / min(2, steps)
        affordable = max(2, int(BUDGET / REPEATS / max(per_step, 1e-9)))
        if made_up and affordable < steps:
            settings = replace(settings, steps=affordable)
        distiller = self._distiller(settings, store)
        times, chosen = self._iterations(distiller)
        told = f"measured {len(times)} iterations of {settings.steps} student steps"
        if settings.steps < steps:
            told += f"; scaled to {steps}"
        elif distiller.method.selection == "nearest":
            told += f", of which {statistics.fmean(chosen):.1f} were gone back on average"
        return Measured(statistics.median(times) * steps / settings.steps, told), distiller

    def _distiller(self, settings: DistillSettings, store: TrajectoryStore) -> Distiller:
        return Distiller(settings, self.dataset, store, self.fresh(), teachers=[self.fresh()])

    def _iterations(self, distiller: Distiller) -> tuple[list[float], list[int]]:
        """Seconds of some iterations, and the steps they chose, after some that are not counted."""
        for _ in range(5 if self.dataset.device.type == "cuda" else 1):
            distiller.iterate()
        times: list[float] = []
        chosen: list[int] = []
        while len(times) < REPEATS or (len(times) < MOST_ITERATIONS and sum(times) < 2 * BUDGET):
            began = self.now()
            report = distiller.iterate()
            times.append(self.now() - began)
            chosen += report.steps
        return times, chosen

    def evaluation(self, images: Tensor, labels: Tensor) -> Measured:
        """One evaluation of a set of these images: the networks' training, and their tests on all test images.

        Networks train side by side in full rounds, and those that are left over in a last one.
        """
        settings = self.recipe.evaluation
        together = min(settings.repeats, settings.networks_at_once(self.dataset.device))
        rounds, left = divmod(settings.repeats, together)
        seconds, epochs = self._round(images, labels, together)
        seconds *= rounds
        networks = "1 network" if together == 1 else f"{together} networks side by side"
        if left:
            seconds += self._round(images, labels, left)[0]
            networks += f", then {left}"
        told = f"{settings.repeats} networks of {settings.training.epochs} epochs"
        return Measured(seconds, f"measured {networks} for {epochs} epochs; scaled to {told}")

    def _round(self, images: Tensor, labels: Tensor, together: int) -> tuple[float, int]:
        """Seconds of networks that train side by side, and how many epochs of theirs were measured."""
        settings = self.recipe.evaluation
        whole = settings.training.epochs

        def trained(epochs: int) -> float:
            short = replace(settings, repeats=together, training=replace(settings.training, epochs=epochs))
            began = self.now()
            evaluate(images, labels, HARMLESS_LR, self.dataset, self.network, short)
            return self.now() - began

        few = min(5, whole)
        trained(few)  # warms up
        short = trained(few)
        epochs = min(whole, max(2 * few, int(few * 2 * BUDGET / max(short, 1e-6))))
        longer = trained(epochs) if epochs > few else short
        each = max(0.0, (longer - short) / (epochs - few)) if epochs > few else longer / epochs
        per_image = self._accuracy(self.dataset.test_pictures, self.dataset.test_labels)
        untested = together * per_image * (self.test_images - len(self.dataset.test_pictures))
        return longer + each * (whole - epochs) + untested, epochs

    def checkpoint(self, distiller: Distiller) -> Measured:
        """One checkpoint of a run."""
        values, tensors = distiller.state()
        with tempfile.TemporaryDirectory() as path:
            folder = RunFolder(path)
            folder.begin_anew(resume=False)
            times = []
            for _ in range(REPEATS):
                began = self.now()
                folder.save_checkpoint({"distiller": values}, tensors)
                times.append(self.now() - began)
        return Measured(statistics.median(times), f"measured {REPEATS}, in the temporary folder")

    def report(self, distiller: Distiller) -> tuple[Measured, int]:
        """Writing the set, the report and the pictures of a run with as many iterations and evaluations.

        Also the bytes of that run's folder, its metrics and both sets among them, but no checkpoint.
        """
        settings = self.recipe.distill
        shown = min(settings.iterations, MOST_LINES)
        with tempfile.TemporaryDirectory() as path:
            folder = RunFolder(path)
            folder.write_config(self.recipe.as_dict())
            write_json(folder.recipe_path, self.recipe.as_dict())
            judge = PeriodicEvaluator(self.recipe, self.network, self.dataset, distiller, folder, NoCallback())
            evaluation = Evaluation("made up", (0.5,) * self.recipe.evaluation.repeats, seconds=1.0)
            for iteration in range(1, shown + 1):
                segment = self._made_up_segment(iteration)
                folder.append_metrics(IterationReport(iteration, (segment,), settings.lr_init).as_record())
                if iteration == 1 or iteration % settings.checkpoint_every == 0:
                    folder.append_metrics(segment.distances_record(iteration))
                if settings.evaluate_every > 0 and iteration % settings.evaluate_every == 0:
                    judge.keep(evaluation)
            judge.keep(evaluation)
            began = self.now()
            judge.artefact(evaluation).save(folder.path / SET_NAME)
            told = f"measured one of {shown:,} iterations"
            told += _lacking(REPORT_NAME, lambda: write_report(folder.path))
            told += _lacking("pictures", lambda: draw_run(folder))
            found = Measured(self.now() - began, f"{told}, in the temporary folder")
            size = sum(file.stat().st_size for file in folder.path.iterdir() if file != folder.metrics_path)
            return found, size + folder.metrics_path.stat().st_size * settings.iterations // shown

    def _made_up_segment(self, iteration: int) -> Segment:
        """Numbers that go up and down, as a run's do: pictures of straight lines would be smaller, and sooner drawn."""
        settings = self.recipe.distill
        noise = math.sin(12.9898 * iteration**2)
        loss = math.exp(-3.0 * iteration / settings.iterations) * (1.0 + 0.3 * noise)
        distances = tuple(1.0 - step / (2 * settings.steps) * (1.0 + 0.1 * noise) for step in range(settings.steps + 1))
        return Segment(0, 0.0, settings.expert_epochs, loss, settings.steps - int(abs(3.0 * noise)), distances)
