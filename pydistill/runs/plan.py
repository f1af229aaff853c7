"""What a recipe will cost on this machine: time, disk and memory, measured by a few short steps and scaled."""

from __future__ import annotations

import math
import time
from dataclasses import asdict, dataclass, replace
from typing import Any

import torch

from pydistill import data
from pydistill._util.format import duration, size
from pydistill._util.memory import Peak, peak_memory
from pydistill.data import Dataset
from pydistill.data.cache import cache_folder
from pydistill.distillation.distiller import Distiller
from pydistill.errors import InputError
from pydistill.matching import choose_backend
from pydistill.nn import Network, architecture_of, flatten, parse
from pydistill.recipes.recipe import Recipe
from pydistill.runs.dummy_experts import MADE_UP, DummyExperts, DummyRows, dummy_data, shape_of
from pydistill.runs.preflight import check_recipe_and_experts
from pydistill.runs.timing import Clock, CostProbe, Measured, starting
from pydistill.training.experts import experts_record
from pydistill.trajectories import ExpertsRecord, RecordedTrajectory, TrajectoryStore, waypoint_epochs

FLOAT = 4  # bytes


@dataclass(frozen=True)
class Phase:
    """One part of the work.

    Attributes:
        name: starting, experts, convexification, distillation, evaluations, checkpoints or report.
        unit: what is counted.
        seconds_each: of one.
        count: how many there are.
        how: what was measured, and by what it was scaled.
    """

    name: str
    unit: str
    seconds_each: float
    count: int
    how: str

    @property
    def seconds(self) -> float:
        """Of all."""
        return self.seconds_each * self.count


@dataclass(frozen=True)
class Plan:
    """What a recipe will cost.

    Attributes:
        title: method, data set, images per class.
        architecture: the network, its parameters told in `parameters`.
        device, threads, backend: what it was measured on.
        data: whether the data were there or made up.
        phases: the parts, in their order.
        disk: bytes by name: recorded and convexified experts, the run folder.
        memory: bytes of the process at its peak; None for device_memory without a GPU.
        notes: what one should know of these numbers.
    """

    title: str
    architecture: str
    parameters: int
    device: str
    threads: int
    backend: str
    data: str
    phases: tuple[Phase, ...]
    disk: dict[str, int]
    memory: int
    device_memory: int | None
    notes: tuple[str, ...]

    @property
    def seconds(self) -> float:
        """Of everything."""
        return sum(phase.seconds for phase in self.phases)

    def as_dict(self) -> dict[str, Any]:
        """JSON-able values; seconds and bytes."""
        values = asdict(self)
        values["phases"] = [asdict(phase) | {"seconds": phase.seconds} for phase in self.phases]
        return values | {"seconds": self.seconds}


def plan(
    recipe: Recipe,
    *,
    experts: TrajectoryStore | None = None,
    network: Network | None = None,
    device: torch.device | str = "cpu",
    clock: Clock = time.perf_counter,
) -> Plan:
    """Measure a few short steps of each part of a recipe, and scale them to the whole.

    Data are read where the recipe names them; of a known data set without a path, noise of its shape takes their place.
    Nothing is written but for a moment into the temporary folder, and what reading the data leaves in the cache.

    Args:
        recipe: the recipe.
        experts: those that the distillation will use; None: made up, and their training is part of the plan.
        network: a factory instead of the recipe's model, as in `run_distillation`.
        device: where the recipe will run.
        clock: tells seconds; time.process_time gives the processor's instead of the wall's, for all but the process
            that shows what starting takes.

    Raises:
        InputError: what the run itself would refuse: settings outside their limits, data that are not there, networks
            of the evaluation that cannot take the images.
        MismatchError: experts of another architecture, data set, preprocessing or image size, or convexified otherwise
            than the recipe asks for.
    """
    if experts is not None and len(experts) == 0:
        raise InputError(f"there is no expert in {experts.path} yet; train some, or plan without")
    check_recipe_and_experts(recipe, experts=experts, network=network)
    network = network or recipe.model
    wanted = recipe.distill.resolved_method().trajectories
    dataset, images, told, reading = _data(recipe, torch.device(device), clock)
    for name in recipe.evaluation.models:
        sizes = (dataset.in_channels, dataset.num_classes, dataset.image_size)
        architecture_of(parse(name), *sizes, device=dataset.device)
    record = _record(recipe, network, dataset, experts)
    rehearsal = CostProbe(recipe, network, dataset, images, clock)
    count = recipe.expert.count if experts is None else len(experts)
    store = experts if experts is not None and experts.kind == wanted else None
    made_up = DummyExperts(record, network, recipe.distill, count) if store is None else store
    phases, peaks, distiller, folder_bytes = _measured(rehearsal, experts, made_up)
    phases.insert(0, _phase("starting", "command", starting(reading), 1))
    missing = _missing_bytes(dataset, images)
    on_gpu = dataset.device.type == "cuda"
    settings = recipe.distill
    return Plan(
        title=f"{settings.method} on {recipe.data.name}, {settings.ipc} per class",
        architecture=architecture_of(network, record.in_channels, record.num_classes, record.image_size),
        parameters=record.layout.total,
        device=torch.cuda.get_device_name(dataset.device) if on_gpu else "cpu",
        threads=torch.get_num_threads(),
        backend=choose_backend(settings.backend, distiller.student, distiller.images)[0],
        data=told,
        phases=tuple(phases),
        disk=_disk(recipe, record, count, experts) | {"run_folder": folder_bytes},
        memory=max(peak.resident for peak in peaks) + (0 if on_gpu else missing),
        device_memory=max(peak.device or 0 for peak in peaks) + missing if on_gpu else None,
        notes=tuple(_notes(recipe, store is None, dataset)),
    )


def _record(recipe: Recipe, network: Network, dataset: Dataset, experts: TrajectoryStore | None) -> ExpertsRecord:
    """What the experts are; MismatchError if those given do not fit the recipe."""
    record = experts_record(dataset, network, recipe.expert)
    if experts is None:
        return record
    if dataset.digest == MADE_UP:  # of which nothing is known that could be compared
        record = replace(record, dataset_digest="", preprocessing="")
    experts.record.check(record)
    return experts.record


def _measured(
    rehearsal: CostProbe, experts: TrajectoryStore | None, store: TrajectoryStore
) -> tuple[list[Phase], list[Peak], Distiller, int]:
    """The parts of the work with their peaks of memory, the distiller that was measured on `store`, and the bytes of
    the run folder."""
    recipe, record, device = rehearsal.recipe, store.record, rehearsal.dataset.device
    phases: list[Phase] = []
    peaks: list[Peak] = []
    if experts is None:
        with peak_memory(device) as peak:
            phases.append(_phase("experts", "expert", rehearsal.expert(), len(store)))
        peak.resident += 2 * FLOAT * (record.epochs + 1) * record.layout.total  # the snapshots, and a copy to write
        peaks.append(peak)
    if store.kind == "convexified" and (experts is None or experts.kind == "recorded"):
        with peak_memory(device) as peak:
            made_up = RecordedTrajectory(DummyRows(flatten(rehearsal.fresh()).cpu(), record.epochs))
            source = made_up if experts is None else experts.recorded(0)
            phases.append(_phase("convexification", "expert", rehearsal.convexification(source, record), len(store)))
        peaks.append(peak)
    with peak_memory(device) as peak:
        iteration, distiller = rehearsal.iteration(store, made_up=isinstance(store, DummyExperts))
        phases.append(_phase("distillation", "iteration", iteration, recipe.distill.iterations))
    peaks.append(peak)
    with peak_memory(device) as peak:
        evaluation = rehearsal.evaluation(distiller.images, distiller.synthetic.training_labels)
        phases.append(_phase("evaluations", "evaluation", evaluation, _evaluations(recipe)))
    peaks.append(peak)
    phases.append(_phase("checkpoints", "checkpoint", rehearsal.checkpoint(distiller), _checkpoints(recipe)))
    report, size = rehearsal.report(distiller)
    phases.append(_phase("report", "report", report, 1))
    checkpoint = sum(each.numel() * each.element_size() for each in distiller.state()[1].values())
    return phases, peaks, distiller, size + checkpoint


def _data(recipe: Recipe, device: torch.device, clock: Clock) -> tuple[Dataset, tuple[int, int], str, float]:
    """The data or noise of their shape, how many images the recipe's own are, which of the two it is, and the seconds
    that a run will read the data."""
    shape = shape_of(recipe.data) if recipe.data.path is None else None
    if shape is not None:
        enough = max(4 * recipe.expert.training.batch_size, shape.classes * recipe.distill.ipc)
        dataset = dummy_data(recipe.data, shape, enough, device)
        told = f"made up in the shape of {recipe.data.name} (no data.path is given)"
        return dataset, (shape.train, shape.test), told, 0.0
    cache = cache_folder(recipe.data.cache)
    kept = set(cache.glob("*/*"))
    dataset, reading = _read(recipe, device, clock)
    if set(cache.glob("*/*")) != kept:  # what was decoded or fitted now lies where the run will find it
        del dataset
        dataset, reading = _read(recipe, device, clock)
    return dataset, (len(dataset.train_pictures), len(dataset.test_pictures)), f"{recipe.data.name} as it is", reading


def _read(recipe: Recipe, device: torch.device, clock: Clock) -> tuple[Dataset, float]:
    began = clock()
    dataset = data.load(recipe.data, device)
    return dataset, clock() - began


def _phase(name: str, unit: str, measured: Measured, count: int) -> Phase:
    return Phase(name, unit, measured.seconds, count, measured.how)


def _evaluations(recipe: Recipe) -> int:
    """How often a run evaluates: at every `evaluate_every`-th iteration, and at the end."""
    every, iterations = recipe.distill.evaluate_every, recipe.distill.iterations
    return 1 if every == 0 else math.ceil(iterations / every)


def _checkpoints(recipe: Recipe) -> int:
    """How often a run writes one: before and after every evaluation, at the first and at every `checkpoint_every`-th
    iteration."""
    settings = recipe.distill
    last, every = settings.iterations, settings.checkpoint_every
    between = settings.evaluate_every or last
    with_evaluation = last // math.lcm(every, between) + (last % every == 0 and last % between != 0)
    first = min(last, every, between) > 1  # else it has been counted
    return 2 * _evaluations(recipe) + last // every - with_evaluation + first


def _missing_bytes(dataset: Dataset, images: tuple[int, int]) -> int:
    """What the recipe's own images take beyond those that are in memory now."""
    pixels = dataset.train_pictures.pixels
    here = len(dataset.train_pictures) + len(dataset.test_pictures)
    return max(0, sum(images) - here) * pixels[0].numel() * pixels.element_size()


def _disk(recipe: Recipe, record: ExpertsRecord, count: int, experts: TrajectoryStore | None) -> dict[str, int]:
    """Bytes of the experts that the recipe needs."""
    total, epochs = record.layout.total, record.epochs
    disk = {}
    if experts is None or experts.kind == "recorded":
        disk["experts_recorded"] = count * (epochs + 1) * total * FLOAT
    if recipe.distill.resolved_method().trajectories == "convexified":
        points = len(waypoint_epochs(epochs, 4 if recipe.distill.waypoints is None else recipe.distill.waypoints))
        fractions = 2 * FLOAT * (epochs + points - 1) * len(record.sizes)
        disk["experts_convexified"] = count * (points * total * FLOAT + fractions)
    return disk


def _notes(recipe: Recipe, made_up: bool, dataset: Dataset) -> list[str]:
    notes = []
    if made_up and recipe.distill.resolved_method().selection == "nearest":
        notes.append(
            "which student step is nearest is known with real experts only: iterations are measured at the last, "
            "which takes longest; --experts DIR measures at the steps that these choose"
        )
    if dataset.digest == MADE_UP:
        fitted = " and fitting their ZCA whitening" if recipe.data.zca else ""
        notes.append(f"reading the data{fitted} is not counted, since they are not here")
    notes.append("starting is counted once; a command for the experts and one for the rest start twice")
    return notes


def table(found: Plan) -> str:
    """A plan as lines of text."""
    lines = [
        f"{found.title}: {found.architecture}, {found.parameters:,} parameters",
        f"measured on {found.device}"
        + (f", threads: {found.threads}" if found.device == "cpu" else "")
        + f", backend {found.backend}; data: {found.data}",
        "",
        f"{'':<16}{'each':>10}{'how many':>10}{'together':>12}",
    ]
    lines += [
        f"{phase.name:<16}{duration(phase.seconds_each):>10}{phase.count:>10,}{duration(phase.seconds):>12}"
        for phase in found.phases
    ]
    lines += [f"{'total':<16}{'':>20}{duration(found.seconds):>12}", ""]
    lines += [f"{'disk, ' + name.replace('_', ' '):<26}{size(value):>10}" for name, value in found.disk.items()]
    lines.append(f"{'memory at its peak':<26}{size(found.memory):>10}")
    if found.device_memory is not None:
        lines.append(f"{'memory of the GPU':<26}{size(found.device_memory):>10}")
    lines += ["", *(f"{phase.name}: {phase.how}" for phase in found.phases)]
    return "\n".join([*lines, *(f"note: {note}" for note in found.notes)])
