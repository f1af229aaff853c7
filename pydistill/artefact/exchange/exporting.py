"""From a distilled set to other tools' files."""

from __future__ import annotations

import os
import secrets
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor

from pydistill._util.files import WriteError, told_with_remedy
from pydistill.artefact.distilled_set import DistilledSet
from pydistill.artefact.exchange import dcbench, ddranking, imagefolder, mtt
from pydistill.artefact.exchange import manifest as told
from pydistill.artefact.exchange.published import readers_normalisation
from pydistill.artefact.file import Artefact
from pydistill.data import Normalise, Preprocessing, Zca
from pydistill.errors import InputError

FORMATS = ("mtt", "dcbench", "ddranking", "imagefolder")
_WRITERS = {
    "mtt": mtt.write,
    "dcbench": dcbench.write,
    "ddranking": ddranking.write,
    "imagefolder": imagefolder.write,
}


@dataclass(frozen=True)
class Exported:
    """What an export wrote.

    Attributes:
        folder: where the files are.
        files: their paths.
        preprocessing: what made the exported images of pixels; None: they are pixels.
        converted: whether that is not the set's own preprocessing.
    """

    folder: Path
    files: tuple[Path, ...]
    preprocessing: Preprocessing | None
    converted: bool

    def told(self) -> str:
        """What the exported images are, in words."""
        if self.preprocessing is None:
            return "8-bit pixels"
        if isinstance(self.preprocessing, Zca):
            fitted = ", fitted on training images in [0, 1]" if self.preprocessing.source else ""
            return f"whitened by the set's own ZCA (eps {self.preprocessing.eps:g}{fitted})"
        if not isinstance(self.preprocessing, Normalise):
            return f"preprocessed as the set has it ({self.preprocessing.kind})"
        mean, std = (
            "[" + ", ".join(f"{value:.4g}" for value in numbers.tolist()) + "]"
            for numbers in (self.preprocessing.mean, self.preprocessing.std)
        )
        whose = "the statistics that readers of the format use" if self.converted else "the set's own statistics"
        return f"normalised with {whose}: mean {mean}, std {std}"


def export_set(
    distilled: DistilledSet | Artefact, form: str, out: str | os.PathLike[str], *, as_is: bool = False
) -> Exported:
    """Write a distilled set in another tool's format.

    pydistill normalises with statistics measured on the training images; other tools normalise their test images with
    constants of their own. So that a network trained on the exported images sees test images in the same space, the
    images are converted to these constants, where they are known: x' = (pixels − mean') / std'. Whitened images stay
    whitened in `mtt` and `ddranking`, whose readers fit the same whitening, and become normalised ones in `dcbench`,
    whose reader has none; where its constants are not known, they are refused. What the images are is written beside
    them (preprocessing.json), for `import_set`. An export that fails leaves nothing.

    Args:
        form: mtt, dcbench, ddranking or imagefolder.
        out: a folder to write into; for dcbench its root ("distilled_results").
        as_is: leave the images as the set has them, bit for bit.

    Raises:
        InputError: no such format, the set does not fit into it, or the folder already holds something; whitened images
            for DC-BENCH of a data set whose normalisation it is not known to have.
        WriteError: the folder cannot be written or the disk is full.
    """
    if form not in FORMATS:
        raise InputError(f"format must be one of {', '.join(FORMATS)}, not {form!r}")
    artefact = distilled.artefact if isinstance(distilled, DistilledSet) else distilled
    folder = Path(out)
    if form == "dcbench":
        folder = folder / dcbench.folder_of(artefact)
    if folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
        raise InputError(f"{folder} already holds something; choose another folder")
    if form == "imagefolder" and as_is:
        raise InputError("an image folder holds pixels, so as_is is not to be had; export the set as mtt or ddranking")
    images, preprocessing = _converted(artefact, form, as_is)
    inside = dcbench.folder_of(artefact) if form == "dcbench" else "set"
    with _whole(folder, inside) as staging:
        files = _WRITERS[form](artefact, images.cpu().contiguous(), staging)
        if preprocessing is not None:
            files.append(told.write(preprocessing, files, staging))
    files = [folder / file.relative_to(staging) for file in files]
    return Exported(folder, tuple(files), preprocessing, preprocessing is not artefact.preprocessing)


@contextmanager
def _whole(folder: Path, inside: str) -> Iterator[Path]:
    """Give a folder `inside` a temporary one beside `folder`; on a clean exit its content is in `folder`, on any error
    nothing is, so that the export can be repeated."""
    target = folder.resolve()
    temporary = target.with_name(f".{target.name}.{os.getpid()}-{secrets.token_hex(4)}.tmp")
    staging = temporary / inside
    try:
        yield staging
        if target.exists():  # empty; it may be somebody's current folder, so it stays itself
            _move_all(staging, target)
        else:
            staging.rename(target)
    except WriteError as error:  # of a file in the temporary folder, which is of no use to who gave `folder`
        raise type(error)(str(error).replace(str(staging), str(folder))) from error
    except OSError as error:
        raise WriteError(f"cannot write {folder}: {told_with_remedy(error)}") from error
    finally:
        shutil.rmtree(temporary, ignore_errors=True)


def _move_all(source: Path, target: Path) -> None:
    """Move what a folder holds into another; on any error all of it is back where it was."""
    moved: list[Path] = []
    try:
        for path in sorted(source.iterdir()):
            path.rename(target / path.name)
            moved.append(path)
    except BaseException:
        for path in moved:
            (target / path.name).rename(path)
        raise


def _converted(artefact: Artefact, form: str, as_is: bool) -> tuple[Tensor, Preprocessing | None]:
    """The images as the format has them, and what made them of pixels."""
    if form == "imagefolder":
        return artefact.viewable(), None
    own = artefact.preprocessing
    wanted = readers_normalisation(str(artefact.provenance["dataset"].get("name", "")), form)
    if own.kind == "zca" and form == "dcbench" and wanted is None and not as_is:
        raise InputError(
            f"DC-BENCH's reader knows no whitening, and its normalisation of {artefact.provenance['dataset']['name']} "
            "is not known; export the whitened set as mtt or ddranking, or as dcbench as it is"
        )
    if as_is or wanted is None or (own.kind == "zca" and form != "dcbench") or _same(own, wanted):
        return artefact.images, own
    return wanted.apply(own.invert(artefact.images)), wanted


def _same(own: Preprocessing, wanted: Normalise) -> bool:
    """Whether the set has the readers' numbers already: its images stay as they are, to the bit."""
    return isinstance(own, Normalise) and all(
        torch.equal(mine.cpu(), theirs) for mine, theirs in ((own.mean, wanted.mean), (own.std, wanted.std))
    )
