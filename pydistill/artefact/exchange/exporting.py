"""Export a distilled set to other tools' files."""

from __future__ import annotations

import os
import secrets
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from torch import Tensor

from pydistill._util.files import WriteError, with_remedy
from pydistill.artefact.distilled_set import DistilledSet
from pydistill.artefact.exchange import dcbench, ddranking, imagefolder, manifest, mtt
from pydistill.artefact.exchange.published import readers_normalisation, same
from pydistill.artefact.file import Artefact
from pydistill.data import Normalise, Preprocessing, Zca
from pydistill.errors import InputError

_WRITERS = {
    "mtt": mtt.write,
    "dcbench": dcbench.write,
    "ddranking": ddranking.write,
    "imagefolder": imagefolder.write,
}
FORMATS = tuple(_WRITERS)


@dataclass(frozen=True)
class Exported:
    """The result of an export.

    Attributes:
        folder: the folder of the files.
        files: their paths.
        preprocessing: of the exported images; None if they are pixels.
        converted: whether it differs from the preprocessing of the set.
    """

    folder: Path
    files: tuple[Path, ...]
    preprocessing: Preprocessing | None
    converted: bool

    def description(self) -> str:
        """Describe the preprocessing of the exported images in words."""
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
        origin = "the statistics that readers of the format use" if self.converted else "the set's own statistics"
        return f"normalised with {origin}: mean {mean}, std {std}"


def export_set(
    distilled: DistilledSet | Artefact, form: str, out: str | os.PathLike[str], *, as_is: bool = False
) -> Exported:
    """Write a distilled set in another tool's format.

    pydistill normalises with statistics measured on the training images; other tools normalise test images with
    constants in their code. Images of the data sets with such constants are converted, x' = (pixels − mean') / std',
    so that networks are trained and tested in the same space. Whitened images stay whitened in `mtt` and `ddranking`,
    whose readers fit the same whitening. DC-BENCH's reader does not whiten: for `dcbench` they are normalised, or
    refused without constants. preprocessing.json records the result for `import_set`. A failed export leaves no
    files.

    Args:
        form: mtt, dcbench, ddranking or imagefolder.
        out: a new or empty folder; for dcbench its root ("distilled_results").
        as_is: write the set's images unchanged, bit for bit.

    Raises:
        InputError: the format does not exist or cannot hold the set, the folder is not empty, or whitened images are
            exported to DC-BENCH, which has no normalisation for their data set.
        WriteError: the folder cannot be written or the disk is full.
    """
    if form not in FORMATS:
        raise InputError(f"format must be one of {', '.join(FORMATS)}, not {form!r}")
    artefact = distilled.artefact if isinstance(distilled, DistilledSet) else distilled
    inside = dcbench.folder_of(artefact) if form == "dcbench" else "set"
    folder = Path(out, inside) if form == "dcbench" else Path(out)
    if folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
        raise InputError(f"{folder} is not empty; choose another folder")
    if form == "imagefolder" and as_is:
        raise InputError("an image folder holds pixels, so as_is does not apply; export the set as mtt or ddranking")
    images, preprocessing = _converted(artefact, form, as_is)
    with _all_or_nothing(folder, inside) as staging:
        files = _WRITERS[form](artefact, images.cpu().contiguous(), staging)
        if preprocessing is not None:
            files.append(manifest.write(preprocessing, files, staging))
    files = [folder / file.relative_to(staging) for file in files]
    return Exported(folder, tuple(files), preprocessing, preprocessing is not artefact.preprocessing)


@contextmanager
def _all_or_nothing(folder: Path, inside: str) -> Iterator[Path]:
    """Yield a temporary folder, and move its content to `folder` on a clean exit; on any error delete it.

    Args:
        inside: path of the yielded folder below the temporary one; DC-BENCH's writer depends on its last parts.
    """
    target = folder.resolve()
    temporary = target.with_name(f".{target.name}.{os.getpid()}-{secrets.token_hex(4)}.tmp")
    staging = temporary / inside
    try:
        yield staging
        if target.exists():  # empty, but not replaced, as it may be a working directory
            _move_all(staging, target)
        else:
            staging.rename(target)
    except WriteError as error:  # it names a file in the temporary folder
        raise type(error)(str(error).replace(str(staging), str(folder))) from error
    except OSError as error:
        raise WriteError(f"cannot write {folder}: {with_remedy(error)}") from error
    finally:
        shutil.rmtree(temporary, ignore_errors=True)


def _move_all(source: Path, target: Path) -> None:
    """Move the content of one folder into another; on any error move everything back."""
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
    """Return the images for the format, and their preprocessing."""
    if form == "imagefolder":
        return artefact.viewable(), None
    own = artefact.preprocessing
    theirs = readers_normalisation(str(artefact.provenance["dataset"].get("name", "")), form)
    if own.kind == "zca" and form == "dcbench" and theirs is None and not as_is:
        raise InputError(
            f"DC-BENCH's reader has neither whitening nor a normalisation of {artefact.provenance['dataset']['name']}; "
            "export the whitened set as mtt or ddranking, or as dcbench with as_is"
        )
    if as_is or theirs is None or (own.kind == "zca" and form != "dcbench") or same(own, theirs):
        return artefact.images, own
    return theirs.apply(own.invert(artefact.images)), theirs
