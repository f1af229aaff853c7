"""A safetensors file with a JSON header and checksums: how a distilled set and a checkpoint lie on disk."""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Collection, Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor

from pydistill._util.files import atomic_path
from pydistill.errors import FormatError, InputError

TENSORS = "tensors"
CHECKSUM = ".sha256"
METADATA = "__metadata__"  # its name in a safetensors file


def write_tensors(
    path: str | os.PathLike[str],
    key: str,
    header: Mapping[str, Any],
    tensors: Mapping[str, Tensor],
    *,
    meanings: Mapping[str, str] | None = None,
) -> None:
    """Write tensors, and `header` as JSON under `key` of the file's metadata, atomically.

    The JSON also holds, under "tensors", dtype, shape and SHA-256 of every tensor (of its bytes in the file: row by
    row, little-endian), and what it means; the SHA-256 of the JSON itself lies beside it under `key`.sha256. The same
    header and tensors give the same file, byte for byte.

    Args:
        header: JSON-able values, of which none is called "tensors".
        meanings: what the tensors are, by name, for readers.

    Raises:
        InputError: the header is not JSON-able: a value of it is not finite, or something else than JSON has.
        WriteError: the folder cannot be written or the disk is full.
    """
    # safetensors refuses tensors that share memory, as hard labels and classes may
    plain = {name: value.detach().cpu().contiguous().clone() for name, value in tensors.items()}
    told = {
        name: _described(value) | ({"meaning": meanings[name]} if meanings and name in meanings else {})
        for name, value in plain.items()
    }
    try:
        text = json.dumps({**header, TENSORS: told}, ensure_ascii=False, allow_nan=False)
    except (TypeError, ValueError) as error:
        raise InputError(f"the header of {path} cannot be written as JSON: {error}") from error
    with atomic_path(path) as temporary:
        save_file(plain, temporary, metadata={key: text, key + CHECKSUM: _sha256(text.encode())})
        _order_metadata(temporary)


def _order_metadata(path: Path) -> None:
    """Sort the texts of a safetensors file's metadata, which safetensors writes in an order of chance."""
    with open(path, "rb+") as handle:
        length = int.from_bytes(handle.read(8), "little")
        listed = json.loads(handle.read(length))
        listed = {METADATA: dict(sorted(listed.pop(METADATA).items()))} | listed
        told = json.dumps(listed, ensure_ascii=False, separators=(",", ":")).encode()
        if len(told) > length:
            raise RuntimeError(f"a header of {length} bytes became one of {len(told)} when it was sorted")
        handle.seek(8)
        handle.write(told.ljust(length))  # with spaces, as safetensors aligns the tensors


def read_tensors(
    path: str | os.PathLike[str],
    key: str,
    version: int | Collection[int],
    what: str,
    *,
    unchecked: Collection[int] = (),
) -> tuple[dict[str, Any], dict[str, Tensor]]:
    """The header and the tensors that `write_tensors` wrote; nothing in the file is executed.

    Checksums are verified.

    Args:
        unchecked: those versions whose files may be without any checksum.

    Raises:
        FormatError: the file is damaged, not `what` (for the message), or its header's `format` is not `version`.
    """
    header, tensors, checked = _read(path, key, version, what, unchecked)
    if not checked:
        return header, tensors
    told = header.pop(TENSORS, None)
    if not isinstance(told, dict) or told.keys() != tensors.keys():
        raise FormatError(f"{path} is damaged: it does not hold the tensors that its header lists")
    for name, value in tensors.items():
        listed = told[name] if isinstance(told[name], dict) else {}
        if any(listed.get(fact) != found for fact, found in _described(value).items()):
            raise FormatError(f"{path} is damaged: tensor {name} is not the one that was written")
    return header, tensors


def read_header(
    path: str | os.PathLike[str],
    key: str,
    version: int | Collection[int],
    what: str,
    *,
    unchecked: Collection[int] = (),
) -> dict[str, Any]:
    """The header alone, as `read_tensors` gives it; damage to a tensor is not seen.

    Raises:
        FormatError: as `read_tensors`.
    """
    header, _, _ = _read(path, key, version, what, unchecked, tensors_too=False)
    header.pop(TENSORS, None)
    return header


def _read(
    path: str | os.PathLike[str],
    key: str,
    version: int | Collection[int],
    what: str,
    unchecked: Collection[int],
    *,
    tensors_too: bool = True,
) -> tuple[dict[str, Any], dict[str, Tensor], bool]:
    """The header as it lies in the file, the tensors if they are wanted, and whether they have checksums."""
    try:
        open(path, "rb").close()  # safetensors tells of no file whatever hinders it
    except OSError as error:
        raise FormatError(f"{path} cannot be read ({error.strerror})") from error
    try:
        with safe_open(os.fspath(path), framework="pt") as handle:
            metadata = handle.metadata() or {}
            header = json.loads(metadata[key])
            names = handle.keys() if tensors_too else ()
            tensors = {name: handle.get_tensor(name).clone() for name in names}
    except (SafetensorError, KeyError, ValueError, RecursionError, RuntimeError, OSError) as error:
        raise FormatError(f"{path} is damaged or not {what} of pydistill's ({error})") from error
    versions = (version,) if isinstance(version, int) else version
    found = header.get("format") if isinstance(header, dict) else None
    if not isinstance(found, int) or found not in versions:
        raise FormatError(
            f"{path} has format {found}; this version of pydistill reads {' and '.join(map(str, sorted(versions)))}"
        )
    checksum = metadata.get(key + CHECKSUM)
    if checksum is None and TENSORS not in header and found in unchecked:
        return header, tensors, False
    if checksum != _sha256(metadata[key].encode()):
        raise FormatError(f"{path} is damaged: its header does not have the SHA-256 that was written with it")
    return header, tensors, True


def _described(value: Tensor) -> dict[str, Any]:
    data = value.reshape(-1).view(torch.uint8).numpy() if value.numel() else b""
    return {
        "dtype": str(value.dtype).removeprefix("torch."),
        "shape": list(value.shape),
        "sha256": _sha256(data),
    }


def _sha256(data: Any) -> str:
    return hashlib.sha256(data).hexdigest()
