"""Read and write safetensors files with a JSON header and checksums.

Distilled sets, checkpoints, experts and cached data are such files. The header is one string in the metadata. Its last
entry, "sha256", is the SHA-256 of the header without that entry; "tensors" describes every tensor, with the SHA-256 of
its bytes. Checksums detect damage, not forgery.
"""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor

from pydistill._util.files import atomic_path, check_utf8, parse_json
from pydistill.errors import FormatError, InputError

_TENSORS = "tensors"
_CHECKSUM = "sha256"
_MAX_HEADER = 64 * 2**20
"""Maximum size of a header in bytes, so that a damaged length cannot exhaust the memory."""


class UnreadableError(FormatError):
    """A file that exists cannot be opened or read; its content may be intact."""


def write_tensors(
    path: str | os.PathLike[str],
    key: str,
    header: Mapping[str, Any],
    tensors: Mapping[str, Tensor],
    *,
    meanings: Mapping[str, str] | None = None,
) -> None:
    """Write tensors, and `header` as JSON under `key` of the file's metadata, atomically.

    The entry "tensors" of the JSON lists dtype, shape and SHA-256 of every tensor (of its bytes in the file: row by
    row, little-endian). The same header and tensors give the same file, byte for byte.

    Args:
        header: JSON-able values with an integer "format" and without "tensors" and "sha256".
        meanings: a description of the tensors by name, for other readers.

    Raises:
        InputError: the header is not JSON-able, or a value in it is not finite.
        WriteError: the folder cannot be written or the disk is full.
    """
    stored = _unshared(tensors)
    described = {
        name: _description(value) | ({"meaning": meanings[name]} if meanings and name in meanings else {})
        for name, value in stored.items()
    }
    try:
        text = _json({**header, _TENSORS: described})
    except (TypeError, ValueError) as error:
        raise InputError(f"the header of {path} cannot be written as JSON: {error}") from error
    signed = f'{text[:-1]}, "{_CHECKSUM}": "{_sha256(text.encode())}"}}'
    with atomic_path(path) as temporary:
        save_file(stored, temporary, metadata={key: signed})


def read_tensors(
    path: str | os.PathLike[str], key: str, version: int | Sequence[int], description: str
) -> tuple[dict[str, Any], dict[str, Tensor]]:
    """Read the header and the tensors that `write_tensors` wrote, and verify all checksums; runs no code.

    Args:
        version: the header's `format`, or those that are read.
        description: of the kind of file, for messages, such as "a checkpoint".

    Raises:
        FormatError: the file is damaged, of another kind, or of another format.
    """
    with open_tensors(path, description) as file:
        header, described = _header(file, key, version, path, description)
        tensors = {name: file.get_tensor(name).clone() for name in file.keys()}  # noqa: SIM118 (not a mapping)
    if described.keys() != tensors.keys():
        raise FormatError(f"{path} is damaged: it does not hold the tensors that its header lists")
    for name, value in tensors.items():
        listed = described[name] if isinstance(described[name], dict) else {}
        if any(listed.get(entry) != actual for entry, actual in _description(value).items()):
            raise FormatError(f"{path} is damaged: tensor {name} does not match its description in the header")
    return header, tensors


def read_header(path: str | os.PathLike[str], key: str, version: int, description: str) -> dict[str, Any]:
    """Read the header alone, as `read_tensors` does; damage to a tensor is not noticed."""
    with open_tensors(path, description) as file:
        return _header(file, key, version, path, description)[0]


@contextmanager
def open_tensors(path: str | os.PathLike[str], description: str = "a safetensors file") -> Iterator[Any]:
    """Open a safetensors file for reading single tensors or rows, as `safetensors.safe_open` does.

    Args:
        description: of the kind of file, for messages.

    Raises:
        FormatError: the file is missing or damaged; also for damage that shows while it is read.
        UnreadableError: it exists but cannot be opened or read.
        InputError: the path is not UTF-8.
    """
    check_utf8(path)
    try:
        with open(path, "rb") as file:  # safetensors reports every failure to open as a missing file
            length = int.from_bytes(file.read(8), "little")
        if length > _MAX_HEADER:
            raise FormatError(f"{path} is damaged: its header would have {length:,} bytes")
        with safe_open(os.fspath(path), framework="pt") as handle:
            yield handle
    except (SafetensorError, RuntimeError) as error:
        raise FormatError(f"{path} is damaged or not {description} ({error})") from error
    except FileNotFoundError as error:
        raise FormatError(f"{path} is missing") from error
    except OSError as error:
        raise UnreadableError(f"{path} cannot be read ({error.strerror or error})") from error


def tensor_sha256(tensor: Tensor) -> str:
    """Return the SHA-256 of a CPU tensor's elements, row by row, as 64 hexadecimal digits."""
    return _sha256(tensor.contiguous().reshape(-1).view(torch.uint8).numpy() if tensor.numel() else b"")


def _header(
    file: Any, key: str, version: int | Sequence[int], path: str | os.PathLike[str], description: str
) -> tuple[dict[str, Any], dict[str, Any]]:
    """Return the header without its last two entries, and the descriptions of the tensors."""
    text = (file.metadata() or {}).get(key)
    if text is None:
        raise FormatError(f"{path} is not {description} written by pydistill")
    try:
        header = parse_json(text)
        stored = header.get("format") if isinstance(header, dict) else None
        versions = [version] if isinstance(version, int) else version
        if stored not in versions or isinstance(stored, bool):
            listed = " and ".join(map(str, versions))
            raise FormatError(f"{path} has format {stored}; this version of pydistill reads {listed}")
        checksum = header.pop(_CHECKSUM, None)
        intact = checksum == _sha256(_json(header).encode())
    except FormatError:
        raise
    except (ValueError, RecursionError) as error:
        raise FormatError(f"{path} is damaged or not {description} ({error})") from error
    described = header.pop(_TENSORS, None)
    if not intact or not isinstance(described, dict):
        raise FormatError(f"{path} is damaged: its header does not match its SHA-256")
    return header, described


def _json(header: Mapping[str, Any]) -> str:
    """Serialise a header; parsing and serialising it again gives the same text."""
    return json.dumps(header, allow_nan=False)


def _unshared(tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Return the tensors on the CPU, contiguous and without shared memory, as safetensors requires."""
    stored: dict[str, Tensor] = {}
    memory: set[int] = set()
    for name, tensor in tensors.items():
        plain = tensor.detach().cpu().contiguous()
        stored[name] = plain.clone() if plain.untyped_storage().data_ptr() in memory else plain
        memory.add(plain.untyped_storage().data_ptr())
    return stored


def _description(value: Tensor) -> dict[str, Any]:
    return {
        "dtype": str(value.dtype).removeprefix("torch."),
        "shape": list(value.shape),
        "sha256": tensor_sha256(value),
    }


def _sha256(content: Any) -> str:
    return hashlib.sha256(content).hexdigest()
