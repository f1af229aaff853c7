"""Expert trajectories: networks trained on the real data, their parameters kept after every epoch."""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable
from dataclasses import asdict, dataclass, field
from pathlib import Path

import torch
from torch import nn

from pydistill.data import Dataset
from pydistill.data.dsa import DsaSettings
from pydistill.errors import DivergedError, InputError, Interrupted
from pydistill.files import WriteError
from pydistill.kinds import check_fields
from pydistill.nn import Network, architecture_of, build, flatten, layout_of
from pydistill.training import TrainingSettings, accuracy, check_seed, derive_seed, train
from pydistill.trajectories import ExpertsRecord, TrajectoryStore
from pydistill.words import size


def expert_training() -> TrainingSettings:
    """MTT's experts: 50 epochs of SGD at lr 0.01 in batches of 256, no momentum, no weight decay, DSA."""
    return TrainingSettings(epochs=50, batch_size=256, lr=0.01, dsa=DsaSettings())


@dataclass(frozen=True)
class ExpertSettings:
    """How many experts, and how they are trained.

    Args:
        count: experts to have in the store, at least 1 (the papers take 100).
        seed: expert i starts and trains by random numbers that depend on (seed, i) alone.
        training: the recipe; snapshots are kept at epoch 0 (the initialisation) and after each epoch.

    Raises:
        InputError: count below 1, or a seed outside its limits.
    """

    count: int = 10
    seed: int = 0
    training: TrainingSettings = field(default_factory=expert_training)

    def __post_init__(self) -> None:
        check_fields(self)
        if self.count < 1:
            raise InputError(f"count must be at least 1, not {self.count}")
        check_seed("seed of the experts", self.seed)


def experts_record(dataset: Dataset, model: Network, settings: ExpertSettings) -> ExpertsRecord:
    """What the experts of these settings are, as the store keeps it; the number of experts is no part of it.

    Raises:
        InputError: the network cannot take the data set's images, or keeps running statistics.
    """
    sizes = (dataset.in_channels, dataset.num_classes, dataset.image_size)
    network = build(model, *sizes, seed=0)
    _check_no_running_statistics(network)
    layout = layout_of(network)
    return ExpertsRecord(
        architecture=architecture_of(model, *sizes, device=dataset.device),
        parameters=tuple(zip(layout.names, layout.shapes, strict=True)),
        dataset=dataset.name,
        dataset_digest=dataset.digest,
        preprocessing=dataset.preprocessing.fingerprint,
        in_channels=dataset.in_channels,
        num_classes=dataset.num_classes,
        image_size=dataset.image_size,
        training={**asdict(settings.training), "seed": settings.seed},
        epochs=settings.training.epochs,
    )


def check_disk(
    dataset: Dataset, model: Network, settings: ExpertSettings, out: str | os.PathLike[str], remedy: str
) -> None:
    """Refuse, before the first epoch, more experts than the disk can hold.

    Args:
        dataset, model, settings, out: as for `train_experts`; experts that are in `out` already need no more room.
        remedy: what to do about it, the end of the sentence.

    Raises:
        WriteError: it cannot hold them.
    """
    folder = Path(out)
    record = experts_record(dataset, model, settings)
    missing = settings.count - sum(1 for _ in folder.glob("expert_*.safetensors"))
    needed = missing * 4 * sum(record.sizes) * (record.epochs + 1)
    place = next(each for each in (folder.absolute(), *folder.absolute().parents) if each.is_dir())
    disk = shutil.disk_usage(place)
    if disk.total and needed > disk.free:  # what has no size at all (/proc) is no disk, and says itself what it lacks
        who = "1 expert" if missing == 1 else f"{missing} experts"
        raise WriteError(
            f"{who} of {record.epochs} epochs must have {size(needed)} in {folder}, and {size(disk.free)} are free; "
            f"{remedy}"
        )


def train_experts(
    dataset: Dataset,
    model: Network,
    settings: ExpertSettings,
    out: str | os.PathLike[str],
    *,
    on_progress: Callable[[int, int, float, float, float], None] | None = None,
) -> TrajectoryStore:
    """Train experts 0 … count − 1 into the store at `out`; those already there stay as they are.

    An expert is written when it is whole, so a run killed at any moment continues after the last whole expert; on the
    CPU the outcome is bit for bit that of a run which was not killed. Each is kept with its accuracy per epoch:
    "test" of the network after that epoch, "train" of the (augmented) training images while the epoch ran; at epoch 0
    both of the untrained network.

    Args:
        dataset: training happens on its device.
        model: the network, which must not keep running statistics (no batch norm): a trajectory holds parameters only.
        settings: how many and how.
        out: folder of the store.
        on_progress: called with (expert, epoch, loss, train accuracy, test accuracy) after epoch 1 … epochs.

    Raises:
        InputError: the network does not fit the data, or keeps running statistics.
        MismatchError: `out` holds experts of another network, data set or training; both sides are named.
        DivergedError: an expert left the finite numbers; the experts before it are kept.
        Interrupted: Ctrl-C; the experts that are whole are kept.

    Source: Cazenavette et al., "Dataset distillation by matching training trajectories", CVPR 2022.
    """
    store = TrajectoryStore.create(out, experts_record(dataset, model, settings))
    for expert in range(settings.count):
        if expert not in store:
            try:
                _train_expert(store, expert, dataset, model, settings, on_progress)
            except KeyboardInterrupt as error:
                raise Interrupted(
                    f"stopped in expert {expert + 1} of {settings.count}; the {len(store)} whole ones are kept, "
                    "the same command trains the others"
                ) from error
    return store


def _train_expert(
    store: TrajectoryStore,
    expert: int,
    dataset: Dataset,
    model: Network,
    settings: ExpertSettings,
    on_progress: Callable[[int, int, float, float, float], None] | None,
) -> None:
    seed = derive_seed("expert", settings.seed, expert)
    network = build(model, dataset.in_channels, dataset.num_classes, dataset.image_size, seed=seed)
    network = network.to(dataset.device)
    snapshots = torch.empty(settings.training.epochs + 1, store.record.layout.total)
    snapshots[0] = flatten(network)
    accuracies = {
        "train": [accuracy(network, dataset.train_pictures, dataset.train_labels)],
        "test": [accuracy(network, dataset.test_pictures, dataset.test_labels)],
    }

    def on_epoch(epoch: int, loss: float, train_accuracy: float) -> None:
        snapshots[epoch] = flatten(network)
        test_accuracy = accuracy(network, dataset.test_pictures, dataset.test_labels)
        accuracies["train"].append(train_accuracy)
        accuracies["test"].append(test_accuracy)
        if on_progress is not None:
            on_progress(expert, epoch, loss, train_accuracy, test_accuracy)

    try:
        train(
            network,
            dataset.train_pictures,
            dataset.train_labels,
            settings.training,
            generator=torch.Generator().manual_seed(seed),
            on_epoch=on_epoch,
        )
    except DivergedError as error:
        raise DivergedError(f"expert {expert}: {error}") from error
    store.add(expert, snapshots, accuracies, {"seed": seed})


def _check_no_running_statistics(network: nn.Module) -> None:
    for name, module in network.named_modules():
        if getattr(module, "running_mean", None) is not None:
            raise InputError(
                f"the network's layer {name} ({type(module).__name__}) keeps running statistics, which are no "
                "parameters and which a trajectory does not record; take another norm for experts than batch"
            )
