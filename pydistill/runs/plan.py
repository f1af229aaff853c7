"""Estimate what a recipe costs on this machine: time, disk and memory."""

from __future__ import annotations

import math
import tempfile
from collections.abc import Iterable
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from time import perf_counter
from typing import Any

import torch
from torch import Tensor

from pydistill import data
from pydistill._util.format import duration, size
from pydistill._util.memory import peak_resident
from pydistill._util.settings import in_group
from pydistill.data import Dataset
from pydistill.distillation.distiller import Distiller
from pydistill.matching import choose_backend
from pydistill.nn import Network, architecture_of
from pydistill.recipes.recipe import Recipe
from pydistill.runs.dummy_data import DUMMY_DIGEST, dummy_data, dummy_snapshots, shape_of
from pydistill.runs.preflight import check_evaluated_networks, check_recipe_and_experts
from pydistill.runs.run import trajectories_for
from pydistill.runs.timing import CostProbe
from pydistill.synthesis.decoders import make_decoder
from pydistill.training.experts import experts_record
from pydistill.trajectories import ExpertsRecord, TrajectoryStore, waypoint_epochs
from pydistill.trajectories.convexification import WAYPOINTS

FLOAT = 4  # bytes
METRICS_BYTES = 200  # of metrics.jsonl, per iteration
HEADER_BYTES = 5_000  # recipe and provenance, of each file in the run folder


@dataclass(frozen=True)
class Phase:
    """One part of the work.

    Attributes:
        name: experts, convexification, fit of the codes, distillation, evaluations, baselines or all real data.
        seconds_each: seconds of one.
        count: how many there are.
    """

    name: str
    seconds_each: float
    count: int

    @property
    def seconds(self) -> float:
        """Seconds of all of them."""
        return self.seconds_each * self.count


@dataclass(frozen=True)
class Plan:
    """The estimated cost of a recipe.

    Attributes:
        title: method, data set, images per class.
        architecture: the network.
        parameters: how many it has.
        device, threads, backend: what was measured on.
        data: whether the real data or noise of their shape were used.
        phases: the parts of the work, in order.
        disk: bytes by name: experts_recorded, experts_convexified, run_folder.
        memory: peak bytes of the process since it started, plus the data that were not loaded.
        device_memory: peak bytes of tensors on the GPU; None without one.
        notes: what limits these estimates.
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
        """Total seconds."""
        return sum(phase.seconds for phase in self.phases)

    def as_dict(self) -> dict[str, Any]:
        """Return JSON-able values; seconds and bytes."""
        phases = [asdict(phase) | {"seconds": phase.seconds} for phase in self.phases]
        return asdict(self) | {"phases": phases, "seconds": self.seconds}


def plan(
    recipe: Recipe,
    *,
    experts: TrajectoryStore | None = None,
    network: Network | None = None,
    device: torch.device | str = "cpu",
) -> Plan:
    """Time a few short steps of each part of a recipe and multiply by their counts.

    The data are read where the recipe says; a known data set without `data.path` is replaced by noise of its shape.
    Nothing is written but one expert in the temporary folder, and the data's cache.

    Args:
        experts: those the distillation will use; None: training them is part of the plan.
        network: a factory instead of the recipe's model, as in `run_distillation`.
        device: where the recipe will run.

    Raises:
        InputError: the run itself would refuse the recipe: settings outside their limits, missing data, networks of the
            evaluation that cannot take the images.
        MismatchError: the experts do not fit the recipe.
    """
    check_recipe_and_experts(recipe, experts=experts, network=network)
    network = network or recipe.model
    settings = recipe.distill
    dataset, train_images, test_images = _data(recipe, torch.device(device))
    check_evaluated_networks(recipe, dataset)
    record = _record(recipe, network, dataset, experts)
    count = recipe.expert.count if experts is None else len(experts)
    on_gpu = dataset.device.type == "cuda"
    if on_gpu:
        torch.cuda.reset_peak_memory_stats(dataset.device)

    probe = CostProbe(recipe, network, dataset, train_images, test_images)
    phases = [] if experts is not None else [Phase("experts", probe.expert(), count)]
    with tempfile.TemporaryDirectory() as folder:
        store, seconds = _trajectories(recipe, network, record, experts, Path(folder))
        if seconds is not None:
            phases.append(Phase("convexification", seconds, count))
        iteration, distiller = probe.iteration(store, dummy=experts is None)
    if settings.decoder is not None and settings.decoder.is_fitted:
        phases.append(Phase("fit of the codes", probe.fit(settings.decoder, distiller.initial_images), 1))
    phases.append(Phase("distillation", iteration, settings.iterations))
    evaluation = probe.evaluation(distiller.images, distiller.synthetic.training_labels)
    evaluations = math.ceil(settings.iterations / (settings.evaluate_every or settings.iterations))
    phases.append(Phase("evaluations", evaluation, evaluations))
    phases += _baselines(recipe, evaluation, probe)

    images_missing = train_images + test_images - len(dataset.train_pictures) - len(dataset.test_pictures)
    pixels = dataset.train_pictures.pixels
    missing = images_missing * pixels[0].numel() * pixels.element_size()
    return Plan(
        title=f"{settings.method} on {recipe.data.title}, {settings.ipc} per class",
        architecture=architecture_of(network, *dataset.sizes),
        parameters=record.layout.total,
        device=torch.cuda.get_device_name(dataset.device) if on_gpu else "cpu",
        threads=torch.get_num_threads(),
        backend=choose_backend(settings.backend, distiller.student, distiller.images)[0],
        data=f"noise in the shape of {recipe.data.title}" if dataset.digest == DUMMY_DIGEST else recipe.data.title,
        phases=tuple(phases),
        disk=_disk_of_experts(recipe, record, count, experts)
        | {"run_folder": _disk_of_run(recipe, distiller, dataset)},
        memory=peak_resident() + (0 if on_gpu else missing),
        device_memory=torch.cuda.max_memory_allocated(dataset.device) + missing if on_gpu else None,
        notes=tuple(_notes(recipe, experts)),
    )


def _baselines(recipe: Recipe, evaluation: float, probe: CostProbe) -> list[Phase]:
    """Return the phases after the last iteration: each baseline of few images is tried at two learning rates."""
    settings = recipe.evaluation
    few = sum(name != "full" for name in settings.baselines)
    phases = [Phase("baselines", evaluation, 2 * few)] if few else []
    if "full" in settings.baselines:
        phases.append(Phase("all real data", probe.all_real(), settings.repeats))
    return phases


def _data(recipe: Recipe, device: torch.device) -> tuple[Dataset, int, int]:
    """Return the data, or noise of their shape, and how many training and test images the real data have."""
    shape = shape_of(recipe.data) if recipe.data.path is None else None
    if shape is None:
        dataset = data.load(recipe.data, device)
        return dataset, len(dataset.train_pictures), len(dataset.test_pictures)
    distill = recipe.distill
    with in_group("distill.decoder"):
        decoder = make_decoder(distill.decoder, (shape.channels, shape.side, shape.side), distill.ipc)
    images = max(4 * recipe.expert.training.batch_size, shape.classes * decoder.images_per_class)
    return dummy_data(recipe.data, shape, images, device), shape.train, shape.test


def _record(recipe: Recipe, network: Network, dataset: Dataset, experts: TrajectoryStore | None) -> ExpertsRecord:
    """Return what the experts are; MismatchError if those that exist do not fit the recipe."""
    record = experts_record(dataset, network, recipe.expert)
    if experts is None:
        return record
    if dataset.digest == DUMMY_DIGEST:  # nothing to compare
        record = replace(record, dataset_digest="", preprocessing="")
    experts.record.check(record)
    return experts.record


def _trajectories(
    recipe: Recipe, network: Network, record: ExpertsRecord, experts: TrajectoryStore | None, folder: Path
) -> tuple[TrajectoryStore, float | None]:
    """Return experts of the kind that the method needs, and the seconds to convexify one of them if it has to be."""
    kind = recipe.distill.resolved_method.trajectories
    if experts is not None and experts.kind == kind:
        return experts, None
    store = TrajectoryStore.create(folder / "experts", record)
    store.add(0, dummy_snapshots(network, record) if experts is None else experts.recorded(0).snapshots)
    if kind == "recorded":
        return store, None
    start = perf_counter()
    store = trajectories_for(recipe, store, folder)
    return store, perf_counter() - start


def _disk_of_experts(
    recipe: Recipe, record: ExpertsRecord, count: int, experts: TrajectoryStore | None
) -> dict[str, int]:
    total, epochs = record.layout.total, record.epochs
    disk = {}
    if experts is None or experts.kind == "recorded":
        disk["experts_recorded"] = count * (epochs + 1) * total * FLOAT
    if recipe.distill.resolved_method.trajectories == "convexified":
        waypoints = WAYPOINTS if recipe.distill.waypoints is None else recipe.distill.waypoints
        points = len(waypoint_epochs(epochs, waypoints))
        fractions = 2 * FLOAT * (epochs + points - 1) * len(record.sizes)
        disk["experts_convexified"] = count * (points * total * FLOAT + fractions)
    return disk


def _disk_of_run(recipe: Recipe, distiller: Distiller, dataset: Dataset) -> int:
    """Return the bytes of the last and the best set, the checkpoint and the metrics."""
    labels, encoded = distiller.synthetic.training_labels, distiller.encoded
    codes = [*encoded.codes.values(), *encoded.initial_codes.values(), *encoded.buffers.values()]
    stored = [*codes, labels, *dataset.preprocessing.state()[1].values()]
    checkpoint = _bytes_of(distiller.state()[1].values())
    return 2 * _bytes_of(stored) + checkpoint + 4 * HEADER_BYTES + METRICS_BYTES * recipe.distill.iterations


def _bytes_of(tensors: Iterable[Tensor]) -> int:
    return sum(tensor.numel() * tensor.element_size() for tensor in tensors)


def _notes(recipe: Recipe, experts: TrajectoryStore | None) -> list[str]:
    notes = ["not counted: starting Python and CUDA, reading the data, checkpoints, pictures and logs"]
    if experts is None and recipe.distill.resolved_method.selection == "nearest":
        notes.append(
            "without real experts every iteration is measured at the last student step, which costs most; "
            "with them it is measured at the nearest"
        )
    return notes


def table(cost: Plan) -> str:
    """Format a plan as lines of text."""
    threads = f", threads: {cost.threads}" if cost.device == "cpu" else ""
    lines = [
        f"{cost.title}: {cost.architecture}, {cost.parameters:,} parameters",
        f"measured on {cost.device}{threads}, backend {cost.backend}; data: {cost.data}",
        "",
        f"{'':<16}{'each':>10}{'count':>10}{'total':>12}",
    ]
    lines += [
        f"{phase.name:<16}{duration(phase.seconds_each):>10}{phase.count:>10,}{duration(phase.seconds):>12}"
        for phase in cost.phases
    ]
    lines += [f"{'total':<16}{'':>20}{duration(cost.seconds):>12}", ""]
    lines += [f"{'disk, ' + name.replace('_', ' '):<26}{size(value):>10}" for name, value in cost.disk.items()]
    lines.append(f"{'peak memory':<26}{size(cost.memory):>10}")
    if cost.device_memory is not None:
        lines.append(f"{'peak memory of the GPU':<26}{size(cost.device_memory):>10}")
    return "\n".join([*lines, "", *(f"note: {note}" for note in cost.notes)])
