"""The pictures of a run: its newest images and its curves."""

from __future__ import annotations

from contextlib import nullcontext
from pathlib import Path
from typing import Any

import torch

from pydistill._util.layout import CURVES_NAME, IMAGES_NAME
from pydistill._util.locking import results_writer
from pydistill.artefact.figures import curves_figure, images_figure, is_own_picture, pixels_figure, save_figure
from pydistill.errors import InputError
from pydistill.runs.report.contents import Contents, dig, read_run
from pydistill.synthesis.decoders import Encoded


def draw_run(run: Path, out: Path | None = None) -> list[Path]:
    """Draw images.png and curves.png of a run, finished or not; return the two files.

    Args:
        run: the run folder.
        out: the folder to write them to; by default the run folder.

    Raises:
        InputError: there is no run in the folder, or it has no images yet; or `out` holds other files of these names.
        MissingDependencyError: matplotlib is not installed.
        WriteError: a picture cannot be written.
    """
    contents = read_run(run)
    folder = run if out is None else out
    images, curves = folder / IMAGES_NAME, folder / CURVES_NAME
    for file in (images, curves):
        if folder.resolve() != run.resolve() and file.is_file() and not is_own_picture(file):
            raise InputError(f"{file} exists and is no picture of pydistill's; choose another folder")
    figure = newest_images(contents)
    if figure is None:
        raise InputError(f"the run in {run} has no images yet; its first checkpoint will hold them")
    with results_writer(run) if out is None else nullcontext():
        save_figure(curves_figure(contents.metrics, contents.references), curves)
        save_figure(figure, images)
    return [images, curves]


def newest_images(run: Contents) -> Any | None:
    """Return a figure of the run's newest images: of its set if it has ended, else of its checkpoint or its best set.

    A checkpoint holds preprocessed images. Before the first set is saved the preprocessing is unknown, and colours are
    scaled to the range of all pixels.
    """
    ended = run.is_finished or run.ended_early
    if run.final is not None and (ended or run.checkpoint is None):
        return images_figure(run.final)
    if run.checkpoint is not None:
        return _checkpoint_figure(run, *run.checkpoint)
    if run.best is not None:
        before = None if run.best.initial_images is None else run.best.viewable(run.best.initial_images)
        return pixels_figure(before, run.best.viewable(), run.best.class_names, "after: the best set")
    return None


def _checkpoint_figure(run: Contents, state: dict[str, Any], tensors: dict[str, torch.Tensor]) -> Any:
    encoded = _encoded(state, tensors)
    before, after = encoded.initial_images(), encoded.images()
    title = f"after iteration {dig(state, 'distiller', 'iteration')}"
    distilled = run.final or run.best
    if distilled is not None:
        return pixels_figure(distilled.viewable(before), distilled.viewable(after), distilled.class_names, title)
    low, high = torch.aminmax(torch.cat([before, after]))
    before, after = ((images - low) / (high - low).clamp(min=1e-12) for images in (before, after))
    names = [str(label) for label in range(int(tensors["classes"].max()) + 1)]
    return pixels_figure(before, after, names, f"{title} (colours scaled to the range of all pixels)")


def _encoded(state: dict[str, Any], tensors: dict[str, torch.Tensor]) -> Encoded:
    """Return the images in a checkpoint: of the average if there is one."""

    def named(prefix: str) -> dict[str, torch.Tensor]:
        return {name.removeprefix(prefix): value for name, value in tensors.items() if name.startswith(prefix)}

    initial = named("initial.")
    codes = named("average.") or {name: tensors[name] for name in initial}
    return Encoded(dig(state, "distiller", "decoder"), codes, named("buffer."), initial)
