"""Tensor files: what is written comes back, earlier files are read, damage is told."""

from __future__ import annotations

import json
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
KINDS = (torch.float32, torch.float64, torch.bfloat16, torch.int64, torch.uint8, torch.bool)


@pytest.mark.parametrize("umask", [0o022, 0o007])
def test_a_file_has_the_umask_s_mode(umask: int, tmp_path: Path) -> None:
    before = os.umask(umask)
    try:
        write_tensors(tmp_path / "file", "key", HEADER, {"images": torch.ones(3)})
        write_tensors(tmp_path / "file", "key", HEADER, {"images": torch.ones(3)})  # over the first
    finally:
        os.umask(before)
    assert stat.S_IMODE((tmp_path / "file").stat().st_mode) == 0o666 & ~umask


def test_every_kind_and_shape_comes_back(tmp_path: Path) -> None:
    tensors = {str(kind): torch.ones(2, 3).to(kind) for kind in KINDS}
    tensors |= {"empty": torch.zeros(0, 3), "number": torch.tensor(2.5), "turned": torch.rand(3, 2).T}
    write_tensors(tmp_path / "file", "key", HEADER, tensors)
    header, found = read_tensors(tmp_path / "file", "key", 1, "a file")
    assert header == HEADER
    assert found.keys() == tensors.keys()
    assert all(found[name].dtype == value.dtype and torch.equal(found[name], value) for name, value in tensors.items())


def test_the_same_is_written_as_the_same_bytes(tmp_path: Path) -> None:
    header = HEADER | {"text": 'a "quoted" \\ line\n\x01\x7f and €'}
    for number in range(12):
        write_tensors(tmp_path / str(number), "key", header, {"images": torch.ones(3), "labels": torch.zeros(2, 2)})
    assert len({(tmp_path / str(number)).read_bytes() for number in range(12)}) == 1
    assert read_tensors(tmp_path / "0", "key", 1, "a file")[0] == header


def test_a_file_without_checksums_is_read(tmp_path: Path) -> None:
    """As earlier versions wrote checkpoints."""
    save_file({"images": torch.ones(3)}, tmp_path / "file", metadata={"key": json.dumps(HEADER)})
    header, found = read_tensors(tmp_path / "file", "key", (1, 2), "a file", unchecked=(1,))
    assert header == HEADER
    assert torch.equal(found["images"], torch.ones(3))
    with pytest.raises(FormatError, match="its header does not have the SHA-256"):
        read_tensors(tmp_path / "file", "key", (1, 2), "a file")
    save_file({"images": torch.ones(3)}, tmp_path / "file", metadata={"key": json.dumps(HEADER | {"format": 2})})
    with pytest.raises(FormatError, match="its header does not have the SHA-256"):
        read_tensors(tmp_path / "file", "key", (1, 2), "a file", unchecked=(1,))


def test_a_checksum_cannot_be_left_out(tmp_path: Path) -> None:
    write_tensors(tmp_path / "file", "key", HEADER, {"images": torch.ones(3)})
    with safe_open(tmp_path / "file", framework="pt") as handle:
        metadata = handle.metadata()
    for name, value in (("key", json.dumps(HEADER)), ("key.sha256", "")):
        save_file({"images": torch.ones(3)}, tmp_path / "file", metadata=metadata | {name: value})
        with pytest.raises(FormatError, match="its header does not have the SHA-256 that was written with it"):
            read_tensors(tmp_path / "file", "key", 1, "a file", unchecked=(1,))
    save_file({"images": torch.ones(3)}, tmp_path / "file", metadata={"key": metadata["key"]})
    with pytest.raises(FormatError, match="its header does not have the SHA-256"):
        read_tensors(tmp_path / "file", "key", 1, "a file", unchecked=(1,))


def test_another_kind_of_number_with_the_same_bytes_is_told(tmp_path: Path) -> None:
    write_tensors(tmp_path / "file", "key", HEADER, {"images": torch.ones(3)})
    raw = (tmp_path / "file").read_bytes()
    (tmp_path / "file").write_bytes(raw.replace(b'"dtype":"F32"', b'"dtype":"I32"'))
    with pytest.raises(FormatError, match="tensor images is not the one that was written"):
        read_tensors(tmp_path / "file", "key", 1, "a file")


@pytest.mark.parametrize("header", ["[]", "{}", '{"format": "1"}', '{"format": 1', "[" * 100_000, '{"format": null}'])
def test_headers_that_are_none(header: str, tmp_path: Path) -> None:
    save_file({"images": torch.ones(3)}, tmp_path / "file", metadata={"key": header})
    with pytest.raises(FormatError, match=r"file (is damaged or not a file of|has format)"):
        read_tensors(tmp_path / "file", "key", 1, "a file")


def test_the_header_alone(tmp_path: Path) -> None:
    """It is that of the whole file, checked as there, and no tensor is looked at."""
    file = tmp_path / "file"
    write_tensors(file, "key", HEADER, {"images": torch.ones(3)})
    assert read_header(file, "key", 1, "a file") == read_tensors(file, "key", 1, "a file")[0]
    whole = file.read_bytes()
    file.write_bytes(whole[:-1] + b"\x7f")
    assert read_header(file, "key", 1, "a file") == HEADER
    with pytest.raises(FormatError, match="tensor images is not the one that was written"):
        read_tensors(file, "key", 1, "a file")
    with pytest.raises(FormatError, match="has format 1; this version of pydistill reads 2"):
        read_header(file, "key", 2, "a file")
    file.write_bytes(whole.replace(b'\\"format\\": 1', b'\\"Format\\": 1'))
    with pytest.raises(FormatError, match="has format None"):
        read_header(file, "key", 1, "a file")
    file.write_bytes(whole[:-1])
    with pytest.raises(FormatError, match="file is damaged or not a file of pydistill's"):
        read_header(file, "key", 1, "a file")
