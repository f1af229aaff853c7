"""Write the files of the published scripts to logged_files during a run."""

from __future__ import annotations

import argparse
from dataclasses import dataclass
from itertools import count
from pathlib import Path

import torch
from torch import Tensor

from pydistill._util.files import remove_leftovers
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

_ALWAYS_EVERY = 1000
RUN = "run"
_LOG_FOLDERS = "logged_files"


def log_folder(values: argparse.Namespace, script: Script) -> Path:
    """Return logged_files/DATASET/NAME, for DATM …/DATASET/IPC/MODEL/NAME.

    Without a name it is that of the script, with -2, -3, … if it exists.
    """
    name: str | None = values.name
    resume: bool = values.resume
    parent = Path(_LOG_FOLDERS) / str(values.dataset)
    if script == "datm":
        parent = parent / str(values.ipc) / str(values.model)
    if name is None:
        if resume:
            raise InputError(f"--resume needs the run's --name, the folder in {parent}")
        stem: str = "convexified_v1" if script == "mct" else script
        names = (stem if number == 1 else f"{stem}-{number}" for number in count(1))
        return next(parent / name for name in names if not (parent / name).exists())
    if Path(name).name != name or name in ("", ".", ".."):  # Path("..").name is ".."
        raise InputError(f"--name must be the name of a folder in {parent}, not {name!r}")
    if (parent / name).exists() and not resume:
        raise InputError(f"{parent / name} exists; choose another --name, or continue it with --resume")
    return parent / name


@dataclass(frozen=True)
class Naming:
    """Folder and file names of a script's distilled sets; {} stands for the iteration or "best".

    Attributes:
        folder: of the files.
        images, labels: names of the images and their labels.
        inverted: name of the images without ZCA whitening, or None if the script does not write them.
        logits: the labels are logits.
        every_lr: the learning rate is written with every set, not with the best alone.
    """

    folder: Path
    images: str = "images_{}.pt"
    labels: str = "labels_{}.pt"
    inverted: str | None = "images_zca_{}.pt"
    logits: bool = False
    every_lr: bool = False

    @classmethod
    def of(cls, script: Script, folder: Path, ipc: int) -> Naming:
        """Return the naming of the evaluated set; for ATT and FTD the moving average, in ema_logged_files."""
        if script == "mct":
            return cls(folder, f"images_ipc-{ipc}_{{}}.pt", f"labels_ipc-{ipc}_{{}}.pt", None)
        if script in ("att", "ftd"):
            return cls(Path(f"ema_{folder}"), "ema_images_{}.pt", "ema_labels_{}.pt")
        if script == "datm":
            return cls(folder / "Normal", logits=True, every_lr=True)
        return cls(folder)

    def write(self, when: str, images: Tensor, labels: Tensor) -> None:
        """Write images and labels; `when` is the iteration or "best"."""
        save_torch(images.detach().cpu().clone(), self.folder / self.images.format(when))
        save_torch(labels.detach().cpu().clone(), self.folder / self.labels.format(when))


class ScriptFiles(RunCallback):
    """Callback that writes the files of a script: `images_N.pt`, `labels_N.pt`, the same of `best`, and `lr_best.pt`.

    N is 0 for the initial images, an iteration whose evaluation is the best so far, or an evaluated multiple of 1,000.
    The evaluations before a resumed iteration are read from the run's metrics.

    Args:
        naming: folder and names of the files.
        folder: folder of the run.
        classes: class of every image.
        preprocessing: preprocessing of the data; whitened images are also written without the whitening.
        soft: take the labels from the artefact of the best set, where they are probabilities; or, as logits, from the
            checkpoint.
        invert: write the images without whitening.
        raw: for ATT and FTD, whose images are a moving average: naming of the pixels themselves.
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
        self._due: tuple[int, bool] | None = None  # the evaluation before on_images: iteration, is it the best
        self._read = False

    def on_start(self, iteration: int) -> None:
        """Delete the temporary files of a killed command; the lock of the run guards this folder too."""
        remove_leftovers(self._naming.folder, ("*.pt",), of_safetensors=False)

    def on_iteration(self, report: IterationReport) -> None:
        """Remember the learning rate."""
        self._lr = report.lr

    def on_evaluation(self, iteration: int, evaluation: Evaluation) -> None:
        """Remember whether this evaluation is the best so far."""
        self._note(iteration, evaluation.mean)

    def on_images(self, iteration: int, images: Tensor) -> None:
        """Write the files that are due at this iteration."""
        if not self._read:
            self._read_metrics(iteration)
        if iteration == 0 and not self._soft:
            self._write("0", images)
            if self._raw is not None:
                self._raw.write("0", images, self._classes)
        if self._due is not None and self._due[0] == iteration:
            is_best = self._due[1]
            names = [str(iteration)] if is_best or iteration % _ALWAYS_EVERY == 0 else []
            for when in [*names, *(["best"] if is_best else [])]:
                self._write(when, images)
                if self._raw is not None:
                    self._raw.write(when, self._folder.load_checkpoint()[1]["images"], self._classes)
                if when == "best" or self._naming.every_lr:
                    save_torch(torch.tensor(self._lr, dtype=torch.float64), self._naming.folder / f"lr_{when}.pt")
        self._due = None

    def _note(self, iteration: int, accuracy: float) -> None:
        is_best = self._best is None or accuracy > self._best
        if is_best:
            self._best = accuracy
        self._due = (iteration, is_best)

    def _read_metrics(self, iteration: int) -> None:
        """Read the evaluations before a resumed `iteration`, as the files of the last one may be missing."""
        self._read = True
        if iteration == 0:
            return
        for record in self._folder.metrics():
            if record["event"] == "evaluation":
                self._note(record["iteration"], record["mean"])
            elif record["event"] == "iteration":
                self._lr = record["lr"]

    def _write(self, when: str, images: Tensor) -> None:
        self._naming.write(when, images, self._labels())
        if self._inverts and self._naming.inverted is not None and when != "best":
            inverted = self._preprocessing.invert(images).cpu().clone()
            save_torch(inverted, self._naming.folder / self._naming.inverted.format(when))

    def _labels(self) -> Tensor:
        if not self._soft:
            return self._classes
        if self._naming.logits:
            return self._folder.load_checkpoint()[1]["label_logits"]
        return Artefact.load(self._folder.path / BEST_NAME).labels
