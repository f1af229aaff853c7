"""Train experts: networks on the real data, with their parameters stored after every epoch."""

from __future__ import annotations

import logging
import os
import shutil
from collections.abc import Callable, Collection
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
from torch import nn

from pydistill._util.checks import SEEDS_BELOW
from pydistill._util.files import WriteError
from pydistill._util.format import counted, size
from pydistill._util.layout import holds_experts
from pydistill._util.settings import Settings, setting
from pydistill.data import Dataset
from pydistill.data.dsa import DsaSettings
from pydistill.errors import DivergedError, InputError, Interrupted, SettingError
from pydistill.matching.check import check_student
from pydistill.nn import Network, architecture_of, build, flatten, layout_of
from pydistill.nn.registry import is_custom
from pydistill.training.representative import train_on_representatives
from pydistill.training.train import TrainingSettings, accuracy, derive_seed, train
from pydistill.trajectories import ExpertsRecord, TrajectoryStore
from pydistill.trajectories.index import file_name

_log = logging.getLogger("pydistill")


# MTT's experts, without momentum and weight decay.
_TRAINING = TrainingSettings(epochs=50, batch_size=256, lr=0.01, dsa=DsaSettings())


@dataclass(frozen=True)
class ExpertSettings(Settings):
    """The number of experts and their training.

    A snapshot is kept at epoch 0 (the initialisation) and after every epoch.
    """

    count: int = setting(10, "experts to have in the store (the papers use 100)", at_least=1, usually_at_most=10_000)
    seed: int = setting(0, "expert i depends on (seed, i) alone", at_least=0, below=SEEDS_BELOW)
    training: TrainingSettings = setting(_TRAINING, "how each expert is trained")
    representative: int | None = setting(
        None, "images per class that experts train on, chosen by k-means on their features; null for all", at_least=1
    )
    representative_every: int = setting(1, "epochs between these choices", at_least=1)

    def _check(self) -> None:
        if self.representative is None:
            return
        if self.training.momentum or self.training.schedule != "constant":
            allowed = "null unless training has momentum 0 and schedule constant, as the images change between epochs"
            raise SettingError("representative", self.representative, allowed)

    def record(self) -> dict[str, Any]:
        """Return what determines an expert besides its number, as its store records it."""
        record = {**asdict(self.training), "seed": self.seed}
        if self.representative is not None:
            record |= {name: getattr(self, name) for name in ("representative", "representative_every")}
        return record


def experts_record(dataset: Dataset, model: Network, settings: ExpertSettings) -> ExpertsRecord:
    """Describe the experts of these settings, as the store records it; their number is not part of it.

    Raises:
        InputError: the network cannot take the data set's images, keeps running statistics, or cannot be a student; or
            a class has fewer images than are to represent it.
    """
    smallest = int(dataset.train_labels.bincount(minlength=dataset.num_classes).min())
    if settings.representative is not None and settings.representative > smallest:
        allowed = f"at most {smallest}, the images of the smallest class of {dataset.name}"
        raise SettingError("representative", settings.representative, allowed)
    network = build(model, *dataset.sizes, seed=0)
    _check_no_running_statistics(network)
    layout = layout_of(network)
    architecture = architecture_of(model, *dataset.sizes, device=dataset.device)
    if is_custom(model):
        check_student(network.to(dataset.device), *dataset.sizes)
    return ExpertsRecord(
        architecture=architecture,
        parameters=tuple(zip(layout.names, layout.shapes, strict=True)),
        dataset=dataset.settings.name if dataset.settings else dataset.name,  # a folder may be renamed
        dataset_digest=dataset.digest,
        preprocessing=dataset.preprocessing.fingerprint,
        in_channels=dataset.in_channels,
        num_classes=dataset.num_classes,
        image_size=dataset.image_size,
        training=settings.record(),
        epochs=settings.training.epochs,
    )


def check_disk(
    dataset: Dataset, model: Network, settings: ExpertSettings, out: str | os.PathLike[str], remedy: str
) -> None:
    """Raise WriteError, before the first epoch, if the disk has no room for the experts.

    Args:
        dataset, model, settings, out: as for `train_experts`; experts that are complete in `out` need no more room.
        remedy: the end of the error message, saying what to do.
    """
    folder = Path(out)
    record = experts_record(dataset, model, settings)
    store = TrajectoryStore.open(folder) if holds_experts(folder) else None
    missing = settings.count if store is None else len(_to_train(store, settings.count, store.verify(content=False)))
    needed = missing * 4 * sum(record.sizes) * (record.epochs + 1)
    existing = next(path for path in (folder.absolute(), *folder.absolute().parents) if path.is_dir())
    disk = shutil.disk_usage(existing)
    if disk.total and needed > disk.free:  # a total of 0 (/proc) is not a disk; writing there fails with its own error
        raise WriteError(
            f"{counted(missing, 'expert')} of {counted(record.epochs, 'epoch')} need {size(needed)} in {folder}, "
            f"and {size(disk.free)} are free; {remedy}"
        )


def train_experts(
    dataset: Dataset,
    model: Network,
    settings: ExpertSettings,
    out: str | os.PathLike[str],
    *,
    on_progress: Callable[[int, int, float, float, float], None] | None = None,
) -> TrajectoryStore:
    """Train experts 0 … count − 1 into the store at `out`; those already there are not changed.

    An expert whose file is missing, or differs from the index in size or header, is trained again, whatever its number,
    with a warning; hashes are not compared here (`TrajectoryStore.verify` does that).

    An expert is written when it is complete, so a run killed at any moment continues after the last complete expert; on
    the CPU the outcome is bit for bit that of an uninterrupted run. The store records the accuracies per epoch: "test"
    is that of the network after the epoch, "train" that on the (augmented) training images while the epoch ran; at
    epoch 0 both are those of the untrained network.

    Args:
        dataset: training happens on its device.
        model: the network, which must not keep running statistics (no batch norm): a trajectory holds parameters only.
        settings: the number of experts and their training.
        out: folder of the store.
        on_progress: called with (expert, epoch, loss, train accuracy, test accuracy) after epoch 1 … epochs.

    Raises:
        InputError: the network does not fit the data, or keeps running statistics; or `out` holds expert files
            without their index.
        FormatError: the index in `out` is damaged, or an expert's file cannot be opened.
        MismatchError: `out` holds experts of another network, data set or training; both sides are named.
        DivergedError: the training of an expert diverged; the experts before it are stored.
        Interrupted: Ctrl-C; the experts that are complete are stored.

    Source: Cazenavette et al., "Dataset distillation by matching training trajectories", CVPR 2022.
    """
    store = TrajectoryStore.create(out, experts_record(dataset, model, settings))
    if settings.training.dsa is not None and dataset.image_size == (1, 1):
        _log.warning("the rows of %s are augmented like pictures; set dsa to none for tables", dataset.name)
    broken = set(store.verify(content=False))
    if broken:
        _log.warning("%s", _retraining_message(store, sorted(broken)))
    missing = _to_train(store, settings.count, broken)
    for expert in missing:
        if expert in store and expert not in broken:  # another process has added it
            continue
        try:
            _train_expert(store, expert, dataset, model, settings, on_progress)
        except KeyboardInterrupt as error:
            total = max(settings.count, missing[-1] + 1)
            raise Interrupted(
                f"stopped in expert {expert + 1} of {total}; {len(store) - len(broken)} are complete and stored, "
                "and the same command trains the rest"
            ) from error
        broken.discard(expert)
    return store


def _to_train(store: TrajectoryStore, count: int, broken: Collection[int]) -> list[int]:
    """List the experts below `count` that are missing, and every broken one, since readers need all of them."""
    return sorted({number for number in range(count) if number not in store} | {*broken})


def _retraining_message(store: TrajectoryStore, broken: list[int]) -> str:
    """Say that the experts of these files are trained again; name up to three files."""
    files = ", ".join(file_name(number) for number in broken[:3]) + (", …" if len(broken) > 3 else "")
    if len(broken) == 1:
        return f"{store.path / files} is missing or damaged; its expert is trained again"
    return f"{len(broken)} files in {store.path} are missing or damaged ({files}); their experts are trained again"


def _train_expert(
    store: TrajectoryStore,
    expert: int,
    dataset: Dataset,
    model: Network,
    settings: ExpertSettings,
    on_progress: Callable[[int, int, float, float, float], None] | None,
) -> None:
    seed = derive_seed("expert", settings.seed, expert)
    network = build(model, *dataset.sizes, seed=seed)
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
        if settings.representative is None:
            train(
                network,
                dataset.train_pictures,
                dataset.train_labels,
                settings.training,
                generator=torch.Generator().manual_seed(seed),
                on_epoch=on_epoch,
            )
        else:
            train_on_representatives(
                network,
                dataset,
                settings.training,
                count=settings.representative,
                every=settings.representative_every,
                seed=seed,
                on_epoch=on_epoch,
            )
    except DivergedError as error:
        raise DivergedError(f"expert {expert}: {error}") from error
    store.add(expert, snapshots, accuracies, {"seed": seed})


def _check_no_running_statistics(network: nn.Module) -> None:
    for name, module in network.named_modules():
        if getattr(module, "running_mean", None) is not None:
            raise InputError(
                f"the network's layer {name} ({type(module).__name__}) keeps running statistics, which a trajectory "
                "does not record; use another norm than batch for experts"
            )
