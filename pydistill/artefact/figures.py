"""Draw matplotlib figures of a distilled set and of a run's metrics."""

from __future__ import annotations

import io
import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Literal

import torch
from torch import Tensor

from pydistill._util.files import atomic_path
from pydistill._util.png import MOST_COLUMNS, tile
from pydistill.artefact.file import Artefact
from pydistill.errors import MissingDependencyError

SOURCE, MADE_BY = "Source", "pydistill"  # a text chunk in the PNG file, before its pixels
_MAX_STUDENTS = 6  # in the plot of distances
_MANY_POINTS = 2_000  # of a series: more are pixels in an SVG file, which fewer would make slower to draw

Records = Sequence[Mapping[str, Any]]


def images_figure(artefact: Artefact) -> Any:
    """Return a figure of the images before the first iteration, if recorded, above those after the last."""
    before = None if artefact.initial_images is None else artefact.viewable(artefact.initial_images)
    title = f"after: distilled, {artefact.storage}"
    return pixels_figure(before, artefact.viewable(), artefact.class_names, title)


def pixels_figure(before: Tensor | None, after: Tensor, names: Sequence[str], title: str = "after: distilled") -> Any:
    """Return a figure of images before and after, a column per class.

    Args:
        before, after: [n, C, H, W] in [0, 1], sorted by class, the same number per class; `before` may be missing.
        names: of all classes.
        title: of `after`.
    """
    titled = [("before: initial images", before), (title, after)]
    pictures = [(title, tile(images, len(names))) for title, images in titled if images is not None]
    height, width = pictures[0][1].shape[1:]
    figure = _figure(10.0, len(pictures) * (10.0 * height / width + 0.5))
    axes = figure.subplots(len(pictures), 1, squeeze=False)[:, 0]
    for axis, (title, picture) in zip(axes, pictures, strict=True):
        grey = picture.shape[0] != 3
        pixels = (picture.mean(dim=0) if grey else picture.permute(1, 2, 0)).cpu().numpy()
        axis.imshow(pixels, cmap="gray" if grey else None, vmin=0, vmax=1)
        axis.set_title(title)
        axis.set_yticks([])
        axis.set_xticks([])
        if len(names) <= MOST_COLUMNS:
            side = width / len(names)
            axis.set_xticks([(number + 0.5) * side - 0.5 for number in range(len(names))], names)
    return figure


def curves_figure(metrics: Records, references: Mapping[str, float] | None = None) -> Any:
    """Return a figure of a run's curves: accuracy, loss, step K, learning rate, distances to the target, and time.

    Args:
        metrics: the events of metrics.jsonl.
        references: the accuracies in [0, 1] with which the set is compared, by name.
    """
    events = {kind: [line for line in metrics if line["event"] == kind] for kind in ("iteration", "evaluation")}
    iterations = events["iteration"]
    figure = _figure(11.0, 11.0, layout=None)  # fixed margins take half the time of computed ones
    figure.subplots_adjust(left=0.08, right=0.98, top=0.99, bottom=0.05, wspace=0.22, hspace=0.2)
    accuracy, loss, step, rate, distance, seconds = figure.subplots(3, 2).flat
    _draw_accuracy(accuracy, events["evaluation"], references or {})
    _draw_series(loss, iterations, "loss", "matching loss L", log=True)
    rejected = [line["iteration"] for line in iterations if line.get("rejected")]
    if rejected:
        loss.plot(rejected, [0.02] * len(rejected), "x", color="C3", transform=loss.get_xaxis_transform())
        loss.set_xlabel("iteration (×: update not applied)")
    _draw_series(step, iterations, "step", "chosen step K", marker=".")
    _draw_series(rate, iterations, "lr", "student's learning rate α")
    _draw_distances(distance, [line for line in metrics if line["event"] == "distances"])
    _draw_series(seconds, iterations, "seconds", "seconds per iteration")
    for axis in figure.axes:
        axis.grid(alpha=0.3)
        if axis.get_legend_handles_labels()[1]:
            axis.legend(loc="best", fontsize="small")
    return figure


def save_figure(figure: Any, path: Path) -> None:
    """Write a figure to a PNG file, atomically."""
    with atomic_path(path) as temporary:
        figure.savefig(temporary, dpi=120, format="png", metadata={SOURCE: MADE_BY})


def figure_bytes(figure: Any, kind: str) -> bytes:
    """Return a figure as the content of a "png" or "svg" file."""
    content = io.BytesIO()
    figure.savefig(content, dpi=120, format=kind)
    return content.getvalue()


def is_own_picture(path: Path) -> bool:
    """Return whether `save_figure` wrote the file."""
    with open(path, "rb") as content:
        return f"{SOURCE}\0{MADE_BY}".encode() in content.read(1024)


def _figure(width: float, height: float, layout: Literal["constrained"] | None = "constrained") -> Any:
    """Make a figure without pyplot, which would touch the user's backend."""
    try:
        from matplotlib.figure import Figure
    except ImportError as error:
        raise MissingDependencyError("pictures need matplotlib: pip install matplotlib") from error
    return Figure(figsize=(width, height), layout=layout)


def _draw_accuracy(axis: Any, evaluations: Records, references: Mapping[str, float]) -> None:
    """Draw mean ± standard deviation over networks, in percent."""
    numbers = [line["iteration"] for line in evaluations]
    means, deviations = ([100 * line[name] for line in evaluations] for name in ("mean", "std"))
    axis.errorbar(numbers, means, deviations, marker="o", capsize=3, label="distilled")
    for number, (name, mean) in enumerate(references.items(), start=1):
        axis.axhline(100 * mean, linestyle="--", color=f"C{number}", label=name)
    axis.set(xlabel="iteration", ylabel="test accuracy (%)")


def _draw_series(axis: Any, iterations: Records, name: str, label: str, *, marker: str = "", log: bool = False) -> None:
    """Draw a number per iteration, faintly, and its running mean; several per iteration are averaged."""
    axis.set(xlabel="iteration", ylabel=label)
    points = [(line["iteration"], _mean(line[name])) for line in iterations if line.get(name) is not None]
    if not points:
        return
    numbers, values = zip(*points, strict=True)
    style = {"linestyle": "" if marker else "-", "marker": marker, "linewidth": 0.6, "alpha": 0.4}
    axis.plot(numbers, values, **style, rasterized=len(values) > _MANY_POINTS)
    window = max(1, len(values) // 50)
    smooth = torch.tensor(values, dtype=torch.float64).unfold(0, window, 1).mean(dim=1).tolist()
    axis.plot(numbers[window - 1 :], smooth, color="C0", label=f"mean over {window}" if window > 1 else None)
    if log and min(values) > 0 and max(values) > 20 * min(values):
        axis.set_yscale("log")


def _draw_distances(axis: Any, students: Records) -> None:
    """Draw d(θ_k, θ*) / d(θ_0, θ*) along the student's steps, early and late in the run; dots mark the chosen steps."""
    axis.set(xlabel="student step k", ylabel="distance to the target, relative")
    students = [line for line in students if line["distances"] and line["distances"][0]]
    shown = students[:: max(1, math.ceil(len(students) / _MAX_STUDENTS))]
    for number, line in enumerate(shown):
        start = line["distances"][0]
        values = [math.nan if distance is None else distance / start for distance in line["distances"]]
        colour = (0.9 - 0.8 * number / len(shown), 0.4, 0.1 + 0.8 * number / len(shown))
        axis.plot(values, color=colour, label=f"iteration {line['iteration']:,}")
        axis.plot(line["step"], values[line["step"]], "o", color=colour)


def _mean(value: float | Sequence[float]) -> float:
    return math.fsum(value) / len(value) if isinstance(value, Sequence) else value
