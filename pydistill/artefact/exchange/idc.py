"""Read the results of IDC (Kim et al., ICML 2022): `condense.py`.

data.pt     [images, labels]: float32 [n, C, H, W], class-major, pixels that are not normalised; int64 [n]
args.txt    the run's arguments as JSON, of which `factor` is needed
"""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import torch
from torch import Tensor
from torch.nn import functional

from pydistill._util.files import read_json
from pydistill.artefact.exchange.tensors import ForeignSet, pair_of
from pydistill.errors import FormatError, InputError
from pydistill.trajectories.formats.common import load_untrusted


def read(path: Path) -> ForeignSet:
    """Read the set of a folder with data.pt and args.txt, or of such a file beside args.txt.

    A stored image of factor f holds f² small ones, which are enlarged to its size: the set has f² times as many images.

    Raises:
        InputError: args.txt is missing, or the images are decoded in a way that is not implemented.
        FormatError: a file is damaged or of another format.
    """
    file = path / "data.pt" if path.is_dir() else path
    stored = pair_of(load_untrusted(file), file, in_pixels=True)
    arguments = file.with_name("args.txt")
    if not arguments.is_file():
        raise InputError(f'{arguments} is missing; put it back, or write the set\'s factor into it, as {{"factor": 2}}')
    values = read_json(arguments)
    factor = values.get("factor") if isinstance(values, dict) else None
    if type(factor) is not int or not 1 <= factor <= min(stored.images.shape[2:]):
        raise FormatError(f"{arguments} must have a factor from 1 to the side of the images, not {factor!r}")
    decoding = values.get("decode_type", "single")
    if factor > 1 and decoding != "single":
        raise InputError(f"{arguments} has decode_type {decoding!r}, which is not implemented; decode the images first")
    return replace(stored, images=_decoded(stored.images, factor), labels=stored.labels.repeat_interleave(factor**2, 0))


def _decoded(images: Tensor, factor: int) -> Tensor:
    """Cut images [n, C, H, W] into factor² parts, enlarged bilinearly to [n · factor², C, H, W]."""
    height, width = images.shape[2:]
    padded = functional.pad(images, (0, -width % factor, 0, -height % factor), value=0.5)
    rows = (part for row in padded.chunk(factor, dim=2) for part in row.chunk(factor, dim=3))
    parts = torch.stack(list(rows), dim=1).flatten(0, 1)  # the parts of an image follow each other
    return functional.interpolate(parts, size=(height, width), mode="bilinear")
