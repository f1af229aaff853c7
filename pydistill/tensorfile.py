"""A safetensors file with a JSON header: how a distilled set and a checkpoint lie on disk."""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from typing import Any

from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor

from pydistill.errors import FormatError
from pydistill.files import atomic_path


def write_tensors(
    path: str | os.PathLike[str], key: str, header: Mapping[str, Any], tensors: Mapping[str, Tensor]
) -> None:
    """Write tensors, and `header` as JSON under `key` of the file's metadata, atomically.

    Raises:
        WriteError: the folder cannot be written or the disk is full.
    """
    # safetensors refuses tensors that share memory, as hard labels and classes may
    plain = {name: value.detach().cpu().contiguous().clone() for name, value in tensors.items()}
    with atomic_path(path) as temporary:
        save_file(plain, temporary, metadata={key: json.dumps(header)})


def read_tensors(
    path: str | os.PathLike[str], key: str, version: int, what: str
) -> tuple[dict[str, Any], dict[str, Tensor]]:
    """The header and the tensors that `write_tensors` wrote; nothing in the file is executed.

    Raises:
        FormatError: the file is damaged, not `what` (for the message), or its header's `format` is not `version`.
    """
    try:
        with safe_open(os.fspath(path), framework="pt") as handle:
            header = json.loads((handle.metadata() or {})[key])
            tensors = {name: handle.get_tensor(name) for name in handle.keys()}  # noqa: SIM118
    except (SafetensorError, KeyError, json.JSONDecodeError, OSError) as error:
        raise FormatError(f"{path} is damaged or not {what} of pydistill's ({error})") from error
    found = header.get("format") if isinstance(header, dict) else None
    if found != version:
        raise FormatError(f"{path} has format {found}; this version of pydistill reads {version}")
    return header, tensors
