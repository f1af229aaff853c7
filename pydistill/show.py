"""Pictures: the distilled images before and after, and how accuracy, loss and the chosen step went."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from pydistill.artefact import Artefact
from pydistill.errors import MissingDependencyError
from pydistill.files import atomic_path

MOST_COLUMNS = 20


def _pyplot() -> Any:
    try:
        import matplotlib as mpl

        mpl.use("Agg")
        from matplotlib import pyplot
    except ImportError as error:
        raise MissingDependencyError(
            "pictures need matplotlib; install it with: pip install 'pydistill[cli]'"
        ) from error
    return pyplot


def tile(images: Tensor, classes: int) -> Tensor:
    """One picture [C, H', W'] of images [n, C, H, W] in [0, 1]: a column per class, a row per image of a class.

    More than 20 classes wrap into bands of 20 columns. Each image has a border of one white pixel.
    """
    per_class = images.shape[0] // classes
    padded = torch.nn.functional.pad(images, (1, 1, 1, 1), value=1.0)
    bands = []
    for first in range(0, classes, MOST_COLUMNS):
        last = min(first + MOST_COLUMNS, classes)
        rows = [
            torch.cat([padded[label * per_class + row] for label in range(first, last)], dim=2)
            for row in range(per_class)
        ]
        band = torch.cat(rows, dim=1)
        missing = (min(classes, MOST_COLUMNS) - (last - first)) * padded.shape[3]
        bands.append(torch.nn.functional.pad(band, (0, missing), value=1.0))
    return torch.cat(bands, dim=1)


def save_images(artefact: Artefact, path: Path) -> None:
    """Draw the images before the first iteration above those after the last into one PNG file."""
    pyplot = _pyplot()
    names = artefact.provenance["dataset"]["classes"]
    pictures = [tile(artefact.viewable(images), len(names)) for images in (artefact.initial_images, artefact.images)]
    height, width = pictures[0].shape[1:]
    wide = 10.0
    figure, axes = pyplot.subplots(2, 1, figsize=(wide, 2 * (wide * height / width + 0.5)), constrained_layout=True)
    for axis, picture, title in zip(axes, pictures, ("before: real images", "after: distilled"), strict=True):
        gray = picture.shape[0] == 1
        pixels = (picture[0] if gray else picture.permute(1, 2, 0)).cpu().numpy()
        axis.imshow(pixels, cmap="gray" if gray else None, vmin=0, vmax=1)
        axis.set_title(title)
        axis.set_yticks([])
        axis.set_xticks([])
        if len(names) <= MOST_COLUMNS:
            side = width / len(names)
            axis.set_xticks([(number + 0.5) * side - 0.5 for number in range(len(names))], names)
    _save(pyplot, figure, path)


def save_curves(metrics: Sequence[dict[str, Any]], path: Path, references: dict[str, float] | None = None) -> None:
    """Draw accuracy (mean ± std over networks), matching loss and chosen step against the iteration into one PNG file.

    Args:
        metrics: the lines of a run's metrics.jsonl.
        path: where the picture goes.
        references: accuracies in [0, 1] to draw as horizontal lines, by name.
    """
    pyplot = _pyplot()
    iterations = [line for line in metrics if line["event"] == "iteration" and line["loss"] is not None]
    evaluations = [line for line in metrics if line["event"] == "evaluation"]
    figure, (accuracy, loss, step) = pyplot.subplots(3, 1, figsize=(9, 10), sharex=True, constrained_layout=True)

    accuracy.errorbar(
        [line["iteration"] for line in evaluations],
        [100 * line["mean"] for line in evaluations],
        [100 * line["std"] for line in evaluations],
        marker="o",
        capsize=3,
        label="distilled",
    )
    for number, (name, value) in enumerate((references or {}).items()):
        accuracy.axhline(100 * value, linestyle="--", color=f"C{number + 1}", label=name)
    accuracy.set_ylabel("test accuracy (%)")
    accuracy.legend(loc="best")

    numbers, losses = [line["iteration"] for line in iterations], [line["loss"] for line in iterations]
    loss.plot(numbers, losses, linewidth=0.6, alpha=0.4, color="C0")
    window = max(1, len(losses) // 50)
    smooth = torch.tensor(losses, dtype=torch.float64).unfold(0, window, 1).mean(dim=1).tolist() if losses else []
    loss.plot(numbers[window - 1 :], smooth, color="C0", label=f"mean over {window}")
    loss.set_ylabel("matching loss")
    loss.legend(loc="upper right")

    step.plot(numbers, [line["step"] for line in iterations], ".", markersize=2)
    step.set_ylabel("chosen step")
    step.set_xlabel("iteration")
    for axis in (accuracy, loss, step):
        axis.grid(alpha=0.3)
    _save(pyplot, figure, path)


def _save(pyplot: Any, figure: Any, path: Path) -> None:
    with atomic_path(path) as temporary:
        figure.savefig(temporary, dpi=120, format="png")
    pyplot.close(figure)
