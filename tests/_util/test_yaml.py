"""YAML's plain values: those of YAML 1.2, and nothing that has two meanings."""

from __future__ import annotations

import json
import math
from typing import Any

import pytest

pytest.importorskip("yaml")

from pydistill._util.yaml import plain_yaml, yaml_text


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("010", 10),
        ("-7", -7),
        ("+7", 7),
        ("0o17", 15),
        ("0x1F", 31),
        ("1:30", "1:30"),
        ("1:30.5", "1:30.5"),
        ("0b11", "0b11"),
        ("1_000", "1_000"),
        ("1e-7", 1e-7),
        ("1.", 1.0),
        (".5", 0.5),
        ("-2.5E3", -2500.0),
        ("-.inf", -math.inf),
        ("true", True),
        ("FALSE", False),
        ("on", "on"),
        ("Yes", "Yes"),
        ("off", "off"),
        ("n", "n"),
        ("null", None),
        ("~", None),
        ("", None),
        ("'010'", "010"),
    ],
)
def test_plain_values(text: str, value: Any) -> None:
    (found,) = plain_yaml(f"- {text}")
    assert found == value
    assert type(found) is type(value)


@pytest.mark.parametrize("text", ["a: 1\nb: 2\na: 1", '{"a": 1,\n"b": 2,\n"a": 3}', "c:\n  a: 1\n  'a': 2"])
def test_a_name_given_twice(text: str) -> None:
    with pytest.raises(ValueError, match="line 3 gives a name that was given before; keep one"):
        plain_yaml(text)


def test_the_same_name_in_two_places() -> None:
    assert plain_yaml("a: {c: 1}\nb: {c: 2}") == {"a": {"c": 1}, "b": {"c": 2}}


def test_tags() -> None:
    for text in ("a: !!int '1:30'", "a: !!python/name:os.system x", "a: !own {b: 1}"):
        with pytest.raises(ValueError, match="line 1 has a tag"):
            plain_yaml(text)


def test_what_no_setting_is() -> None:
    for text in ("a: 2020-01-01", "1: 2", "true: 1", "? [1, 2]\n: 3", "? {a: b}\n: 3"):
        with pytest.raises(ValueError, match=r"it holds a date|name is a|line 1 has a name that is no text"):
            plain_yaml(text)


def test_json_is_read_as_it_is() -> None:
    value = {"a": [1, -2.5, 1e-7, 1e22, True, None, "on", "010"], "b": {"c": {}}, "d": []}
    assert plain_yaml(json.dumps(value, indent=1)) == value


def test_what_is_written_is_read_as_it_was() -> None:
    texts = [
        "1e5",
        "010",
        "0o17",
        "1:30",
        "yes",
        "null",
        "~",
        "",
        "2020-01-01",
        "a: b",
        " a",
        "ä 猫",
        "x\ny",
        "w " * 80,
    ]
    value = {"a": [1, -2.5, 1e-7, 1e22, math.inf, True, None], "b": {"c": {}}, "d": [], "e": texts}
    assert plain_yaml(yaml_text(value)) == value
    assert [type(each) for each in plain_yaml(yaml_text(value))["a"]] == [type(each) for each in value["a"]]
    yaml = pytest.importorskip("yaml")
    assert yaml.safe_load(yaml_text(value)) == value
