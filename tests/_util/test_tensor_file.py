"""Tensor files round-trip, and damaged ones are refused."""

from __future__ import annotations

import json
import math
import os
import stat
from pathlib import Path

import pytest
import torch
from safetensors import safe_open
from safetensors.torch import save_file

from pydistill._util.tensor_file import read_header, read_tensors, write_tensors
from pydistill.errors import FormatError

HEADER = {"format": 1, "note": "ä"}
DTYPES = (torch.float32, torch.float64, torch.bfloat16, torch.int64, torch.uint8, torch.bool)


@pytest.mark.parametrize("umask", [0o022, 0o007])
def test_file_mode_follows_the_umask(umask: int, tmp_path: Path) -> None:
    before = os.umask(umask)
    try:
        write_tensors(tmp_path / "file", "key", HEADER, {"images": torch.ones(3)})
        write_tensors(tmp_path / "file", "key", HEADER, {"images": torch.ones(3)})  # over the first
    finally:
        os.umask(before)
    assert stat.S_IMODE((tmp_path / "file").stat().st_mode) == 0o666 & ~umask


def test_every_dtype_and_shape_round_trips(tmp_path: Path) -> None:
    tensors = {str(dtype): torch.ones(2, 3).to(dtype) for dtype in DTYPES}
    tensors |= {"empty": torch.zeros(0, 3), "number": torch.tensor(2.5), "transposed": torch.rand(3, 2).T}
    write_tensors(tmp_path / "file", "key", HEADER, tensors)
    header, loaded = read_tensors(tmp_path / "file", "key", 1, "a file")
    assert header == HEADER
    assert loaded.keys() == tensors.keys()
    assert all(
        loaded[name].dtype == value.dtype and torch.equal(loaded[name], value) for name, value in tensors.items()
    )


def test_equal_content_gives_equal_bytes(tmp_path: Path) -> None:
    header = HEADER | {"text": 'a "quoted" \\ line\n\x01\x7f and €'}
    for number in range(12):
        write_tensors(tmp_path / str(number), "key", header, {"images": torch.ones(3), "labels": torch.zeros(2, 2)})
    assert len({(tmp_path / str(number)).read_bytes() for number in range(12)}) == 1
    assert read_tensors(tmp_path / "0", "key", 1, "a file")[0] == header


def test_tensors_that_share_memory_round_trip(tmp_path: Path) -> None:
    labels = torch.arange(6)
    write_tensors(tmp_path / "file", "key", HEADER, {"labels": labels, "classes": labels, "part": labels[2:4]})
    _, loaded = read_tensors(tmp_path / "file", "key", 1, "a file")
    assert torch.equal(loaded["classes"], labels)
    assert torch.equal(loaded["part"], labels[2:4])


def test_header_with_a_missing_or_wrong_checksum_is_refused(tmp_path: Path) -> None:
    write_tensors(tmp_path / "file", "key", HEADER, {"images": torch.ones(3)})
    with safe_open(tmp_path / "file", framework="pt") as handle:
        signed = json.loads(handle.metadata()["key"])
    unsigned = {name: value for name, value in signed.items() if name != "sha256"}
    for header in (HEADER, unsigned, signed | {"note": "a"}, signed | {"sha256": ""}, signed | {"more": math.nan}):
        save_file({"images": torch.ones(3)}, tmp_path / "file", metadata={"key": json.dumps(header)})
        with pytest.raises(FormatError):
            read_tensors(tmp_path / "file", "key", 1, "a file")


def test_oversized_header_is_refused(tmp_path: Path) -> None:
    (tmp_path / "file").write_bytes((2**40).to_bytes(8, "little") + b"{}")
    with pytest.raises(FormatError):
        read_tensors(tmp_path / "file", "key", 1, "a file")


def test_link_is_replaced_and_its_target_unchanged(tmp_path: Path) -> None:
    (tmp_path / "target").write_text("precious")
    (tmp_path / "file").symlink_to(tmp_path / "target")
    write_tensors(tmp_path / "file", "key", HEADER, {"images": torch.ones(3)})
    assert (tmp_path / "target").read_text() == "precious"
    assert not (tmp_path / "file").is_symlink()


def test_changed_dtype_is_refused(tmp_path: Path) -> None:
    write_tensors(tmp_path / "file", "key", HEADER, {"images": torch.ones(3)})
    raw = (tmp_path / "file").read_bytes()
    (tmp_path / "file").write_bytes(raw.replace(b'"dtype":"F32"', b'"dtype":"I32"'))
    with pytest.raises(FormatError):
        read_tensors(tmp_path / "file", "key", 1, "a file")


@pytest.mark.parametrize("header", ["[]", "{}", '{"format": "1"}', '{"format": 1', "[" * 100_000, '{"format": null}'])
def test_invalid_header_is_refused(header: str, tmp_path: Path) -> None:
    save_file({"images": torch.ones(3)}, tmp_path / "file", metadata={"key": header})
    with pytest.raises(FormatError):
        read_tensors(tmp_path / "file", "key", 1, "a file")


def test_read_header(tmp_path: Path) -> None:
    """`read_header` checks the header as `read_tensors` does, and reads no tensor."""
    file = tmp_path / "file"
    write_tensors(file, "key", HEADER, {"images": torch.ones(3)})
    assert read_header(file, "key", 1, "a file") == read_tensors(file, "key", 1, "a file")[0]
    content = file.read_bytes()
    file.write_bytes(content[:-1] + b"\x7f")
    assert read_header(file, "key", 1, "a file") == HEADER
    with pytest.raises(FormatError):
        read_tensors(file, "key", 1, "a file")
    with pytest.raises(FormatError, match="format 1"):
        read_header(file, "key", 2, "a file")
    file.write_bytes(content.replace(b'\\"format\\": 1', b'\\"Format\\": 1'))
    with pytest.raises(FormatError):
        read_header(file, "key", 1, "a file")
    file.write_bytes(content[:-1])
    with pytest.raises(FormatError):
        read_header(file, "key", 1, "a file")
