"""Pictures: the distilled images before and after, and how accuracy, loss and the chosen step went."""

from __future__ import annotations

import importlib.util
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from pydistill._util.files import atomic_path
from pydistill._util.png import MOST_COLUMNS, tile
from pydistill.artefact.file import Artefact
from pydistill.errors import MissingDependencyError

SOURCE, MADE_BY = "Source", "pydistill"  # a text in the PNG file, before its pixels


def _figure() -> Any:
    """matplotlib's Figure, without pyplot: the user's backend stays as it is."""
    try:
        from matplotlib.figure import Figure
    except ImportError as error:
        raise _no_matplotlib() from error
    return Figure


def _no_matplotlib() -> MissingDependencyError:
    return MissingDependencyError("pictures need matplotlib; install it with: pip install 'pydistill[cli]'")


def check_pictures() -> None:
    """Refuse what cannot be drawn, before anything is computed.

    Raises:
        MissingDependencyError: matplotlib is not installed.
    """
    if importlib.util.find_spec("matplotlib") is None:
        raise _no_matplotlib()


def images_figure(artefact: Artefact) -> Any:
    """A matplotlib figure of the images before the first iteration (if they are known) above those after the last.

    Raises:
        MissingDependencyError: matplotlib is not installed.
    """
    before = None if artefact.initial_images is None else artefact.viewable(artefact.initial_images)
    return pixels_figure(before, artefact.viewable(), artefact.class_names)


def pixels_figure(before: Tensor | None, after: Tensor, names: Sequence[str], told: str = "after: distilled") -> Any:
    """A matplotlib figure of images before and after.

    Args:
        before: [n, C, H, W] in [0, 1], equally many of each class, class by class; None if they are not known.
        after: the same.
        names: of all classes.
        told: what `after` is.

    Raises:
        MissingDependencyError: matplotlib is not installed.
    """
    shown = [("before: real images", before), (told, after)]
    pictures = [(title, tile(images, len(names))) for title, images in shown if images is not None]
    height, width = pictures[0][1].shape[1:]
    wide = 10.0
    figure = _figure()(figsize=(wide, len(pictures) * (wide * height / width + 0.5)), layout="constrained")
    axes = figure.subplots(len(pictures), 1, squeeze=False)[:, 0]
    for axis, (title, picture) in zip(axes, pictures, strict=True):
        gray = picture.shape[0] != 3
        pixels = (picture.mean(dim=0) if gray else picture.permute(1, 2, 0)).cpu().numpy()
        axis.imshow(pixels, cmap="gray" if gray else None, vmin=0, vmax=1)
        axis.set_title(title)
        axis.set_yticks([])
        axis.set_xticks([])
        if len(names) <= MOST_COLUMNS:
            side = width / len(names)
            axis.set_xticks([(number + 0.5) * side - 0.5 for number in range(len(names))], names)
    return figure


def save_curves(metrics: Sequence[dict[str, Any]], path: Path, references: dict[str, float] | None = None) -> None:
    """Draw accuracy (mean ± std over networks), matching loss and chosen step against the iteration into one PNG file.

    Args:
        metrics: the lines of a run's metrics.jsonl.
        path: where the picture goes.
        references: accuracies in [0, 1] to draw as horizontal lines, by name.
    """
    iterations = [line for line in metrics if line["event"] == "iteration" and line["loss"] is not None]
    evaluations = [line for line in metrics if line["event"] == "evaluation"]
    figure = _figure()(figsize=(9, 10), layout="constrained")
    accuracy, loss, step = figure.subplots(3, 1, sharex=True)

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
    save_figure(figure, path)


def save_figure(figure: Any, path: Path) -> None:
    """Draw a figure into one PNG file, atomically."""
    with atomic_path(path) as temporary:
        figure.savefig(temporary, dpi=120, format="png", metadata={SOURCE: MADE_BY})


def is_drawn_here(path: Path) -> bool:
    """Whether the file is a picture that `save_figure` has written."""
    with open(path, "rb") as content:
        return f"{SOURCE}\0{MADE_BY}".encode() in content.read(1024)
