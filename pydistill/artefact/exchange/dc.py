"""Read the results of DC, DSA and DM (Zhao et al., 2021 to 2023): `main.py` and `main_DM.py`.

res_CIFAR10_ConvNet_10ipc.pt    {"data": [[images, labels], …], "accs_all_exps": …}, one pair per experiment;
                                images float32 [n, C, H, W], class-major, normalised; labels int64 [n]
"""

from __future__ import annotations

from pathlib import Path

from pydistill.artefact.exchange.tensors import ForeignSet, pair_of
from pydistill.errors import FormatError, InputError
from pydistill.trajectories.formats.common import listed, load_untrusted


def read(path: Path) -> ForeignSet:
    """Read the first experiment's set of a file, or of the only `res_*.pt` in a folder.

    Raises:
        InputError: the folder does not hold one such file.
        FormatError: the file is damaged or of another format.
    """
    files = sorted(path.glob("res_*.pt")) if path.is_dir() else [path]
    if len(files) != 1:
        raise InputError(f"{path} holds {len(files)} files res_*.pt; give the path of one")
    content = load_untrusted(files[0])
    if not isinstance(content, dict):
        raise FormatError(f"{files[0]} must hold the entries data and accs_all_exps")
    return pair_of(listed(content.get("data"), f"{files[0]}, data")[0], files[0])
