"""The files that the published scripts leave in logged_files: written while a run goes on."""

from __future__ import annotations

from dataclasses import dataclass
from itertools import count
from pathlib import Path

import torch
from torch import Tensor

from pydistill._util.layout import BEST_NAME
from pydistill.artefact.file import Artefact
from pydistill.compat.flags import Script
from pydistill.data import Preprocessing
from pydistill.distillation.distiller import IterationReport
from pydistill.errors import InputError
from pydistill.evaluation.evaluate import Evaluation
from pydistill.runs.callbacks import RunCallback
from pydistill.runs.folder import RunFolder
from pydistill.trajectories.formats.common import save_torch

ALWAYS_EVERY = 1000
RUN = "run"
LOG_FOLDERS = "logged_files"


def log_folder(dataset: str, name: str | None, script: Script, *, resume: bool) -> Path:
    """logged_files/DATASET/NAME; without a name the script's own, or the next free number of it.

    Raises:
        InputError: a run is to be continued and has no name, or the name is taken and it is not, or it is no name of a
            folder.
    """
    parent = Path(LOG_FOLDERS) / dataset
    if name is None:
        if resume:
            raise InputError(f"--resume needs the run's --name, the folder in {parent}")
        stem: str = "convexified_v1" if script == "mct" else script
        names = (stem if number == 1 else f"{stem}-{number}" for number in count(1))
        return next(parent / free for free in names if not (parent / free).exists())
    if Path(name).name != name or name in ("", ".", ".."):  # Path("..").name is ".."
        raise InputError(f"--name must be the name of a folder in {parent}, not {name!r}")
    if (parent / name).exists() and not resume:
        raise InputError(f"{parent / name} is there already; give another --name, or --resume to continue it")
    return parent / name


@dataclass(frozen=True)
class Naming:
    """The folder and the file names of a script's sets; {} is the iteration, or "best".

    Attributes:
        folder: of the files.
        images, labels: names of the images and their labels.
        inverted: name of the images without their ZCA whitening, or None if the script leaves none.
    """

    folder: Path
    images: str = "images_{}.pt"
    labels: str = "labels_{}.pt"
    inverted: str | None = "images_zca_{}.pt"

    @classmethod
    def of(cls, script: Script, folder: Path, ipc: int) -> Naming:
        """The naming of what is evaluated: for ATT the moving average, in ema_logged_files."""
        if script == "mct":
            return cls(folder, f"images_ipc-{ipc}_{{}}.pt", f"labels_ipc-{ipc}_{{}}.pt", None)
        if script == "att":
            return cls(Path(f"ema_{folder}"), "ema_images_{}.pt", "ema_labels_{}.pt")
        return cls(folder)

    def write(self, when: str, images: Tensor, labels: Tensor) -> None:
        """Write images and labels of one moment."""
        save_torch(images.detach().cpu().clone(), self.folder / self.images.format(when))
        save_torch(labels.detach().cpu().clone(), self.folder / self.labels.format(when))


class LegacyFiles(RunCallback):
    """An observer that leaves `images_N.pt`, `labels_N.pt`, `images_best.pt`, `labels_best.pt` and, beside what is
    published, `lr_best.pt`.

    N is an iteration at which the set was evaluated and was the best so far, or a multiple of 1,000 (0: the first
    images). What the run did before it was continued is read from its metrics.

    Args:
        naming: where to and by which names.
        folder: the run's.
        classes: of each image.
        soft: whether the labels are probabilities, which the best set's artefact holds.
        preprocessing: of the data; whitened images are also left without their whitening.
        invert: whether to leave those at all.
        raw: for ATT, whose images are an average: the naming of the pixels themselves.
    """

    def __init__(
        self,
        naming: Naming,
        folder: RunFolder,
        classes: Tensor,
        preprocessing: Preprocessing,
        *,
        soft: bool = False,
        invert: bool = True,
        raw: Naming | None = None,
    ) -> None:
        self._naming, self._folder, self._classes, self._soft = naming, folder, classes, soft
        self._preprocessing, self._raw = preprocessing, raw
        self._inverts = invert and preprocessing.kind == "zca" and naming.inverted is not None
        self._lr = 0.0
        self._best: float | None = None
        self._due: tuple[int, bool] | None = None  # what to write when the images come: iteration, is it the best
        self._read = False

    def on_iteration(self, report: IterationReport) -> None:
        """Keep the learning rate."""
        self._lr = report.lr

    def on_evaluation(self, iteration: int, evaluation: Evaluation) -> None:
        """Keep whether it is the best so far."""
        self._note(iteration, evaluation.mean)

    def on_images(self, iteration: int, images: Tensor) -> None:
        """Write the files of this moment, if there are any."""
        if not self._read:
            self._read_metrics(iteration)
        if iteration == 0 and not self._soft:
            self._write("0", images)
            if self._raw is not None:
                self._raw.write("0", images, self._classes)
        if self._due is not None and self._due[0] == iteration:
            is_best = self._due[1]
            moments = [str(iteration)] if is_best or iteration % ALWAYS_EVERY == 0 else []
            for when in [*moments, *(["best"] if is_best else [])]:
                self._write(when, images)
                if self._raw is not None:
                    self._raw.write(when, self._folder.load_checkpoint()[1]["images"], self._classes)
            if is_best:
                save_torch(torch.tensor(self._lr, dtype=torch.float64), self._naming.folder / "lr_best.pt")
        self._due = None

    def _note(self, iteration: int, accuracy: float) -> None:
        is_best = self._best is None or accuracy > self._best
        if is_best:
            self._best = accuracy
        self._due = (iteration, is_best)

    def _read_metrics(self, iteration: int) -> None:
        """The evaluations before a run was resumed at `iteration`; the last set may not have been written."""
        self._read = True
        if iteration == 0:
            return
        for record in self._folder.metrics():
            if record["event"] == "evaluation":
                self._note(record["iteration"], record["mean"])
            elif record["event"] == "iteration":
                self._lr = record["lr"]

    def _write(self, when: str, images: Tensor) -> None:
        labels = Artefact.load(self._folder.path / BEST_NAME).labels if self._soft else self._classes
        self._naming.write(when, images, labels)
        if self._inverts and self._naming.inverted is not None and when != "best":
            inverted = self._preprocessing.invert(images).cpu().clone()
            save_torch(inverted, self._naming.folder / self._naming.inverted.format(when))
