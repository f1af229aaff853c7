"""Text that UTF-8 cannot encode, and JSON that Python's parser cannot take back."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from pydistill._util.files import check_utf8, parse_json, read_json, write_text
from pydistill._util.tensor_file import open_tensors, write_tensors
from pydistill.errors import FormatError, InputError

NOT_UTF8 = "r\udcff"  # the byte 0xff, as Python decodes it in the name of a file


def test_a_path_that_is_not_utf8_is_refused_with_its_name_escaped(tmp_path: Path) -> None:
    check_utf8("größer/子")
    with pytest.raises(InputError) as refused:
        check_utf8(tmp_path / NOT_UTF8)
    assert "r\\udcff" in str(refused.value)
    with pytest.raises(InputError):
        write_tensors(tmp_path / NOT_UTF8 / "x.safetensors", "key", {"format": 1}, {"x": torch.zeros(1)})
    with pytest.raises(InputError), open_tensors(tmp_path / NOT_UTF8):
        pass
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    "text", ['{"a": %s}' % ("9" * 5000), '{"a": "\\ud800"}', '["\\uDFFF"]', '{"a": 1e999}', "[NaN]"]
)
def test_json_that_cannot_be_used_is_a_format_error(text: str, tmp_path: Path) -> None:
    (tmp_path / "x.json").write_text(text)
    with pytest.raises(FormatError):
        read_json(tmp_path / "x.json")


def test_pairs_of_surrogates_are_characters() -> None:
    assert parse_json('"\\ud83d\\ude00"') == "😀"


def test_text_that_utf8_cannot_encode_is_written_as_an_escape(tmp_path: Path) -> None:
    write_text(tmp_path / "x.html", "a\ud800b")
    assert (tmp_path / "x.html").read_text() == "a\\ud800b"
