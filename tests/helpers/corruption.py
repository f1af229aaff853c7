"""Damaged and hostile variants of files: what a disk, a careless hand or an attacker may make of them."""

from __future__ import annotations

import hashlib
import io
import json
import math
import os
import pickle
import struct
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from hypothesis import strategies as st

Corruption = Callable[[bytes], bytes]

ODD: tuple[Any, ...] = (
    None, True, -1, 0, 1, 2**31, 2**63, 10**40, 1e308, -0.5, math.nan, math.inf, "", "x", "../../escaped",
    "/etc/passwd", "fuzz_marker:make", "é\u0000", "9" * 400, [], {}, [[]], [None], {"": 0}, [1, [2, {"a": []}]],
    [0] * 1000,
)  # fmt: skip


class Running:
    """Pickles as code: loading it would write a file."""

    def __init__(self, canary: Path) -> None:
        self.canary = canary

    def __reduce__(self) -> Any:
        return (os.system, (f"touch {self.canary}",))


def hostile_files(canary: Path) -> list[bytes]:
    """Files that would run code, need all of a machine's memory, or are nothing at all."""
    contents = [b"", b"\0", b"\xff" * 64, b"PK\x03\x04" + b"\0" * 60, b"{" * 5000, b"[" * 200_000, b"null", b'{"a": 1}']
    contents.append(pickle.dumps(Running(canary)))
    contents.append(pickle.dumps([Running(canary)], protocol=4))
    for value in (
        Running(canary),
        [[Running(canary)]],
        torch.zeros(1).expand(2**40),
        [[[torch.zeros(1).expand(2**40)]]],
        [[[torch.zeros(0)], [torch.zeros(0)]]],
        torch.eye(3).to_sparse(),
        [torch.zeros(2, dtype=torch.complex64)],
        {"a": torch.zeros(2)},
        torch.full((4, 1, 8, 8), math.nan),
        torch.zeros(0, 1, 8, 8),
        torch.zeros(4, dtype=torch.int64) - 1,
        math.nan,
    ):
        buffer = io.BytesIO()
        torch.save(value, buffer)
        contents.append(buffer.getvalue())
    for length in (0, 1, 2**40, 2**63):
        contents.append(struct.pack("<Q", length) + b"{}")
    header = json.dumps({"a": {"dtype": "F32", "shape": [2**40], "data_offsets": [0, 2**42]}}).encode()
    contents.append(struct.pack("<Q", len(header)) + header + b"\0" * 16)
    return contents


def damages() -> st.SearchStrategy[Corruption]:
    """Draw damages as of a disk: checksums in the file are not adapted."""
    place = st.floats(0, 1, exclude_max=True)
    flips = st.lists(st.tuples(place, st.integers(0, 7)), min_size=1, max_size=6).map(_flip)
    cut = place.map(lambda at: lambda content: content[: int(at * len(content))])
    swap = st.tuples(place, place, st.integers(1, 64)).map(_swap)
    put = st.tuples(place, st.binary(min_size=1, max_size=16)).map(_put)
    return st.one_of(flips, cut, swap, put)


def corruptions(canary: Path) -> st.SearchStrategy[Corruption]:
    """Any corruption of a file's bytes."""
    other = st.sampled_from(hostile_files(canary)).map(lambda instead: lambda content: instead)
    values = st.tuples(st.integers(0, 10**6), st.sampled_from(ODD), st.booleans()).map(_odd_value)
    damage = damages()
    return st.one_of(values, values, values, damage, damage, damage, damage, other)


def _flip(places: list[tuple[float, int]]) -> Corruption:
    def corrupt(content: bytes) -> bytes:
        changed = bytearray(content)
        for place, bit in places:
            if changed:
                changed[int(place * len(changed))] ^= 1 << bit
        return bytes(changed)

    return corrupt


def _swap(values: tuple[float, float, int]) -> Corruption:
    def corrupt(content: bytes) -> bytes:
        first, second = sorted(int(place * len(content)) for place in values[:2])
        size = min(values[2], second - first)
        one, two = content[first : first + size], content[second : second + size]
        return content[:first] + two + content[first + size : second] + one + content[second + size :]

    return corrupt


def _put(values: tuple[float, bytes]) -> Corruption:
    place, inserted = values
    return lambda content: content[: int(place * len(content))] + inserted + content[int(place * len(content)) :]


def _odd_value(values: tuple[int, Any, bool]) -> Corruption:
    """Put an odd value somewhere into the JSON that the file is, or that is in it; checksums are made to fit."""
    number, value, remove = values

    def corrupt(content: bytes) -> bytes:
        if content[:1] == b"{" and b"\n{" in content:  # lines
            lines = content.splitlines()
            lines[number % len(lines)] = _changed(lines[number % len(lines)], number // len(lines), value, remove)
            return b"\n".join(lines) + b"\n"
        if content[:1] in (b"{", b"["):
            return _changed(content, number, value, remove)
        if len(content) > 8 and content[8:9] == b"{":
            return _safetensors(content, number, value, remove)
        return content[: number % (len(content) + 1)]

    return corrupt


def _changed(text: bytes, number: int, value: Any, remove: bool) -> bytes:
    try:
        tree = json.loads(text)
    except ValueError:
        return text[: number % (len(text) + 1)]
    places = list(_places(tree))
    if not places:
        return json.dumps(value).encode()
    holder, key = places[number % len(places)]
    if remove:
        del holder[key]
    else:
        holder[key] = value
    return json.dumps(tree).encode()


def _places(tree: Any) -> Any:
    items = tree.items() if isinstance(tree, dict) else enumerate(tree) if isinstance(tree, list) else ()
    for key, item in list(items):
        yield tree, key
        yield from _places(item)


def _safetensors(content: bytes, number: int, value: Any, remove: bool) -> bytes:
    """A safetensors file with its header changed, or the JSON in the header's metadata, signed again."""
    (length,) = struct.unpack("<Q", content[:8])
    header = json.loads(content[8 : 8 + length])
    metadata = header.get("__metadata__", {})
    keys = [key for key in metadata if metadata[key][:1] == "{"]
    if keys and number % 4:
        unsigned = {name: item for name, item in json.loads(metadata[keys[0]]).items() if name != "sha256"}
        text = _changed(json.dumps(unsigned).encode(), number // 4, value, remove)
        changed = json.loads(text)
        if isinstance(changed, dict):
            changed["sha256"] = hashlib.sha256(json.dumps(changed).encode()).hexdigest()
        metadata[keys[0]] = json.dumps(changed)
        text = json.dumps(header).encode()
    else:
        text = _changed(json.dumps(header).encode(), number // 4, value, remove)
    return struct.pack("<Q", len(text)) + text + content[8 + length :]
