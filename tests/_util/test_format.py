"""Times, sizes, counts and errors as text."""

from __future__ import annotations

import pytest

from pydistill._util.format import accuracy_of, counted, duration, first_line, networks, size


def test_durations() -> None:
    texts = [duration(seconds) for seconds in (0.0123, 0.9996, 3.44, 99.6, 600, 7800, 400_000)]
    assert texts == ["12.3 ms", "1 s", "3.44 s", "99.6 s", "10 min", "2 h 10 min", "4 d 15 h"]


def test_sizes() -> None:
    texts = [size(count) for count in (12_000, 3_400_000, 999_900_000, 5_600_000_000, 139_000_000_000)]
    assert texts == ["12 kB", "3.4 MB", "1 GB", "5.6 GB", "139 GB"]


def test_nouns_are_pluralised() -> None:
    assert [counted(count, "expert") for count in (0, 1, 2)] == ["0 experts", "1 expert", "2 experts"]
    assert [networks(count, "fresh") for count in (1, 5)] == ["1 fresh network", "5 fresh networks"]


def test_one_network_has_no_standard_deviation() -> None:
    assert (accuracy_of(0.149, 0.0, 1), networks(1), networks(1, "fresh")) == ("14.9 %", "1 network", "1 fresh network")
    assert (accuracy_of(0.6, 0.1, 2), networks(2, "fresh")) == ("60.0 ± 10.0 %", "2 fresh networks")


@pytest.mark.parametrize(
    ("error", "expected"),
    [
        (ValueError("the one\nthe other"), "the one"),
        (ValueError("\n \n  the one \nthe other\n"), "the one"),
        (ValueError(" \n"), "ValueError"),
        (KeyboardInterrupt(), "KeyboardInterrupt"),
    ],
)
def test_first_line_of_an_error(error: BaseException, expected: str) -> None:
    assert first_line(error) == expected
