"""The distilled images as they are now, each as a picture inside the page."""

from __future__ import annotations

import base64
from dataclasses import dataclass

import torch
from torch import Tensor

from pydistill._util.layout import SET_NAME
from pydistill._util.png import png_bytes
from pydistill.artefact.file import Artefact
from pydistill.runs.report.contents import Contents, dig, iteration_of

MOST_IMAGES = 1000
MOST_BYTES = 8_000_000


@dataclass(frozen=True)
class Shown:
    """Images before the first iteration and after the last one known, as pixels in [0, 1].

    Attributes:
        before: [n, C, H, W]; None if they are not known (an imported set).
        after: [n, C, H, W].
        classes: [n], the class of each.
        names: of the classes, as far as they are known.
        iteration: after which `after` is.
        note: what the reader must know of the colours, or nothing.
        artefact: the newest saved set of the run, or None before the first.
    """

    before: Tensor | None
    after: Tensor
    classes: Tensor
    names: list[str]
    iteration: int
    note: str
    artefact: Artefact | None


def newest_images(run: Contents, *, saved: bool = False) -> Shown | None:
    """The newest images of a run: of its last set, of its best one or of its checkpoint, whichever is the latest.

    Before the first set is saved the preprocessing is not known, and images are shown scaled to their own range.

    Args:
        run: the run folder.
        saved: the run has ended: its set is shown, whatever the checkpoint is.
    """
    if saved and SET_NAME in run.sets:
        return _of_artefact(run.sets[SET_NAME])
    newest = max(run.sets.values(), key=iteration_of, default=None)
    if run.checkpoint is not None:
        state, tensors = run.checkpoint
        iteration = int(dig(state, "distiller", "iteration", default=0))
        if newest is None or iteration > iteration_of(newest):
            return _of_checkpoint(tensors, iteration, newest)
    return None if newest is None else _of_artefact(newest)


def _of_artefact(newest: Artefact) -> Shown:
    before = None if newest.initial_images is None else newest.viewable(newest.initial_images)
    return Shown(before, newest.viewable(), newest.classes, _names(newest), iteration_of(newest), "", newest)


def _names(artefact: Artefact) -> list[str]:
    return [str(name) for name in dig(artefact.provenance, "dataset", "classes", default=[])]


def _of_checkpoint(tensors: dict[str, Tensor], iteration: int, known: Artefact | None) -> Shown | None:
    if not {"images", "initial_images", "classes"} <= tensors.keys():
        return None
    before, after = tensors["initial_images"], tensors.get("average", tensors["images"])
    if known is not None and known.images.shape == after.shape:
        before, after = known.viewable(before), known.viewable(after)
        return Shown(before, after, tensors["classes"], _names(known), iteration, "", known)
    both = torch.cat([before, after]).float()
    finite = both[both.isfinite()]
    low, high = (float(finite.min()), float(finite.max())) if len(finite) else (0.0, 1.0)
    before, after = (
        ((each.float() - low) / ((high - low) or 1.0)).nan_to_num(0, 1, 0).clamp(0, 1) for each in (before, after)
    )
    note = "Colours are scaled to the range of all pixels: the preprocessing is known from the first evaluation on."
    return Shown(before, after, tensors["classes"], [], iteration, note, None)


def shown_per_class(shown: Shown) -> dict[int, list[int]]:
    """The images of each class that the page has room for, by class: all of them, or the first of each."""
    by_class: dict[int, list[int]] = {}
    for number, label in enumerate(shown.classes.tolist()):
        by_class.setdefault(int(label), []).append(number)
    if not by_class:
        return {}
    room = min(MOST_IMAGES, MOST_BYTES // max(1, 2 * shown.after[0].numel()))
    each = max(1, room // len(by_class))
    return {label: numbers[:each] for label, numbers in sorted(by_class.items())}


def data_uri(image: Tensor) -> str:
    """A picture [C, H, W] in [0, 1] as a PNG in a data URI: gray, colour, or the channels side by side in gray."""
    pixels = image.detach().cpu().float().nan_to_num(0, 1, 0)
    if image.shape[0] != 3:
        pixels = torch.cat(list(pixels), dim=1)[None]
    return "data:image/png;base64," + base64.b64encode(png_bytes(pixels)).decode("ascii")
